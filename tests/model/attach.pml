/* attach.pml: close() against attach, on memory that its owner frees (device memory): protocol section 7, "Free".
 * One place; store buffers (as on x86) on `state` and the place's row.
 *
 * Mutants (each must fail):
 *   M_NOSF       no fence in OwnPlace::take          M_NOPF       no fence in LogWriter::close
 *   M_NORECHECK  OwnPlace::take does not look at the state again behind the fence
 *   M_IDLE       slots are freed when nobody holds a version, not when nobody is attached
 *   M_NORECLAIM  the dead are waited for
 */
#define READY 1
#define CLOSED 2
byte state=READY; bool row, pinned, freed, dead, opened;
bool sbv, sb, rbv, rb;                           /* buffered: `state` is to be CLOSED; `row` is to be rb */
active proctype Bus() {
end: do
  :: d_step { sbv -> state=CLOSED; sbv=false }
  :: d_step { rbv -> row=rb; rbv=false; rb=false }
  od }
active proctype Crash() {
end: atomic { !dead -> dead=true; opened=false; if :: rbv -> row=rb; rbv=false; rb=false :: else fi } }
active proctype Publisher() {
  atomic { !sbv -> sbv=true };                   /* LogWriter::close: state = closed */
#ifndef M_NOPF
  !sbv;
#endif
#ifdef M_IDLE
  !pinned;
#else
  do                                              /* LogWriter::wait_for_detached */
  :: !row -> break
#ifndef M_NORECLAIM
  :: atomic { dead && row -> row=false }         /* reclaim_dead */
#endif
  od;
#endif
  atomic { freed=true; assert(!opened) } }       /* Impl::free_slots */
active proctype Sub() { byte n;
  { do
  :: n<2 -> n++;
     if :: state!=READY -> break :: else fi;     /* find_publication: judge */
     atomic { !rbv -> rb=true; rbv=true };       /* OwnPlace::fill_row: state = attached */
#ifndef M_NOSF
     !rbv;
#endif
#ifndef M_NORECHECK
     if
     :: state==CLOSED -> goto detach             /* OwnPlace::take: is_closed */
     :: else
     fi;
#endif
     atomic { assert(!freed); opened=true };     /* open_slots */
     pinned=true;                                /* a lease */
     assert(!freed);
     pinned=false;
     assert(!freed);
     opened=false;                               /* OwnPlace::leave: slots_.clear(), then the row */
detach:
     atomic { !rbv -> rb=false; rbv=true };
     !rbv                                        /* unlock_byte() is a system call */
  :: else -> break
  od } unless { dead } }
