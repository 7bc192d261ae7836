// The cases of crash_test: who is killed at which point, doing what, for the so many-th time.
//
// ways_to() says what has to be done to pass a point. It has no default: a new point does not
// compile before it is listed, and one that nothing passes fails, as its victim lives.
#pragma once

#include <cstddef>
#include <string>
#include <support/memory.hpp>
#include <tenon/detail/crash_point.hpp>
#include <tenon/types.hpp>
#include <vector>

namespace tenon::test {

using detail::CrashPoint;

/// Who is killed.
enum class Victim {
  publisher,  ///< creates, publishes, aborts, closes
  reclaimer,  ///< a publisher that waits for a subscriber which died holding a version
  reader,     ///< attaches, waits, holds, releases, loads, detaches
  refused,    ///< a reader whose pin comes too late
  releaser,   ///< a reader that releases behind what it has enqueued on two streams
  broken,     ///< the same, or a reader that loads, whose CUDA context breaks
  cleaner,    ///< runs gc()
  heir,       ///< creates a publication under a dead one's name
};

struct Case {
  CrashPoint point{};
  MemoryKind kind = MemoryKind::host;
  Victim victim{};
  Mode mode = Mode::in_place;
  int pass = 1;  ///< dies as it passes the point for the so many-th time
};
using Cases = std::vector<Case>;

inline Cases ways_to(CrashPoint p) {
  const auto by = [p](Victim v, Mode m, int pass) { return Case{p, MemoryKind::host, v, m, pass}; };
  const auto once = [&](Victim v, Mode m = Mode::in_place) { return Cases{by(v, m, 1)}; };
  // The first version and, with one current, a later one.
  const auto kept = [&](Victim v) {
    return Cases{by(v, Mode::in_place, 1), by(v, Mode::double_buffered, 2)};
  };
  const auto streamed = [&](Victim v) {
    return Cases{by(v, Mode::streaming, 1), by(v, Mode::streaming, 7)};
  };
  const auto always = [&](Victim v) {
    Cases all = kept(v);
    all.push_back(by(v, Mode::streaming, 2));
    return all;
  };
  const auto both = [](Cases a, const Cases& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const auto leaving = [&] {
    return both(both(once(Victim::reader), once(Victim::reader, Mode::streaming)),
                both(once(Victim::releaser), once(Victim::broken)));
  };
  switch (p) {
    case CrashPoint::create_object:
    case CrashPoint::create_locked:
    case CrashPoint::create_sized:
    case CrashPoint::create_signed:
    case CrashPoint::create_described:
    case CrashPoint::create_slot_object:
    case CrashPoint::create_slot:
    case CrashPoint::create_slots:
    case CrashPoint::create_filled:
    case CrashPoint::create_ready:
    case CrashPoint::create_visible:
      return once(Victim::publisher);
    case CrashPoint::retire_current:
      return {by(Victim::publisher, Mode::in_place, 1), by(Victim::publisher, Mode::in_place, 2),
              by(Victim::publisher, Mode::double_buffered, 1)};
    case CrashPoint::publish_readers_gone:
    case CrashPoint::publish_bucket:
    case CrashPoint::publish_record_opened:
    case CrashPoint::publish_record:
    case CrashPoint::publish_records:
    case CrashPoint::publish_committed:
    case CrashPoint::retire_oldest:
    case CrashPoint::retire_woken:
    case CrashPoint::complete_begun:
    case CrashPoint::complete_current:
    case CrashPoint::complete_woken:
    case CrashPoint::complete_finished:
      return always(Victim::publisher);
    case CrashPoint::publish_checksums:
      return kept(Victim::publisher);
    case CrashPoint::complete_record:
    case CrashPoint::abort_line:
    case CrashPoint::abort_woken:
      return once(Victim::publisher, Mode::streaming);
    case CrashPoint::unretire_oldest:
    case CrashPoint::unretire_current:
    case CrashPoint::unretire_woken:
      return both(once(Victim::publisher), once(Victim::publisher, Mode::double_buffered));
    case CrashPoint::abort_settled:
    case CrashPoint::abort_done:
    case CrashPoint::close_slots:
    case CrashPoint::close_reason:
    case CrashPoint::close_state:
    case CrashPoint::close_woken:
    case CrashPoint::close_name:
    case CrashPoint::close_done:
      return both(once(Victim::publisher), once(Victim::publisher, Mode::streaming));
    case CrashPoint::reclaim_locked:
    case CrashPoint::reclaim_unlocked:
      return once(Victim::reclaimer);
    case CrashPoint::clean_locked:
    case CrashPoint::clean_slot:
    case CrashPoint::clean_name:
      return both(once(Victim::cleaner), once(Victim::heir));
    case CrashPoint::clean_orphan:
      return once(Victim::cleaner);
    case CrashPoint::attach_locked:
    case CrashPoint::attach_owner:
    case CrashPoint::attach_label:
    case CrashPoint::attach_cursor:
    case CrashPoint::attach_state:
    case CrashPoint::attach_slot:
    case CrashPoint::attach_woken:
      return both(once(Victim::reader), once(Victim::reader, Mode::streaming));
    case CrashPoint::row_idle:
    case CrashPoint::row_free:
      return both(leaving(), once(Victim::reclaimer));
    case CrashPoint::detach_slots:
    case CrashPoint::detach_unlocked:
    case CrashPoint::detach_woken:
      return leaving();
    case CrashPoint::wait_counted:
      return both(always(Victim::reader), once(Victim::reclaimer));
    case CrashPoint::pin_refused:
      return once(Victim::refused);
    case CrashPoint::pin_cursor:
    case CrashPoint::pin_checked:
    case CrashPoint::hold_records:
      return kept(Victim::reader);
    case CrashPoint::version_noted:
      return always(Victim::reader);
    case CrashPoint::release_cursor:
    case CrashPoint::release_woken:
      return both(kept(Victim::reader), kept(Victim::releaser));
    case CrashPoint::ending_begun:
    case CrashPoint::ending_passed:
      return {by(Victim::releaser, Mode::in_place, 1), by(Victim::releaser, Mode::in_place, 2),
              by(Victim::releaser, Mode::double_buffered, 4)};
    case CrashPoint::fail_cursor:
    case CrashPoint::fail_state:
    case CrashPoint::fail_woken:
      return {by(Victim::broken, Mode::in_place, 1), by(Victim::broken, Mode::double_buffered, 1),
              by(Victim::broken, Mode::streaming, 1)};
    case CrashPoint::load_bucket:
      return always(Victim::reader);
    case CrashPoint::join_gate:
    case CrashPoint::move_cursor:
      return once(Victim::reader, Mode::streaming);
    case CrashPoint::advance_cursor:
    case CrashPoint::advance_woken:
      return streamed(Victim::reader);
    case CrashPoint::count_:
      return {};
  }
  return {};
}

/// Host memory alone has slots in /dev/shm, and is good for reading and loading whatever a GPU
/// does. Streams take a CUDA runtime.
inline bool exists(const Case& c) {
  const CrashPoint p = c.point;
  const bool of_slot_objects = p == CrashPoint::create_slot_object || p == CrashPoint::clean_slot ||
                               p == CrashPoint::clean_orphan;
#if !TENON_TEST_SIM
  if (c.victim == Victim::releaser || c.victim == Victim::broken) return false;
#endif
  if (c.kind != MemoryKind::host) return !of_slot_objects;
  return p != CrashPoint::fail_state && !(c.victim == Victim::broken && c.mode == Mode::streaming);
}

inline Cases all_cases() {
  Cases all;
  for (std::size_t i = 0; i < detail::kCrashPointNames.size(); ++i) {
    const auto point = static_cast<CrashPoint>(i);
    for (const MemoryKind kind : kinds()) {
      for (Case c : ways_to(point)) {
        c.kind = kind;
        if (exists(c)) all.push_back(c);
      }
    }
  }
  return all;
}

inline std::string point_name(CrashPoint p) {
  return std::string(detail::kCrashPointNames[static_cast<std::size_t>(p)]);
}

inline std::string case_name(const Case& c) {
  constexpr const char* kVictims[] = {"Publisher", "Reclaimer", "Reader",  "Refused",
                                      "Releaser",  "Broken",    "Cleaner", "Heir"};
  constexpr const char* kModes[] = {"InPlace", "Double", "Streaming"};
  return point_name(c.point) + "_" + name_of(c.kind) + kVictims[static_cast<int>(c.victim)] +
         kModes[static_cast<int>(c.mode) - 1] + std::to_string(c.pass);
}

}  // namespace tenon::test
