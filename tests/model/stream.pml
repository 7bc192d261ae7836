/* stream.pml: streaming, with K < B slots and a ring of K log entries.
 *
 * Covers publishing record by record behind the line, asynchronous gathers whose host functions tell when they have
 * finished, joining at any moment, reading behind `completed`, giving up and coming back, staying behind a deadline,
 * leaving behind a version, abort at any record, crashes of either side, and a successor under the same name, which is a
 * new instance. Store buffers (as on x86) on `cursor` and `oldest`. Waits go through the wake words and have no slice of
 * 100 ms: a lost wake is a deadlock here.
 * Record n is in slot and entry n mod K; version v owns records (v-1)B+1 to vB.
 *
 * Knobs: -DB=n buckets (3)  -DK=n slots (2)  -DNV=n versions of the first publisher (2)  -DNV2=n of its successor (1)
 *        -DNSUB=n subscribers (1)  -DCRASHES=n processes that die (1)  -DLIVES=2 a successor after death or close
 *        -DREQ=n publish() waits for n subscribers  -DNOGU nobody gives up  -DNOABORT nothing is aborted
 *        -DFIRST only the first publisher dies
 *        -DHANDOVER the successor starts when the subscriber has left (the two share no word; line.pml lets them overlap)
 *
 * Mutants (each must fail):
 *   M_NOSF       no fence in Subscriber::join          M_NOPF      no fence in LogWriter::retire
 *   M_LATE       `oldest` stored after the cursors were read
 *   M_BURN       LogWriter::burn does not order `oldest` before the next look at the cursors
 *   M_GM1        the line one record too low           M_NOMAX     `oldest` goes back
 *   M_JOINMID    a join in the middle of a version     M_CUR       the cursor moves before the copy is made
 *   M_ORDER      `completed` read before `oldest`      M_EARLY     a record is read because its entry is there
 *   M_ENTRY_LATE the entry written behind the host function
 *   M_NOLINE     abort does not move `oldest`          M_NOWAKE    abort does not wake
 *   M_NOBURN     the numbers of an aborted version are used again
 *   M_JOINWAKE   (REQ=1) joining does not wake the publisher
 *   M_NORECLAIM  the dead gate for ever
 *   M_KEYED      (LIVES=2) mappings known by slot alone, not by (instance, slot)
 */
#ifndef B
#define B 3
#endif
#ifndef K
#define K 2
#endif
#ifndef NV
#define NV 2
#endif
#ifndef NV2
#define NV2 1
#endif
#ifndef NSUB
#define NSUB 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef LIVES
#define LIVES 1
#endif
#ifndef REQ
#define REQ 0
#endif
#define IDLE 255
#define VERSIONS(l) (l==0 -> NV : NV2)
#define NEXT_START(n) (n==0 -> 1 : ((n+B-2)/B)*B+1)   /* format::next_start */
#define VERSION(n) ((n-1)/B+1)
#define END(n) (VERSION(n)*B+1)                       /* the start of the version behind record n's */
/* What a slot holds: which record, of which attempt (M_NOBURN), of which instance. */
#define ATTEMPT 20
#define INSTANCE 100
#define BYTES(l,n,a) (INSTANCE*(l)+ATTEMPT*(a)+(n))

/* The segments, one per instance, and the slots. */
byte completed[LIVES], oldest[LIVES]=1, cursor[LIVES*NSUB]=IDLE, number[LIVES*K], content[LIVES*K];
#define ENTRY(l,n) ((l)*K+(n)%K)
bool kick[NSUB], release[LIVES];                      /* the wake words: something was stored since the last look */
#define WAKE(l) kick[0]=kick[0]||at[0]==l; if :: NSUB>1 -> kick[NSUB-1]=kick[NSUB-1]||at[NSUB-1]==l :: else fi

/* The world. `waited`: close() came behind wait_current(), so that nothing enqueued was left behind. */
byte life; bool killed[LIVES], closed[LIVES], dead[NSUB], waited[LIVES], aborted[LIVES*(NV+2)];
#define GONE(l) (killed[l] || closed[l])
#define ABORTED(l,v) aborted[(l)*(NV+2)+(v)]
/* The device of the newest publisher: records whose gather is enqueued, whose host function is, which are finished;
 * `hollow`: the host function of an aborted gather, which completes nothing. */
bool away;                                            /* HANDOVER: the subscriber has left the dead publisher */
byte gathers, functions, finished, hollow, attempt;

/* Store buffers. Death and every system call empty them. */
byte at[NSUB], cb[NSUB], ob; bool cbv[NSUB], obv;
#define CURSOR(i) cursor[at[i]*NSUB+i]
#define DRAIN(i) if :: cbv[i] -> CURSOR(i)=cb[i]; cbv[i]=false; cb[i]=0 :: else fi
#define SET_CURSOR(x) atomic { !cbv[i] -> cb[i]=x; cbv[i]=true }   /* Pins::set_cursor */
#define WAKE_PUBLISHER atomic { !cbv[i] -> release[at[i]]=true }   /* wake(): a read-modify-write empties the buffer */
#define SET_OLDEST(x) atomic { !obv -> ob=x; obv=true }
active proctype Bus() {
end: do
  :: d_step { cbv[0] -> CURSOR(0)=cb[0]; cbv[0]=false; cb[0]=0 }
#if NSUB>1
  :: d_step { cbv[1] -> CURSOR(1)=cb[1]; cbv[1]=false; cb[1]=0 }
#endif
  :: d_step { obv -> oldest[life]=ob; obv=false; ob=0 }
  od }

#ifdef FIRST
#define DIES life==0
#else
#define DIES true
#endif
/* SIGKILL, CRASHES times at most. Whoever waits finds out within a slice, which the wakes here stand for. */
active proctype Crash() { byte n;
end: do
  :: d_step { n<CRASHES -> n=CRASHES }                /* no more: from here on whoever waits needs the living */
#ifndef FIRST
  :: d_step { n<CRASHES && !dead[0] -> dead[0]=true; DRAIN(0); release[life]=true; n++ }
#if NSUB>1
  :: d_step { n<CRASHES && !dead[1] -> dead[1]=true; DRAIN(1); release[life]=true; n++ }
#endif
#endif
  :: d_step { n<CRASHES && !GONE(life) && DIES -> killed[life]=true; WAKE(life); n++;
       if :: obv -> oldest[life]=ob; obv=false; ob=0 :: else fi;
       gathers=finished; functions=finished }         /* what is queued goes with its context */
  od }

/* The publisher's device. A gather that runs when its process dies may end, even after a successor started, or stop
 * half-way; a host function runs in the process: never after its death, but behind a close(). */
proctype Gpu(byte l) { byte n;
end: do
  :: atomic { l==life && gathers>finished -> n=finished+1; content[ENTRY(l,n)]=0 };
     if
     :: d_step { content[ENTRY(l,n)]=BYTES(l,n,attempt) };
        if
        :: d_step { !killed[l] && l==life && functions>=n ->   /* LogWriter::complete_record, finish */
             if :: n!=hollow -> completed[l]=n :: else fi; WAKE(l); finished=n; n=0 }
        :: killed[l] || l!=life -> n=0
        fi
     :: killed[l] || l!=life -> n=0
     fi
  od }

#define PLACE(i) cursor[me*NSUB+i]
#define CLEAR(i) (PLACE(i)==IDLE || PLACE(i)>=line)
/* LogWriter::wait_for_readers for place i: nobody_behind; attend() -> reclaim_dead() frees the places of the dead. */
#ifdef M_NORECLAIM
#define AWAIT(i) do :: release[me]=false; if :: CLEAR(i) -> break :: else -> release[me] fi od
#else
#define AWAIT(i) do :: release[me]=false; if :: CLEAR(i) -> break :: d_step { dead[i] && !CLEAR(i) -> PLACE(i)=IDLE } \
                                             :: !dead[i] && !CLEAR(i) -> release[me] fi od
#endif
#define LIVE(i) (dead[i] -> 0 : 1)

proctype Pub(byte me) {
  byte v=1, n, b, line=1, to, c;
#ifdef NOABORT
  bool ab=true, wrote;
#else
  bool ab=(me>0), wrote;                                       /* aborted once; a successor need not again */
#endif
  { do
  :: v<=VERSIONS(me) ->
again:
     atomic { finished==gathers ->                             /* Impl::begin: await_enqueued */
       n=(v-1)*B+1; b=0; wrote=false; gathers=n-1; functions=n-1; finished=n-1; hollow=0 };
#if REQ>0
wait_for: release[me]=false;                                   /* LogWriter::wait_for_attached */
     if :: PLACE(0)==n -> c++ :: else fi;
#if NSUB>1
     if :: PLACE(1)==n -> c++ :: else fi;
     if :: c>=REQ || LIVE(0)+LIVE(1)<REQ -> c=0 :: else -> c=0; release[me]; goto wait_for fi;
#else
     if :: c>=REQ || LIVE(0)<REQ -> c=0 :: else -> c=0; release[me]; goto wait_for fi;
#endif
#endif
     do
     :: b<B ->
        if :: !ab -> ab=true; goto abort :: skip fi;           /* before the line moves */
        atomic {                                               /* Impl::open_streaming */
#ifdef M_GM1
          to=(n>K -> n-K : 1);
#else
          to=(n>K -> n-K+1 : 1);
#endif
#ifndef M_NOMAX
          if :: to<line -> to=line :: else fi;
#endif
          skip };
        if
        :: to!=line -> line=to;                                /* LogWriter::retire */
#ifndef M_LATE
           SET_OLDEST(line);
#ifndef M_NOPF
           !obv;
#endif
           d_step { WAKE(me) }
#endif
        :: else
        fi;
        if :: !ab -> ab=true; goto abort :: skip fi;           /* the deadline passes while waiting */
        AWAIT(0);
#if NSUB>1
        AWAIT(1);
#endif
#ifdef M_LATE
        SET_OLDEST(line); !obv;
#endif
        assert(PLACE(0)==IDLE || PLACE(0)<=END(n));            /* nobody_behind: `limit` */
        wrote=true; gathers=n;                                 /* Impl::open, Gather::run */
        if :: !ab -> ab=true; hollow=n; functions=n; goto abort :: skip fi;   /* settle() */
#ifdef M_ENTRY_LATE
        functions=n; number[ENTRY(me,n)]=0; number[ENTRY(me,n)]=n;
#else
        number[ENTRY(me,n)]=0; number[ENTRY(me,n)]=n;          /* Impl::seal_as: LogWriter::write_record */
        functions=n;                                           /* store_behind(complete_record) */
#endif
        atomic { n++; b++ }
     :: else -> break
     od;
     v++
  :: else -> break;
abort:                                                         /* Impl::abort */
     if
     :: !wrote -> goto again
     :: else
     fi;
#ifdef M_NOBURN
     finished==gathers; attempt=1; goto again;
#else
     ABORTED(me,v)=true;
#ifndef M_NOLINE
     atomic { !obv -> line=v*B+1; ob=line; obv=true };         /* LogWriter::burn */
#ifndef M_BURN
     !obv;
#endif
#endif
#ifndef M_NOWAKE
     d_step { WAKE(me) };
#endif
     v++
#endif
  od;
  if :: finished==gathers -> waited[me]=true :: skip fi;   /* wait_current(), or not */
  d_step { closed[me]=true; WAKE(me) }                         /* Impl::close: LogWriter::close */
  } unless { d_step { GONE(me) -> v=0; n=0; b=0; line=0; to=0; c=0; ab=false; wrote=false } } }

#ifdef HANDOVER
#define READY away
#else
#define READY true
#endif
/* Publisher::create: the name is free, or its owner proven dead. A new instance: new words, new slots, a new device. */
active proctype Successor() {
end: do :: atomic { GONE(life) && life+1<LIVES && READY -> life++; gathers=0; functions=0; finished=0; hollow=0; attempt=0;
                    run Pub(life); run Gpu(life) } od }

#ifdef M_KEYED
#define MAP mapped
#else
#define MAP at[i]
#endif
#define FORGET away=true; n=0; t=0; line=0; x=0; a=0; gave_up=false; whole=false; leaving=false
proctype Sub(byte i) {
  byte t, n, line, x, a; bool gave_up, whole, leaving;
#ifdef M_KEYED
  byte mapped; bool first=true;
#endif
  { skip;
attach:                                                        /* Subscriber::attach */
  if
  :: atomic { !GONE(life) -> at[i]=life; kick[i]=false; away=false;
#if LIVES>1 && NSUB==1
       if                                                      /* nobody reads the old words any more */
       :: life==1 -> completed[0]=0; oldest[0]=1; cursor[0]=IDLE; release[0]=false; waited[0]=false;
          do :: x<K -> number[x]=0; content[x]=0; x++ :: else -> break od; x=0;
          do :: x<NV+2 -> ABORTED(0,x)=false; x++ :: else -> break od; x=0
       :: else
       fi;
#endif
#ifdef M_KEYED
       if :: first -> first=false; mapped=life :: else fi;
#endif
       skip }
  :: GONE(life) && life+1==LIVES -> goto done
  :: atomic { GONE(life) && life+1<LIVES && !away -> away=true; goto attach }   /* nothing to attach to, yet */
  fi;
join:                                                          /* Subscriber::join */
  SET_CURSOR(0);                                               /* gates everything */
#ifndef M_NOSF
  !cbv[i];
#endif
#ifdef M_JOINMID
  t=oldest[at[i]];
#else
  d_step { t=NEXT_START(oldest[at[i]]) };
#endif
  SET_CURSOR(t);
#ifdef M_JOINWAKE
  !cbv[i];
#else
  WAKE_PUBLISHER;                                              /* move_to() */
#endif
  d_step { n=t; whole=true };
record:                                                        /* load_streamed_version */
#ifndef NOGU
  if
  :: !gave_up -> gave_up=true;
     if
     :: goto leave                                             /* pause(), or an error with AfterLoad::leave */
     :: d_step { n=NEXT_START(n); t=n; whole=true };           /* an error with AfterLoad::stay: the next start */
        SET_CURSOR(n); WAKE_PUBLISHER
     fi
  :: skip
  fi;
#endif
#ifdef M_EARLY
#define THERE (number[ENTRY(at[i],n)]==n)
#else
#define THERE (completed[at[i]]>=n)
#endif
  do
  :: kick[i]=false;
#ifdef M_ORDER
     if :: THERE -> break :: else fi;
     if :: oldest[at[i]]>=END(n) -> goto torn :: else fi;
#else
     line=oldest[at[i]];
     if :: THERE -> line=0; break :: else fi;
     if :: line>=END(n) -> line=0; goto torn :: else -> line=0 fi;
#endif
     if
     :: atomic { !THERE && GONE(at[i]) -> goto detach }        /* check_publisher(): Closed, PublisherGone */
     :: atomic { !THERE && !GONE(at[i]) -> kick[i] }
     :: THERE
     fi
  od;
#ifndef M_EARLY
  assert(number[ENTRY(at[i],n)]==n);                           /* Segment::record: a defence that never speaks */
#endif
  x=content[ENTRY(MAP,n)];                                     /* the copy starts */
#ifdef M_CUR
  SET_CURSOR(n+1);
#endif
  d_step {                                                     /* the copy ends */
    if :: n==t -> a=(x%INSTANCE)/ATTEMPT :: else fi;
    whole=whole && x==content[ENTRY(MAP,n)] && x==BYTES(at[i],n,a); x=0 };
#ifndef M_CUR
#ifndef NOGU
  if
  :: n%B==0 && !gave_up -> gave_up=true; leaving=true          /* AfterLoad::leave: see below */
  :: SET_CURSOR(n+1)                                           /* advance_behind */
  fi;
#else
  SET_CURSOR(n+1);                                             /* advance_behind */
#endif
#endif
  atomic { !cbv[i] -> release[at[i]]=true; n++ };
  if :: (n-1)%B!=0 -> goto record :: else fi;
#ifdef M_JOINMID
  assert(n-t==B);
#endif
  assert(whole && !ABORTED(at[i],VERSION(n-1)));               /* LoadPlan::complete */
  if :: leaving -> goto leave :: else fi;                      /* the same host function has stored IDLE */
  d_step { t=n; whole=true; a=0 };
  goto record;
torn:                                                          /* load_streaming: aborted by its publisher */
  assert(ABORTED(at[i],VERSION(n)));                           /* nothing else is ever missed */
  d_step { n=END(n); t=n; whole=true; a=0 };
  SET_CURSOR(n); WAKE_PUBLISHER;
  goto record;
leave:                                                         /* Subscriber::leave */
  SET_CURSOR(IDLE); WAKE_PUBLISHER;
  d_step { n=0; t=0; a=0; whole=false; leaving=false };
  if :: GONE(at[i]) -> goto detached :: else -> goto join fi;
detach:
  assert(killed[at[i]] || !waited[at[i]] || ABORTED(at[i],VERSION(n)) || n==VERSIONS(at[i])*B+1);
  SET_CURSOR(IDLE); WAKE_PUBLISHER;
detached:
  atomic { n=0; t=0; a=0; whole=false; leaving=false; away=GONE(life) };
  goto attach;
done:
  FORGET } unless { d_step { dead[i] -> FORGET } } }

init { atomic { run Pub(0); run Gpu(0); run Sub(0);
#if NSUB>1
  run Sub(1)
#endif
} }
