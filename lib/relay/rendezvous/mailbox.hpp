// What the io thread leaves for the program's threads.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <tenon/detail/wait.hpp>
#include <tenon/error.hpp>
#include <utility>

namespace tenon::relay {

/// Waits until `ready()` or the deadline; true if ready. `lock` is held when `ready` is called.
template <class Ready>
[[nodiscard]] bool wait_for(std::condition_variable& changed, std::unique_lock<std::mutex>& lock,
                            const detail::Deadline& deadline, const Ready& ready) {
  constexpr Duration kSlice = std::chrono::hours(1);  // a deadline may be the end of time
  while (!ready()) {
    if (deadline.passed()) return false;
    changed.wait_for(lock, std::min(deadline.left(), kSlice));
  }
  return true;
}

/// A queue from one thread to others.
///
/// Errors:  what it was closed with: pop when nothing is left, require_open at once.
/// Threads: any.
template <class T>
class Mailbox {
 public:
  /// Returns how many bytes have not been fetched.
  std::size_t push(T item, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    items_.emplace_back(std::move(item), bytes);
    changed_.notify_all();
    return bytes_ += bytes;
  }
  [[nodiscard]] std::optional<T> pop(const detail::Deadline& deadline) {
    std::unique_lock lock(mutex_);
    if (!wait_for(changed_, lock, deadline, [&] { return !items_.empty() || over_; }))
      return std::nullopt;
    if (items_.empty()) throw Error(code_, reason_);
    auto [item, bytes] = std::move(items_.front());
    items_.pop_front();
    bytes_ -= bytes;
    return std::move(item);
  }
  void close(Errc code, const std::string& reason) {
    const std::lock_guard lock(mutex_);
    code_ = code;
    over_ = true;
    reason_ = reason;
    changed_.notify_all();
  }
  void require_open() {
    const std::lock_guard lock(mutex_);
    if (over_) throw Error(code_, reason_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<T, std::size_t>> items_;
  std::size_t bytes_ = 0;
  bool over_ = false;
  Errc code_ = Errc::PeerGone;
  std::string reason_;
};

}  // namespace tenon::relay
