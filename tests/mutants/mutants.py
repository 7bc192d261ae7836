#!/usr/bin/env python3
"""Breaks the code on purpose, one rule at a time, and checks that a test notices.

    tests/mutants/mutants.py [NAME ...]     all mutants, or those named; about half an hour on two cores
    tests/mutants/mutants.py --check        only that each can be made in today's code (ctest: unit.mutants_apply)

Removes all slots from /dev/shm as it goes: run it on a machine where nothing is published.

Works on a copy under build/mutants. A mutant whose text is no longer found exactly once is an error: the list is
kept true to the code. Exit status 1 if a mutant survives.
"""
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"


class Mutant(NamedTuple):
    name: str
    rule: str
    file: str
    old: str
    new: str
    program: str
    tests: str


MUTANTS = [
    Mutant("write_without_waiting", "1 no torn read", "ipc/log_writer.cpp",
           "if (cursor < line) return false;", "", "handoff_test", "*SeveralReaders*"),
    Mutant("hold_without_pin", "1 no torn read", "include/tenon/detail/pins.hpp",
           "set_cursor(c, since);", "", "handoff_test", "*SeveralReaders*"),
    Mutant("pin_below_the_line", "1 no torn read", "include/tenon/detail/pins.hpp",
           "if (oldest() > c || is_lost()) {", "if (false) {", "gating_test", "*PinBelowTheRetireLine*"),
    Mutant("cursor_of_the_newest_lease", "1 no torn read", "include/tenon/detail/pins.hpp",
           "        set_cursor_to_lowest();\n        crash_point", "        set_idle();\n        crash_point",
           "gating_test", "*HoldTheLowest*"),
    Mutant("records_of_the_current_version", "1 no torn read", "lib/publisher_impl.cpp",
           "  clear_records();\n", "", "version_numbers_test", "*SameParity*"),
    Mutant("slot_by_parity", "1 no torn read", "lib/publisher_impl.cpp",
           "log_->current() != 0 && b.slot == home;", "a.version % 2 == 0;", "handoff_test",
           "*UnchangedBuckets*:*AllUnchanged*:*LoadSkips*:*ParityOfTheVersion*"),
    Mutant("stream_gate_one_too_low", "1 no torn read", "lib/publisher_impl.cpp",
           "n > slots ? n - slots + 1 : 1", "n > slots ? n - slots : 1", "streaming_test", "*EveryVersion*:*Stalled*"),
    Mutant("current_before_the_bytes", "2 complete means finished", "lib/publisher_impl.cpp",
           "  std::byte* slot = open(bucket);", "  std::byte* slot = open(bucket);\n  log_->complete_version(start());",
           "handoff_test", "*SeveralReaders*"),
    Mutant("completed_before_the_entry", "2 complete means finished", "lib/publisher_impl.cpp",
           "  attempt_->slot[bucket] = static_cast<std::uint32_t>(n % slots);",
           "  attempt_->slot[bucket] = static_cast<std::uint32_t>(n % slots);\n  log_->complete_record(n);",
           "streaming_test", "*EveryVersion*"),
    Mutant("no_unretire", "3 all or nothing", "lib/publisher_impl.cpp",
           "log_->unretire(a.saved_oldest, a.saved_current);", "", "gating_test", "*OldVersionStaysCurrent*"),
    Mutant("abort_without_dirt", "3 all or nothing", "lib/publisher_impl.cpp",
           "if (mode_ == Mode::in_place) buckets_[bucket].written_in = 0;", "", "gating_test", "*InPlaceLeavesNone*"),
    Mutant("unchanged_after_abort_believed", "3 all or nothing", "lib/publisher_impl.cpp",
           "buckets_[b].unconfirmed = true;", "(void)b;", "gating_test", "*DoubleBufferedLeaves*"),
    Mutant("abort_without_burning", "3 all or nothing", "lib/publisher_impl.cpp",
           "log_->burn(format::start_of(a.version + 1, buckets_.size()));", "", "streaming_test", "*AbortMidLoad*"),
    Mutant("last_bucket_before_the_commit", "3 all or nothing", "lib/publisher_impl.cpp",
           "if (bucket + 1 < buckets_.size())", "if (true)", "streaming_test", "*BehindItsLastBucket*"),
    Mutant("unchanged_flag_instead_of_version", "3 all or nothing", "lib/publisher_impl.cpp",
           "if (!unchanged) buckets_[bucket].written_in = a.version;",
           "buckets_[bucket].written_in = unchanged ? 1 : a.version;", "streaming_test", "*FrozenSince*"),
    Mutant("torn_load_remembered", "3 all or nothing", "include/tenon/load_plan.hpp",
           "    state_ = LoadState::torn;\n    forget();", "    state_ = LoadState::torn;", "streaming_test",
           "*TornLoadForgets*"),
    Mutant("lock_ignored", "4 claims are locks", "ipc/reclaim.cpp",
           ": detail::try_lock_byte(candidate.fd(), format::kPublisherByte);", ": true;", "name_test",
           "*ManyClaimants*:*Live*"),
    Mutant("cleaner_is_taken_for_a_publisher", "10 cheap recovery", "ipc/reclaim.cpp",
           "if (runs || foreign)", "if (true)", "name_test", "*CleanerAtWork*"),
    Mutant("nobody_is_dead", "5 nobody waits on the dead", "include/tenon/detail/process.hpp",
           "return !is_locked_by_other(fd, byte) && !still_owns(fd, byte, owner);", "(void)fd, (void)byte, (void)owner;\n  return false;",
           "death_test", "*PlaceIsReclaimed*"),
    Mutant("zombie_is_alive", "5 nobody waits on the dead", "include/tenon/detail/process.hpp",
           "return is_zombie;", "return false && is_zombie;", "death_test", "*WaitingSubscriber*"),
    Mutant("wanted_unsaid", "5 no deadlock with oneself", "include/tenon/subscriber.hpp",
           "wanted = !parity && attachment_->pins().any_wanted();", "wanted = false;", "gating_test", "*WaitingInstead*"),
    Mutant("slot_size_unchecked", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "check_field(s.bytes >= needed && s.bytes <= 2 * format::kMaxBucketBytes,", "check_field(true,",
           "segment_test", "SegmentSlot*"),
    Mutant("record_numbers_wrap", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "check_field(c <= format::kMaxRecord,", "check_field(true,", "segment_test", "Current*"),
    Mutant("line_may_wrap", "6 untrusted input", "include/tenon/subscriber.hpp",
           "check_field(line <= format::kMaxRecord,", "check_field(true,", "bad_segment_test", "*RetireLine*"),
    Mutant("layout_allocated_as_claimed", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "check_field(backed >= facts().sections.end,", "check_field(true,", "bad_segment_test", "*SparseObject*"),
    Mutant("probes_uncounted", "6 untrusted input", "include/tenon/layout.hpp",
           "check_field(--probes_left > 0,", "check_field(true,", "layout_test", "*ChosenToCollide*"),
    Mutant("own_words_read_back", "6 untrusted input", "ipc/log_writer.hpp",
           "return current_.load(std::memory_order_relaxed);",
           "return header().current.load(std::memory_order_relaxed);", "gating_test", "*ReadsItsOwnWords*"),
    Mutant("dead_cursor_held_against", "6 untrusted input", "ipc/log_writer.cpp",
           "if (detail::is_dead(segment_.object().fd(), i, detail::owner_of(segment_.place(i))))", "if (false)",
           "gating_test", "*DeadPlace*"),
    Mutant("acquire_outside_the_mutex", "1 no torn read", "include/tenon/detail/pins.hpp",
           "      const std::lock_guard lock(mutex_);\n      const std::uint64_t c = place_.segment().current();",
           "      const std::uint64_t c = place_.segment().current();", "gating_test", "*AcquireAtOnce*"),
    Mutant("cursor_limit_unchecked", "6 untrusted input", "ipc/log_writer.cpp",
           "if (cursor > limit) {", "if (false) {", "gating_test", "*ProtocolError*"),
    Mutant("mapping_keyed_without_instance", "7 identity", "include/tenon/detail/memory.hpp",
           "Known& known = known_[{facts.instance, slot.allocation}];",
           "Known& known = known_[{Instance{}, slot.allocation}];",
           "death_test", "*Successor*"),
    Mutant("cached_slot_unchecked", "7 identity", "include/tenon/detail/memory.hpp",
           "check_field(slot.mapped_bytes == found.mapped_bytes,", "check_field(true,",
           "slot_memory_test", "*DescribedOtherwise*"),
    Mutant("writable_mapping", "readers cannot write", "include/tenon/detail/memory.hpp",
           "SharedObject::Access::read_only);", "SharedObject::Access::read_write);", "handoff_test", "*ReadOnly*"),
    Mutant("close_leaves_slots", "10 cheap recovery", "lib/publisher_completion.cpp",
           "slots_->withdraw();  // host", "// host", "name_test", "*LeaveNoSlots*"),
    Mutant("gc_takes_the_living", "10 cheap recovery", "ipc/reclaim.cpp",
           "  const bool runs =\n      ready && detail::still_owns(candidate.fd(), format::kPublisherByte, h->publisher);\n  if (!locked) {",
           "  const bool runs = false;\n  if (false) {", "death_test", "*GcRemoves*"),
    Mutant("child_keeps_the_lock", "11 fork", "include/tenon/detail/process.hpp",
           "for (const Opened& opened : guard.opened_) opened.close_if_ours();", "", "death_test", "*ForkedChild*"),
    Mutant("place_locked_through_the_mapping", "11 fork", "include/tenon/detail/place.hpp",
           "    const int fd = claim_->fd();\n    for (std::uint32_t i = 0; i < format::kPlaces && !number_; ++i) {",
           "    const int fd = segment_.object().fd();\n    for (std::uint32_t i = 0; i < format::kPlaces && !number_; ++i) {",
           "death_test", "*ForkedChildOfASubscriber*"),
    Mutant("name_locked_through_the_mapping", "11 fork", "ipc/create.cpp",
           "detail::try_lock_byte(claim->fd(), format::kPublisherByte)",
           "detail::try_lock_byte(object->fd(), format::kPublisherByte)", "name_test", "*ChildForkedDuring*"),
    Mutant("child_destroys", "11 fork", "include/tenon/lease.hpp",
           "if (attachment_->is_owner()) attachment_->pins().end(parity_);", "attachment_->pins().end(parity_);", "handoff_test",
           "*ChildCannotUse*"),
    Mutant("child_closes", "11 fork", "lib/publisher.cpp",
           "if (impl_ && impl_->is_owner()) impl_->close();", "if (impl_) impl_->close();", "handoff_test",
           "*ChildCannotUse*"),
    Mutant("pid_kept_in_a_child", "11 fork", "include/tenon/detail/per_process.hpp",
           "if (::madvise(at, bytes, MADV_WIPEONFORK) == 0 &&", "if (::madvise(at, bytes, MADV_NORMAL) == 0 &&", "process_test",
           "OwnPid.*"),
    # --- GPU memory, on the simulated runtime ---
    Mutant("current_before_the_copies", "2 complete means finished", "lib/cuda_gather.cpp",
           'cuda::check(cudaLaunchHostFunc(behind, function, argument), "cudaLaunchHostFunc");',
           "(void)behind;\n    function(argument);", "cuda_order_test", "Order.*Current*:Order.*Completed*:Order.*Finished*"),
    Mutant("completion_aside_waits_for_nothing", "2 complete means finished", "lib/cuda_gather.cpp",
           'cuda::check(cudaStreamWaitEvent(stream_, reached_.get(), 0), "cudaStreamWaitEvent");', "",
           "cuda_order_test", "Order.*Current*:Order.*Completed*:Order.*Finished*"),
    Mutant("next_version_without_waiting", "2 complete means finished", "lib/publisher_impl.cpp",
           "if (!await_enqueued({a.deadline, a.check})) {", "if (false) {", "cuda_order_test", "*TheNextVersionWaits*"),
    Mutant("aborted_copies_forgotten", "2 complete means finished", "lib/publisher_completion.cpp",
           "if (attempt_->enqueued) store_behind({}, Gather::Place::in_stream);", "", "cuda_order_test", "*AnAbortedVersion*"),
    Mutant("host_sources_given_back_unread", "2 complete means finished", "lib/publisher_impl.cpp",
           "if (!done.reads_host || await_enqueued({done.deadline, done.check})) return version;", "return version;",
           "cuda_order_test", "*SourcesInHostMemory*"),
    Mutant("released_at_once", "1 no torn read", "include/tenon/detail/attachment.hpp",
           "behind(streams[i], ops.device_of(streams[i]), end_passed, &endings_[parity]);", "pins_.end(parity, true);", "cuda_order_test",
           "Order.*Release*"),
    Mutant("cursor_before_the_copies", "1 no torn read", "include/tenon/detail/attachment.hpp",
           "if (!in_device_memory()) {\n      pending_", "(void)stream;\n    if (true) {\n      pending_", "cuda_order_test",
           "*StreamingCursor*"),
    Mutant("release_captured", "1 no torn read", "include/tenon/detail/attachment.hpp",
           "ops.check_not_capturing(streams[i], ops.device_of(streams[i]));", "(void)ops;",
           "cuda_order_test", "*WhileCapturing*"),
    Mutant("given_up_load_resumed", "3 all or nothing", "include/tenon/subscriber.hpp",
           "    overdue_ = !interrupt(plan, stream);\n    if (overdue_) wait_for_copies(deadline);",
           "    if (!interrupt(plan, stream)) wait_for_copies(deadline);", "cuda_order_test", "*StuckCopiesEnds*"),
    Mutant("failed_upload_remembered", "2 complete means finished", "lib/cuda_gather.cpp",
           "    plan.uploaded = plan.launched() == 0;\n    if (plan.uploaded) return;",
           "    plan.uploaded = true;\n    if (plan.launched() == 0) return;", "cuda_order_test", "*AnUploadThatFailed*"),
    Mutant("bookkeeping_before_the_commit", "3 all or nothing", "lib/publisher_impl.cpp",
           "  store_behind(std::move(complete),",
           "  for (std::size_t b = 0; b < buckets_.size(); ++b) finish_bucket(b);\n"
           "  store_behind(std::move(complete),",
           "cuda_order_test", "*ACommitThatFails*"),
    Mutant("released_lease_is_wanted", "5 no deadlock with oneself", "include/tenon/detail/pins.hpp",
           "(held_[0].leases > held_[0].ending && line > held_[0].start) ||\n"
           "           (held_[1].leases > held_[1].ending && line > held_[1].start)",
           "(held_[0].leases > 0 && line > held_[0].start) ||\n"
           "           (held_[1].leases > 0 && line > held_[1].start)", "cuda_order_test", "*BehindARelease*"),
    Mutant("broken_reader_gates", "5 nobody waits on the dead", "include/tenon/detail/attachment.hpp",
           "      fail_if_broken();\n      throw;\n    }\n    pins_.", "      throw;\n    }\n    pins_.", "cuda_faults_test",
           "*ContextBreaksStopsGating*"),
    Mutant("former_program_still_owns", "5 nobody waits on the dead", "include/tenon/detail/process.hpp",
           "if (owner.pid == static_cast<std::uint32_t>(::getpid())) return Owned::is(fd, byte);", "",
           "liveness_test", "AfterExec.*-*DISABLED*"),
    Mutant("former_places_kept", "5 nobody waits on the dead", "include/tenon/detail/place.hpp",
           "    reclaim_former();\n", "", "liveness_test", "AfterExec.*-*DISABLED*"),
    Mutant("headless_has_execed", "5 nobody waits on the dead", "include/tenon/detail/process.hpp",
           "return found || empty;", "return found;", "process_test", "*MainThreadHasExited*"),
    Mutant("execed_still_owns", "5 nobody waits on the dead", "include/tenon/detail/process.hpp",
           "return found || empty;", "return true;", "liveness_test", "*BecomesAnotherProgram*"),
    Mutant("deadline_for_the_dead", "5 nobody waits on the dead", "ipc/log_writer.cpp",
           "  return clear();\n", "  return false;\n", "death_test", "*PlaceIsReclaimed*"),
    Mutant("stream_of_another_device", "9 device identity", "lib/cuda_gather.cpp",
           "cuda::check_stream(used, device_);", "cuda::check_not_capturing(used, device_);", "cuda_devices_test",
           "*AnotherDeviceIsRefused*"),
    Mutant("host_memory_ends_with_the_context", "5 nobody waits on the dead", "include/tenon/detail/pins.hpp",
           "return failure() != nullptr && facts().memory != MemoryKind::host;", "return failure() != nullptr;",
           "cuda_faults_test", "*HostMemoryOutlives*"),
    Mutant("unmarked_copies_forgotten", "1 no torn read", "include/tenon/detail/attachment.hpp",
           "copies_.end_unknown = true;", "", "cuda_faults_test", "*EndCannotBeMarked*"),
    Mutant("unknown_end_waited_for", "errors say why", "include/tenon/detail/attachment.hpp",
           "    if (copies_.end_unknown) {", "    if (copies_.end_unknown) return false;\n    if (false) {",
           "cuda_faults_test", "*EndCannotBeMarked*"),
    Mutant("any_devices_error_ends_leases", "5 nobody waits on the dead", "include/tenon/detail/attachment.hpp",
           "require_stream_ops().broken(device)) fail(error);",
           "require_stream_ops().broken(0)) fail(error);", "cuda_devices_test", "*AnotherDevicesError*"),
    Mutant("kept_only_while_there_is_memory", "8 no use after free", "include/tenon/detail/keep.hpp",
           "  ::new (unowned) Owner(std::move(owner));", "  (void)unowned;", "keep_test", "*WantOfMemory"),
    Mutant("another_file_with_its_inode", "4 claims are locks", "include/tenon/detail/place.hpp",
           "st.st_dev != claimed_.st_dev ||", "", "liveness_test", "LostDescriptors.*"),
    Mutant("lease_ended_under_its_copies", "1 no torn read", "include/tenon/subscriber.hpp",
           "detail::keep_for_ever(std::move(lease));", "", "cuda_faults_test",
           "*EndCannotBeMarked*"),
    Mutant("works_on_the_threads_device", "9 device identity", "include/tenon/cuda.hpp",
           "  const DeviceScope scope(device);\n  check(cudaLaunchHostFunc", "  check(cudaLaunchHostFunc",
           "cuda_devices_test", "*AWorkerThread*"),
    Mutant("went_back_by_set_device", "9 device identity", "include/tenon/cuda.hpp",
           "    if (pushed_) per_process<Contexts>().pop();", "    if (pushed_) (void)cudaSetDevice(0);",
           "cuda_devices_test", "*AWorkerThread*"),
    Mutant("broken_publisher_stays_open", "5 nobody waits on the dead", "lib/publisher_impl.hpp",
           "if (e.code() == Errc::Cuda && !closed_) check_device();", "(void)e;", "cuda_faults_test", "*NextCall*"),
    Mutant("broken_publisher_waited_for", "5 nobody waits on the dead", "lib/publisher_completion.cpp",
           "    check_device();\n    if (patience.check)", "    if (patience.check)", "cuda_faults_test",
           "*ClosesAndReadersAreTold*"),
    Mutant("freed_behind_endless_copies", "5 nobody waits on the dead", "lib/publisher_completion.cpp",
           "detail::keep_for_ever(std::move(gather_));", "", "cuda_faults_test", "*ClosingBehindWork*"),
    Mutant("closed_without_draining", "5 nobody waits on the dead", "include/tenon/detail/attachment.hpp",
           "    const bool drained = a->drain(Deadline(kDrain));", "    const bool drained = true;",
           "cuda_faults_test", "*SubscriberThatGoes*"),
    Mutant("opened_size_unchecked", "6 untrusted input", "include/tenon/cuda.hpp",
           "check_field(bytes >= slot.mapped_bytes,", "check_field(bytes > 0,", "cuda_faults_test", "*OpensTooLittle*"),
    Mutant("freed_under_a_reader", "8 no use after free", "lib/publisher_completion.cpp",
           "const bool detached = log_->wait_for_detached(deadline);", "const bool detached = true;", "cuda_faults_test", "*ClosingKeeps*:*ClosingWaits*"),
    Mutant("device_by_ordinal", "9 device identity", "include/tenon/cuda.hpp",
           "const int theirs = per_process<Devices>().find(facts.device_uuid);", "const int theirs = 0;",
           "cuda_faults_test", "*MatchedByUuid*"),
    Mutant("own_handle_opened", "9 device identity", "include/tenon/detail/memory.hpp",
           "  void add(const Instance& instance, const format::Slot& slot, const Mapped& own) {",
           "  void add(const Instance&, const format::Slot&, const Mapped&) {}\n"
           "  void not_add(const Instance& instance, const format::Slot& slot, const Mapped& own) {",
           "cuda_calls_test", "*PublishersProcess*"),
    Mutant("error_left_behind", "errors say why", "include/tenon/cuda.hpp",
           "if (error != cudaSuccess) (void)cudaGetLastError();", "", "cuda_faults_test", "*RefusedOpens*"),
    Mutant("bf16_ties_away_from_zero", "casts round to nearest even", "lib/cast.hpp",
           "(bits + 0x7FFFU + ((bits >> 16U) & 1U))", "(bits + 0x8000U)", "cuda_order_test", "*Casts*"),
    Mutant("small_f16_ties_up", "casts round to nearest even", "lib/cast.hpp",
           "(rest == tie && (half & 1U) != 0)", "(rest == tie)", "cuda_order_test", "*Casts*"),
    Mutant("bf16_nan_becomes_infinity", "casts keep NaN", "lib/cast.hpp",
           "return static_cast<std::uint16_t>((bits >> 16U) | 0x40U);", "return static_cast<std::uint16_t>(bits >> 16U);",
           "cuda_order_test", "*Casts*"),
    Mutant("device_asked_at_every_wake", "few calls per step", "include/tenon/detail/wait.hpp",
           "if (!slice.passed() && !deadline.passed()) continue;", "", "cuda_calls_test", "Waiting*"),
    Mutant("table_uploaded_every_step", "few calls per step", "lib/cuda_gather.cpp",
           "if (!is_current(plans_[bucket], bucket, sources)) make_plan", "make_plan", "cuda_calls_test",
           "*PerStep*/InPlaceAdopt"),
    Mutant("pipe_waited_for", "5 nobody waits", "include/tenon/detail/shared_object.hpp",
           "how | O_NOFOLLOW | O_NONBLOCK |", "how | O_NOFOLLOW |",
           "security_test", "*Exchange*"),
    Mutant("owner_unchecked", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "if (st.st_uid != owner) {", "if (false) {",
           "security_test", "*Planted.*:*AStranger*"),
    Mutant("world_writable_believed", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "if ((st.st_mode & S_IWOTH) != 0) {", "if (false) {",
           "security_test", "Modes.*"),
    Mutant("writable_slots_believed", "6 untrusted input", "include/tenon/detail/memory.hpp",
           "if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {", "if (false) {",
           "security_test", "Modes.*"),
    Mutant("slots_of_anybody", "6 untrusted input", "include/tenon/detail/memory.hpp",
           "S_ISREG(st.st_mode) && st.st_uid == facts.owner", "true",
           "security_test", "*PlantedSlots*"),
    Mutant("names_shown_raw", "errors say why", "include/tenon/name.hpp",
           "detail::plain(name)", "std::string(name)",
           "security_test", "Escapes.*"),
    Mutant("suggestions_shown_raw", "errors say why", "include/tenon/detail/suggest.hpp",
           "plain(name)", "std::string(name)",
           "security_test", "Escapes.*"),
    Mutant("line_aborts_for_ever", "5 nobody waits", "include/tenon/subscriber.hpp",
           "if (!deadline.passed()) continue;", "continue;",
           "hostile_test", "*StreamingReaders*/host"),
    Mutant("slot_allocation_unchecked", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "s.allocation < format::kMaxSlots,", "true,",
           "hostile_test", "*HostileSlots.AreRefused*"),
    Mutant("slot_wraps", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "s.offset <= s.mapped_bytes && s.bytes <= s.mapped_bytes - s.offset", "s.offset + s.bytes <= s.mapped_bytes",
           "hostile_test", "*HostileSlots.AreRefused*"),
    Mutant("checksum_section_unchecked", "6 untrusted input", "include/tenon/detail/segment.hpp",
           "facts_.checksum_bytes == 0 || facts_.checksum_bytes == all", "true",
           "hostile_test", "*HostileChecksums*"),
    Mutant("refused_pidfd_is_alive", "5 nobody waits on the dead", "include/tenon/detail/process.hpp",
           "if (pidfd < 0) return has_exited_by_proc(pid);", "if (pidfd < 0) return false;",
           "lessons_test", "*Seccomp*"),
    Mutant("headless_is_dead", "5 nobody waits on the dead", "include/tenon/detail/process.hpp",
           " && stat.threads <= 1", "",
           "lessons_test", "*AnyThread*"),
    Mutant("invalidate_remembers", "3 all or nothing", "include/tenon/load_plan.hpp",
           "  void invalidate() noexcept {\n    forget();", "  void invalidate() noexcept {",
           "lessons_test", "*Transformed*"),
    Mutant("mappings_kept", "8 no leak", "include/tenon/detail/memory.hpp",
           "base = ops_for(facts.memory).open(facts, slot, device);", "base = ops_for(facts.memory).open(facts, slot, device);\n      keep_for_ever(base);",
           "lessons_test", "*AgainAndAgain*"),
    Mutant("forged_pid_believed", "errors say why", "ipc/log_writer.cpp",
           "if (!detail::is_locked_by_other(segment_.object().fd(), s.place))", "if (false)",
           "hostile_test", "*Forged*"),
    Mutant("label_shown_raw", "errors say why", "ipc/log_writer.cpp",
           "detail::clean_text(row.label)", "std::string(row.label, 64)",
           "hostile_test", "*NonsenseInItsPlace*"),
    Mutant("readable_before_ready", "secrets", "ipc/create.cpp",
           "kCreating = 0200", "kCreating = 0600",
           "security_test", "*ModesOf*"),
    Mutant("slots_world_readable", "secrets", "lib/publisher_impl.cpp",
           "options.group ? 0640 : 0600}", "0644}",
           "security_test", "*ModesOf*:Users.*"),
    Mutant("group_writes_slots", "secrets", "lib/publisher_impl.cpp",
           "options.group ? 0640 : 0600}", "options.group ? 0660 : 0600}",
           "security_test", "*ModesOf*:Users.*"),
    Mutant("group_unasked", "secrets", "lib/publisher_impl.cpp",
           "options.group ? 0660 : 0600,", "0660,",
           "security_test", "*ModesOf*:Users.*"),
    Mutant("foreign_file_blocks_gc", "10 cheap recovery", "ipc/reclaim.cpp",
           "st.st_uid == owner;\n}\n\n// An open", "true;\n}\n\n// An open",
           "security_test", "Foreign.*"),
    Mutant("gc_claims_what_it_left", "10 cheap recovery", "ipc/reclaim.cpp",
           "if (!dry_run && !detail::SharedObject::unlink(slot)) continue;", "if (!dry_run) detail::SharedObject::unlink(slot);",
           "death_test", "Gc.*"),
    Mutant("readers_forgotten", "1 no torn read", "ipc/log_writer.cpp",
           "if (cursor < line) return false;", "if (cursor < line && i == 0) return false;",
           "lessons_test", "*Slowest*"),
    Mutant("close_unlinks_whatever", "10 cheap recovery", "ipc/reclaim.cpp",
           "if (object.still_named()) detail", "detail",
           "lessons_test", "*NamesRemoved*"),
]


def run(command, timeout):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, text=True)
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as e:
        return "timeout", (e.stdout or b"").decode(errors="replace")


def clean_up():
    """What a broken program leaves in shared memory: publications, slots without one, simulated nodes."""
    shm = Path("/dev/shm")
    for left in [*shm.glob("tenon.*.test-*"), *shm.glob("tenon-slot.*"), *shm.glob("tenon-sim.*.test-*")]:
        left.unlink(missing_ok=True)


def inapplicable(mutant, source):
    """Why it cannot be made, or None."""
    path = source / mutant.file
    times = path.read_text().count(mutant.old) if path.is_file() else 0
    if times != 1:
        return f"NOT APPLICABLE: its text is in {mutant.file} {times} times"
    if not list((source / "tests").rglob(f"{mutant.program}.cpp")):
        return f"NOT APPLICABLE: there is no {mutant.program}"
    return None


def check_all():
    """That each mutant can be made, under a name of its own. Exit status 1 if not."""
    wrong = [f"{m.name:36} {why}" for m in MUTANTS if (why := inapplicable(m, ROOT))]
    names = [mutant.name for mutant in MUTANTS]
    wrong += [f"{name:36} is there twice" for name in sorted({n for n in names if names.count(n) > 1})]
    print("\n".join([*wrong, f"{len(MUTANTS)} mutants, {len(wrong)} of them wrong"]))
    return 1 if wrong else 0


def check(mutant, source, build):
    if why := inapplicable(mutant, source):
        return why
    path = source / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        status, output = run(["cmake", "--build", build, "-j2", "--target", mutant.program], 900)
        if status != 0:
            return "DOES NOT BUILD\n" + output[-2000:]
        status, output = run([build / "bin" / mutant.program, f"--gtest_filter={mutant.tests}"], 60)
        if status == 0:
            return "SURVIVED" + (" (no test ran)" if "Running 0 tests" in output else "")
        failed = [line.split("] ")[1].split(",")[0].split(" (")[0] for line in output.splitlines() if "[  FAILED  ]" in line and "ms)" in line]
        return "caught by " + (", ".join(failed[:2]) or f"{mutant.tests} ({'hang' if status == 'timeout' else status})")
    finally:
        path.write_text(text)
        clean_up()


def main():
    wanted = sys.argv[1:]
    if wanted == ["--check"]:
        return check_all()
    strange = set(wanted) - {mutant.name for mutant in MUTANTS}
    if strange:
        sys.exit(f"no such mutant: {', '.join(sorted(strange))}")
    source, build = WORK / "source", WORK / "build"
    if source.exists():
        shutil.rmtree(source)
    for name in subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).split("\n"):
        if name and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    subprocess.check_call(["cmake", "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
                           "-DTENON_BUILD_CLI=OFF", "-DTENON_BUILD_BENCH=OFF"], stdout=subprocess.DEVNULL)
    survivors = 0
    for mutant in MUTANTS:
        if wanted and mutant.name not in wanted:
            continue
        verdict = check(mutant, source, build)
        survivors += 0 if verdict.startswith("caught") else 1
        print(f"{mutant.name:36} {mutant.rule:28} {verdict}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
