// Child processes and what they share: forked before any thread, never left behind, never waited
// for without a deadline.
#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <tenon/detail/wait.hpp>
#include <tenon/error.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace tenon::bench {

/// Every wait between the processes of a bench ends by then: something died or hangs. Opening a
/// handle for each of 18,867 tensors takes the best part of a minute.
inline constexpr std::chrono::seconds kPatience{180};

/// Memory that stays shared across fork().
class SharedBytes {
 public:
  explicit SharedBytes(std::uint64_t bytes) : bytes_(bytes) {
    void* at = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw SystemError(errno, "mapping memory to share with children");
    data_ = static_cast<std::byte*>(at);
  }
  SharedBytes(const SharedBytes&) = delete;
  SharedBytes& operator=(const SharedBytes&) = delete;
  ~SharedBytes() { (void)::munmap(data_, bytes_); }
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return bytes_; }

 private:
  std::uint64_t bytes_;
  std::byte* data_ = nullptr;
};

/// One T in memory that stays shared across fork().
template <class T>
class Shared {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  Shared() : bytes_(sizeof(T)), value_(new (bytes_.data()) T) {}
  T* operator->() const noexcept { return value_; }
  T& operator*() const noexcept { return *value_; }

 private:
  SharedBytes bytes_;
  T* value_;
};

/// The children of one process. Destruction kills those that are left and waits for them.
class Family {
 public:
  Family() = default;
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;
  ~Family();

  /// Runs `body` in a child, which exits with 0, or with 1 when it throws. The child dies with this
  /// process, and by itself after ten minutes. Call while this process has one thread.
  ::pid_t fork(const std::function<void()>& body);
  /// Kills a child and waits for its end, which is no failure then.
  void kill(::pid_t pid);
  /// Throws when a child has failed.
  void check();
  /// Waits until every child has ended by itself; throws when one fails or time is up.
  void join(Duration patience = kPatience);

 private:
  std::vector<::pid_t> running_;
};

/// A number that only grows, in shared memory, for taking turns.
struct alignas(64) Turn {
  format::WakeWord wake{};
  std::atomic<std::uint64_t> value{0};

  void set(std::uint64_t v) noexcept {
    value.store(v, std::memory_order_release);
    detail::wake(wake);
  }
  /// Waits until the number is at least `v`; `check` runs now and then and may throw.
  template <class Check>
  void await(std::uint64_t v, Duration spin, Check check) {
    const auto there = [&] { return value.load(std::memory_order_acquire) >= v; };
    if (detail::wait_until(wake, detail::Deadline(kPatience), spin, there, check)) return;
    throw Error(Errc::DeadlinePassed, "the other process of this bench did not take its turn");
  }
  void await(std::uint64_t v, Duration spin = Duration::zero()) {
    await(v, spin, [] {});
  }
};

/// The processors this process may run on.
[[nodiscard]] std::vector<int> usable_cpus();
/// Keeps this process on the k-th of them; does nothing when there are not that many.
void pin_to(std::size_t k);

/// Does nothing, busily, so that this processor stays awake as one that works would.
void busy_wait(Duration time) noexcept;

}  // namespace tenon::bench
