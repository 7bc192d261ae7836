/* line.pml: publish, pin, lease, exchange, release, reuse, abort, un-retire, death and restart over one log.
 *
 * Covers versions kept whole, in place or (-DDBL) double-buffered; buckets that did not change; completion by the
 * host function behind asynchronous gathers; one abort and one un-retirement per publisher; crashes of either side at any
 * step; a successor under the same name, which is a new instance; store buffers (as on x86) on `cursor` and `oldest`.
 * A version stands for its first record: cursor, current and oldest count versions here.
 *
 * Knobs: -DDBL  -DNSUB=n subscribers  -DNV=n versions of the first publisher, -DNV2=n of its successor
 *        -DCRASHES=n processes that die  -DLIVES=2 a successor after death or close
 *        -DLOAD  subscribers load into storage of their own (Subscriber::load_kept) where they otherwise lease
 *
 * Mutants (each must fail):
 *   M_NOSF       no fence in Pins::pin           M_NOPF    no fence in LogWriter::retire
 *   M_PINLATE    `oldest` checked before the cursor is stored
 *   M_LATE       `oldest` stored after the cursors were read
 *   M_GT         nobody_behind() one version too generous
 *   M_PARITY     (DBL) the slot chosen by the version's parity, not by what the current version names
 *   M_NODIRTY    (in place) open() leaves written_in as it was
 *   M_EARLY      commit() stores `current`, not the host function behind the gathers
 *   M_NOWAIT     begin() does not wait for the last host function
 *   M_NOWANTED   wait() does not say that the lease held is wanted: both sides wait for ever
 *   M_NORECLAIM  the dead gate for ever
 *   M_FLAG       (LOAD) a bucket is skipped because it did not change in this version
 *   M_NOBIND     (LOAD, LIVES=2) what was loaded of another instance is believed
 *   M_KEYED      (LIVES=2) mappings known by slot alone, not by (instance, slot)
 *   M_SAMESLOTS  (LIVES=2) the successor takes the dead publisher's slots
 */
#ifndef NV
#define NV 3
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
#define B 2
#ifdef DBL
#define S 4
#else
#define S 2
#endif
#define IDLE 255
#define TORN 255
#define DONE 255
#define VERSIONS(l) (l==0 -> NV : NV2)
#define BYTES(l,v) (16*(l)+(v))   /* what instance l writes for its version v */
#ifdef M_SAMESLOTS
#define SLOT(l,s) (s)
#else
#define SLOT(l,s) ((l)*S+(s))
#endif

/* The segments, one per instance, and the slots. */
byte current[LIVES], oldest[LIVES]=1, cursor[LIVES*NSUB]=IDLE;
byte number[LIVES*2*B], slot[LIVES*2*B], written[LIVES*2*B];   /* the log: two tables, by parity */
#define ENTRY(l,v,b) ((l)*2*B+((v)%2)*B+(b))
byte content[LIVES*S];

/* The world: which publisher is the newest, and what became of each. */
byte life; bool killed[LIVES], closed[LIVES], dead[NSUB];
#define GONE(l) (killed[l] || closed[l])
bool busy[LIVES];                          /* something is enqueued that a host function will tell the end of */
chan gpu[LIVES] = [3] of { byte, byte };   /* (slot, version), or (DONE, version to make current or 0) */

/* Store buffers. Death and every system call empty them. */
byte at[NSUB], cb[NSUB], ob; bool cbv[NSUB], obv;
#define CURSOR(i) cursor[at[i]*NSUB+i]
#define DRAIN(i) if :: cbv[i] -> CURSOR(i)=cb[i]; cbv[i]=false; cb[i]=0 :: else fi
#define SET_CURSOR(i,x) atomic { !cbv[i] -> cb[i]=x; cbv[i]=true }   /* Pins::set_cursor */
#define SET_OLDEST(x) atomic { !obv -> ob=x; obv=true }
active proctype Bus() {
end: do
  :: d_step { cbv[0] -> CURSOR(0)=cb[0]; cbv[0]=false; cb[0]=0 }
#if NSUB>1
  :: d_step { cbv[1] -> CURSOR(1)=cb[1]; cbv[1]=false; cb[1]=0 }
#endif
  :: d_step { obv -> oldest[life]=ob; obv=false; ob=0 }
  od }

/* SIGKILL, CRASHES times at most. */
active proctype Crash() { byte n;
end: do
  :: d_step { n<CRASHES -> n=CRASHES }                /* no more: from here on whoever waits needs the living */
  :: d_step { n<CRASHES && !dead[0] -> dead[0]=true; DRAIN(0); n++ }
#if NSUB>1
  :: d_step { n<CRASHES && !dead[1] -> dead[1]=true; DRAIN(1); n++ }
#endif
  :: d_step { n<CRASHES && !GONE(life) -> killed[life]=true; busy[life]=false; n++;
       if :: obv -> oldest[life]=ob; obv=false; ob=0 :: else fi;
       do :: nempty(gpu[life]) -> gpu[life]?_,_ :: empty(gpu[life]) -> break od; skip }   /* gone with its context */
  od }

/* A publisher's device. A gather that runs when its process dies may end, even after a successor started, or stop
 * half-way; a host function runs in the process: never after its death, but behind a close(). */
proctype Gpu(byte l) { byte s, v;
end: do
  :: atomic { gpu[l]?s,v -> if :: s!=DONE -> content[SLOT(l,s)]=TORN :: else fi };
     if
     :: d_step { s==DONE -> if :: killed[l] -> skip
                               :: else -> if :: v!=0 -> current[l]=v :: else fi;   /* LogWriter::complete_version */
                                          busy[l]=false                           /* LogWriter::finish */
                            fi; s=0; v=0 }
     :: d_step { s!=DONE -> content[SLOT(l,s)]=BYTES(l,v); s=0; v=0 }
     :: d_step { s!=DONE && killed[l] -> s=0; v=0 }
     fi
  od }

#ifdef M_GT
#define CLEAR(c,line) (c==IDLE || c+1>=line)
#else
#define CLEAR(c,line) (c==IDLE || c>=line)
#endif
/* LogWriter::nobody_behind for place i; attend() -> reclaim_dead() frees the places of the dead. */
#define PLACE(i) cursor[me*NSUB+i]
#ifdef M_NORECLAIM
#define AWAIT(i) CLEAR(PLACE(i),line)
#else
#define AWAIT(i) do :: CLEAR(PLACE(i),line) -> break :: d_step { dead[i] && !CLEAR(PLACE(i),line) -> PLACE(i)=IDLE } od
#endif

proctype Pub(byte me) {
  byte v=1, b, line, oo, oc, to[B], in[B], by[B];   /* in, by: Impl::Bucket's slot and written_in */
  bool ch[B], any, wrote;
  bool un=(me>0), ab=(me>0);                        /* un-retired and aborted once; a successor need not again */
  { do
  :: v<=VERSIONS(me) ->
again:
#ifndef M_NOWAIT
     !busy[me];                                             /* Impl::begin: await_enqueued */
#endif
     atomic {
       any=false; b=0;
       do :: b<B -> if :: ch[b]=true :: by[b]!=0 -> ch[b]=false fi; any=any||ch[b]; b++ :: else -> break od;
       b=0; wrote=false; oo=(obv -> ob : oldest[me]); oc=current[me];
#ifdef DBL
       line=(oc==0 -> v : oc)
#else
       line=(oc==0 || any -> v : oc)
#endif
     };
#ifndef M_LATE
     SET_OLDEST(line);                                      /* LogWriter::retire */
#ifndef M_NOPF
     !obv;
#endif
     if :: line==v -> current[me]=0 :: else fi;
#endif
     if :: !un -> un=true; goto abort :: skip fi;           /* the deadline passes while waiting */
     AWAIT(0);                                              /* Impl::await_readers: LogWriter::wait_for_readers */
#if NSUB>1
     AWAIT(1);
#endif
     assert(PLACE(0)==IDLE || PLACE(0)<=v+1);               /* nobody_behind: `limit` */
#ifdef M_LATE
     SET_OLDEST(line); !obv;
     if :: line==v -> current[me]=0 :: else fi;
#endif
     do
     :: b<B ->
        if :: !ab -> ab=true; goto abort :: skip fi;
        if
        :: ch[b] -> atomic {                                /* Impl::open, Gather::run */
#ifdef DBL
#ifdef M_PARITY
             to[b]=b+B*(v%2);
#else
             to[b]=(oc!=0 && in[b]==b -> b+B : b);
#endif
#else
             to[b]=b;
#ifndef M_NODIRTY
             by[b]=0;
#endif
#endif
             wrote=true; busy[me]=true; gpu[me]!to[b],v }
        :: else -> to[b]=in[b]                              /* Impl::keep */
        fi; b++
     :: else -> break
     od;
     if :: !ab -> ab=true; goto abort :: skip fi;
     b=0;
     do :: b<B -> d_step {                                  /* Impl::write_records: LogWriter::write_record */
             number[ENTRY(me,v,b)]=v; slot[ENTRY(me,v,b)]=to[b]; written[ENTRY(me,v,b)]=(ch[b] -> v : by[b]) };
           b++
        :: else -> break
     od;
     atomic {                                               /* Impl::commit: store_behind, finish_bucket */
#ifdef M_EARLY
       current[me]=v; gpu[me]!DONE,0;
#else
       gpu[me]!DONE,v;
#endif
       busy[me]=true; b=0;
       do :: b<B -> in[b]=to[b]; if :: ch[b] -> by[b]=v :: else fi; ch[b]=false; to[b]=0; b++ :: else -> break od;
       b=0; oo=0; oc=0; v++ }
  :: else -> break;
abort:                                                      /* Impl::abort */
     b=0;
     if
     :: wrote -> gpu[me]!DONE,0                                 /* settle(): something to wait for behind the gathers */
     :: else -> SET_OLDEST(oo); !obv; current[me]=oc        /* LogWriter::unretire */
     fi;
     goto again
  od;
  closed[me]=true                                           /* Impl::close: LogWriter::close; what is enqueued runs on */
  } unless { d_step { GONE(me) -> v=0; b=0; line=0; oo=0; oc=0; any=false; un=false; ab=false; wrote=false;
      to[0]=0; to[1]=0; in[0]=0; in[1]=0; by[0]=0; by[1]=0; ch[0]=false; ch[1]=false } } }

/* Publisher::create: the name is free, or its owner proven dead. A new instance: new words, new slots. */
active proctype Successor() {
end: do :: atomic { GONE(life) && life+1<LIVES -> life++; run Pub(life); run Gpu(life) } od }

#ifdef M_KEYED
#define MAP mapped
#else
#define MAP at[i]
#endif
/* What has ended leaves no trace: states that differ in nothing that matters are one. */
#define FORGET_LEASE held=0; hs[0]=0; hs[1]=0; hw[0]=0; hw[1]=0
#define FORGET_READ c=0; s[0]=0; s[1]=0; w[0]=0; w[1]=0
#if LIVES>1
#define OLD old
#define FORGET_OLD old=false; os[0]=0; os[1]=0; ow[0]=0; ow[1]=0
#else
#define FORGET_OLD skip
#endif
#ifdef LOAD
#define FORGET seen=0; FORGET_READ; FORGET_LEASE; FORGET_OLD; have[0]=0; have[1]=0; dest[0]=0; dest[1]=0
#else
#define FORGET seen=0; FORGET_READ; FORGET_LEASE; FORGET_OLD
#endif
#define SAME(l,s,w) (content[SLOT(l,s)]==BYTES(l,w))
proctype Sub(byte i) {
  byte c, seen, held, s[B], w[B], hs[B], hw[B];
#ifdef LOAD
  byte from, have[B], dest[B]; bool gave_up;
#endif
#if LIVES>1
  byte os[B], ow[B]; bool old;
#endif
#ifdef M_KEYED
  byte mapped; bool first=true;
#endif
  { skip;
attach:                                                     /* Subscriber::attach: find_publication, Attachment::claim */
  if
  :: atomic { !GONE(life) -> at[i]=life; seen=0;
#ifdef M_KEYED
       if :: first -> first=false; mapped=life :: else fi;
#endif
#ifdef LOAD
#ifndef M_NOBIND
       if :: from!=life -> have[0]=0; have[1]=0 :: else fi; /* LoadPlan::bind */
#endif
       from=life;
#endif
#if LIVES>1 && NSUB==1
       if
       :: life==1 ->                                        /* nobody reads the old words any more */
          current[0]=0; oldest[0]=1; cursor[0]=IDLE; c=0;
          do :: c<2*B -> number[c]=0; slot[c]=0; written[c]=0; c++ :: else -> break od; c=0;
#ifndef M_SAMESLOTS
          if :: !OLD -> do :: c<S -> content[c]=0; c++ :: else -> break od; c=0 :: else fi
#endif
       :: else
       fi;
#endif
       skip }
  :: GONE(life) && life+1==LIVES -> goto done
  fi;
wait:                                                       /* Subscriber::wait */
  if
  :: atomic { current[at[i]]!=0 && current[at[i]]!=seen -> c=current[at[i]] }
#ifndef M_NOWANTED
  :: held!=0 && oldest[at[i]]>held -> goto release          /* any_wanted() -> ReleaseWanted; Lease::wanted */
#endif
  :: GONE(at[i]) -> goto detach                             /* check_peers: Closed, PublisherGone */
  fi;
  if                                                        /* Pins::hold */
  :: held!=0 -> skip                                        /* under the older pin: no store, no check */
  :: else ->                                                /* Pins::pin */
#ifdef M_PINLATE
     if :: oldest[at[i]]>c -> goto wait :: else fi;
     SET_CURSOR(i,c); !cbv[i];
#else
     SET_CURSOR(i,c);
#ifndef M_NOSF
     !cbv[i];
#endif
     if :: oldest[at[i]]>c -> SET_CURSOR(i,IDLE); c=0; goto wait :: else fi;
#endif
  fi;
  d_step { assert(number[ENTRY(at[i],c,0)]==c);             /* Pins::read_records */
    s[0]=slot[ENTRY(at[i],c,0)]; w[0]=written[ENTRY(at[i],c,0)] };
  d_step { assert(number[ENTRY(at[i],c,1)]==c);
    s[1]=slot[ENTRY(at[i],c,1)]; w[1]=written[ENTRY(at[i],c,1)] };
#ifdef LOAD
  /* Subscriber::load_kept: LoadPlan::load_bucket of each, then the lease ends. */
  d_step {
#ifdef M_FLAG
    if :: w[0]!=c && seen!=0 -> skip
#else
    if :: have[0]==w[0] -> skip
#endif
    :: else -> dest[0]=content[SLOT(at[i],s[0])]; have[0]=w[0] fi };
  if
  :: !gave_up -> gave_up=true; have[0]=0; have[1]=0; SET_CURSOR(i,IDLE);     /* interrupt(): torn, forget() */
     d_step { FORGET_READ }; goto wait
  :: skip
  fi;
  d_step {
#ifdef M_FLAG
    if :: w[1]!=c && seen!=0 -> skip
#else
    if :: have[1]==w[1] -> skip
#endif
    :: else -> dest[1]=content[SLOT(at[i],s[1])]; have[1]=w[1] fi };
  assert(dest[0]==BYTES(at[i],w[0]) && dest[1]==BYTES(at[i],w[1]));        /* complete() */
  assert(SAME(at[i],s[0],w[0]) && SAME(at[i],s[1],w[1]));
  SET_CURSOR(i,IDLE);
  d_step { seen=c; FORGET_READ };
  goto wait;
release: skip;
detach: skip;
#else
  assert(content[SLOT(MAP,s[0])]==BYTES(at[i],w[0]) && content[SLOT(MAP,s[1])]==BYTES(at[i],w[1]));
  atomic {
    if :: held!=0 -> assert(SAME(at[i],hs[0],hw[0]) && SAME(at[i],hs[1],hw[1])) :: else fi;
    held=c; seen=c; hs[0]=s[0]; hs[1]=s[1]; hw[0]=w[0]; hw[1]=w[1]; FORGET_READ };
#if LIVES>1
  atomic { if :: old -> assert(SAME(0,os[0],ow[0]) && SAME(0,os[1],ow[1])) :: else fi;
    FORGET_OLD };
#endif
  if
  :: SET_CURSOR(i,held); goto wait                          /* kept; Pins::end of the older lease, if any */
  :: skip
  fi;
release:                                                    /* Lease::release: Pins::end */
  assert(SAME(at[i],hs[0],hw[0]) && SAME(at[i],hs[1],hw[1]));
  SET_CURSOR(i,IDLE);
  d_step { FORGET_LEASE };
  goto wait;
detach:                                                     /* ~Subscriber: a lease held outlives it */
#if LIVES>1
  atomic { if :: held!=0 && at[i]==0 -> old=true; os[0]=hs[0]; os[1]=hs[1]; ow[0]=hw[0]; ow[1]=hw[1] :: else fi;
    FORGET_LEASE };
#else
  assert(held==0 || (SAME(at[i],hs[0],hw[0]) && SAME(at[i],hs[1],hw[1])));
#endif
#endif
  !cbv[i];                                                  /* unlock_byte() is a system call */
  goto attach;
done:
#if LIVES>1 && !defined(LOAD)
  assert(!old || (SAME(0,os[0],ow[0]) && SAME(0,os[1],ow[1])));
#endif
  FORGET } unless { d_step { dead[i] -> FORGET } } }

init { atomic { run Pub(0); run Gpu(0); run Sub(0);
#if NSUB>1
  run Sub(1)
#endif
} }
