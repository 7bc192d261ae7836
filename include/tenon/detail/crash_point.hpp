// Where a process may be killed on purpose: names of steps that others can see, in
// shared memory, in a claim or in /dev/shm.
//
// Only in builds for tests (TENON_CRASH_POINTS); elsewhere a point is nothing at all. There,
//
//   TENON_CRASH_AT=publish_record:3
//
// makes a process SIGKILL itself as it passes that point for the third time (without a number: the
// first). A new step gets a name here, and then tests/multiproc/crash_cases.hpp does not compile
// before it has a test.
#pragma once

#ifdef TENON_CRASH_POINTS
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <tenon/detail/per_process.hpp>
#include <utility>
#endif

namespace tenon::detail {

/// Named after what has just been done.
enum class CrashPoint : unsigned {
  // A publisher creates.
  create_object,
  create_locked,
  create_sized,
  create_signed,
  create_described,
  create_slot_object,
  create_slot,
  create_slots,
  create_filled,
  create_ready,
  create_visible,
  // It publishes.
  retire_oldest,
  retire_current,
  retire_woken,
  publish_readers_gone,
  publish_bucket,
  publish_record_opened,
  publish_record,
  publish_records,
  publish_checksums,
  publish_committed,
  // A version becomes current: a host function on GPU memory.
  complete_begun,
  complete_current,
  complete_record,
  complete_woken,
  complete_finished,
  // It aborts.
  abort_settled,
  unretire_oldest,
  unretire_current,
  unretire_woken,
  abort_line,
  abort_woken,
  abort_done,
  // It reclaims the place of a dead subscriber.
  reclaim_locked,
  reclaim_unlocked,
  // It closes.
  close_slots,
  close_reason,
  close_state,
  close_woken,
  close_name,
  close_done,
  // A cleaner, or the next publisher of the name, removes what a dead one left.
  clean_locked,
  clean_slot,
  clean_name,
  clean_orphan,
  // A subscriber attaches.
  attach_locked,
  attach_owner,
  attach_label,
  attach_cursor,
  attach_state,
  attach_slot,
  attach_woken,
  // It waits and holds.
  wait_counted,
  pin_cursor,
  pin_refused,
  pin_checked,
  version_noted,
  hold_records,
  release_cursor,
  release_woken,
  // A lease ends behind a stream: a host function.
  ending_begun,
  ending_passed,
  // Its CUDA context broke.
  fail_cursor,
  fail_state,
  fail_woken,
  // It loads.
  load_bucket,
  join_gate,
  move_cursor,
  advance_cursor,
  advance_woken,
  // It detaches.
  detach_slots,
  detach_unlocked,
  detach_woken,
  // A row is given back: it detaches, or a dead one's place is reclaimed.
  row_idle,
  row_free,
  count_  ///< how many there are
};

#ifdef TENON_CRASH_POINTS

/// The enumerator's own name, as the compiler spells it.
template <CrashPoint point>
[[nodiscard]] constexpr std::string_view crash_point_name() noexcept {
  const std::string_view text = __PRETTY_FUNCTION__;
  const std::size_t end = text.find_first_of(";]", text.find("point = "));
  const std::size_t begin = text.rfind("::", end) + 2;
  return text.substr(begin, end - begin);
}

template <std::size_t... I>
[[nodiscard]] constexpr auto crash_point_names(std::index_sequence<I...>) noexcept {
  return std::array{crash_point_name<static_cast<CrashPoint>(I)>()...};
}
/// By enumerator.
inline constexpr auto kCrashPointNames =
    crash_point_names(std::make_index_sequence<static_cast<std::size_t>(CrashPoint::count_)>());

/// What TENON_CRASH_AT says, read once in each process.
class CrashPlan {
 public:
  CrashPlan() {
    const char* text = std::getenv("TENON_CRASH_AT");
    if (text == nullptr) return;
    const std::string_view at(text);
    const std::string_view name = at.substr(0, at.find(':'));
    while (point_ < kCrashPointNames.size() && kCrashPointNames[point_] != name) ++point_;
    left_ = name.size() == at.size() ? 1 : std::atoi(text + name.size() + 1);
    if (point_ < kCrashPointNames.size() && left_ > 0) return;
    std::fprintf(stderr, "TENON_CRASH_AT=%s names no crash point and pass\n", text);
    std::abort();
  }
  void pass(CrashPoint point) noexcept {
    if (left_ == 0 || static_cast<std::size_t>(point) != point_) return;
    if (left_.fetch_sub(1) != 1) return;
    for (;;) ::kill(::getpid(), SIGKILL);
  }

 private:
  std::size_t point_ = 0;
  std::atomic<int> left_{0};  ///< 0: nothing is to happen
};

inline void crash_point(CrashPoint point) { per_process<CrashPlan>().pass(point); }

#else

constexpr void crash_point(CrashPoint) noexcept {}

#endif

}  // namespace tenon::detail
