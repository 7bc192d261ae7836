// Waiting and waking across processes: spin a little, then sleep on a shared futex in slices.
//
// Waker:  store the data; word += 1 (seq_cst); wake if anybody waits.
// Waiter: read word; waiters += 1 (seq_cst); RE-CHECK THE DATA; sleep only while word is unchanged.
// Wrong:  checking the data before reading the word, or not again after counting oneself: the wake
// falls
//         between check and sleep and is lost (wake.pml: M_CHECK_THEN_READ_WORD, M_NO_RECHECK).
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <ctime>
#include <tenon/detail/crash_point.hpp>
#include <tenon/format.hpp>
#include <thread>

namespace tenon {

/// Durations everywhere in the API. Negative means "already passed".
using Duration = std::chrono::nanoseconds;

namespace detail {

using Clock = std::chrono::steady_clock;
inline constexpr Duration kSlice = std::chrono::milliseconds(100);  ///< between liveness checks
inline constexpr Duration kDefaultSpin = std::chrono::microseconds(30);

/// A point in time that a duration from now leads to, without overflow.
class Deadline {
 public:
  explicit Deadline(Duration timeout) noexcept
      : at_(timeout > Clock::time_point::max() - Clock::now()
                ? Clock::time_point::max()
                : Clock::now() + std::max(timeout, Duration(-1))) {}
  [[nodiscard]] Duration left() const noexcept { return at_ - Clock::now(); }
  [[nodiscard]] bool passed() const noexcept { return left() <= Duration::zero(); }

 private:
  Clock::time_point at_;
};

/// CLOCK_MONOTONIC in nanoseconds: comparable between the processes of one machine.
[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept {
  return static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
}

inline void futex_wait(format::Word32& word, std::uint32_t while_equal, Duration at_most) noexcept {
  const auto ns = std::max<std::int64_t>(at_most.count(), 0);
  const struct ::timespec timeout {
    static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)
  };
  (void)::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, while_equal,
                  &timeout, nullptr, 0);
}

/// Tells everybody who waits on `word` that the data behind it changed. Call after storing the
/// data.
inline void wake(format::WakeWord& word) noexcept {
  // seq_cst on both sides: of the waker's bump and the waiter's count, one is seen by the other.
  word.word.fetch_add(1, std::memory_order_seq_cst);
  if (word.waiters.load(std::memory_order_seq_cst) == 0) return;
  (void)::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word.word), FUTEX_WAKE, INT_MAX,
                  nullptr, nullptr, 0);
}

/// With one processor to run on, spinning only keeps the other side from getting there.
[[nodiscard]] inline Duration effective_spin(Duration wanted) noexcept {
  ::cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) < 2)
    return Duration::zero();
  return wanted;
}

inline void cpu_relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Ready>
[[nodiscard]] bool spin_until(Duration spin, Ready&& ready) {
  if (spin <= Duration::zero()) return ready();
  const Deadline end(spin);
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      cpu_relax();
    }
  } while (!end.passed());
  return false;
}

/// Waits until a count of this process is 0, which nobody announces; false at the deadline. Spins a
/// little, then looks every 20 us to 1 ms; `check()` runs about every 100 ms and may throw.
template <class Check>
[[nodiscard]] bool poll_until_zero(const std::atomic<std::uint32_t>& count,
                                   const Deadline& deadline, Check check) {
  // acquire: pairs with the release of whoever counts down; what it did is over.
  const auto zero = [&] { return count.load(std::memory_order_acquire) == 0; };
  if (spin_until(kDefaultSpin, zero)) return true;
  Duration pause = std::chrono::microseconds(20);
  for (Deadline slice(kSlice); !zero();) {
    if (deadline.passed()) return false;
    if (slice.passed()) {
      check();
      slice = Deadline(kSlice);
    }
    std::this_thread::sleep_for(pause);
    pause = std::min<Duration>(pause * 2, std::chrono::milliseconds(1));
  }
  return true;
}

/// Waits until `ready()` or the deadline; true if ready. `check()` runs every 100 ms, not at every
/// wake, as it may cost system calls, and at the deadline: it throws when waiting has become
/// pointless (the peer died).
template <class Ready, class Check>
[[nodiscard]] bool wait_until(format::WakeWord& word, const Deadline& deadline, Duration spin,
                              Ready ready, Check check) {
  if (spin_until(std::min(spin, deadline.left()), ready)) return true;
  for (Deadline slice(kSlice);;) {
    struct Counted {  // also when ready() throws
      explicit Counted(format::WakeWord& w) noexcept : waiters(w.waiters) {
        waiters.fetch_add(1, std::memory_order_seq_cst);
      }
      ~Counted() { waiters.fetch_sub(1, std::memory_order_seq_cst); }
      Counted(const Counted&) = delete;
      Counted& operator=(const Counted&) = delete;
      format::Word32& waiters;
    };
    const std::uint32_t seen = word.word.load(std::memory_order_seq_cst);
    {
      const Counted counted(word);
      crash_point(CrashPoint::wait_counted);
      if (ready()) return true;
      futex_wait(word.word, seen, std::min(slice.left(), deadline.left()));
    }
    if (ready()) return true;
    if (!slice.passed() && !deadline.passed()) continue;
    check();
    if (deadline.passed()) return false;
    slice = Deadline(kSlice);
  }
}

}  // namespace detail
}  // namespace tenon
