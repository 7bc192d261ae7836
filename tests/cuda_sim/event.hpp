// Events: a count of recordings and which of them are done, private or shared between processes.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace tenon::sim {

/// The state of an event, in private or shared memory. Zero bytes are one never recorded.
///
/// A recording is complete when done[recording % kRing] has reached it. More than kRing unfinished
/// recordings of one event on different streams would be told apart wrongly.
struct EventState {
  static constexpr std::uint64_t kRing = 64;

  std::atomic<std::uint64_t> recorded{0};
  std::atomic<std::uint64_t> done_ns{0};  // when the last one completed
  std::atomic<std::uint32_t> changes{0};  // futex
  std::atomic<std::uint64_t> done[kRing]{};

  /// Recording 0, before the first, is always done.
  [[nodiscard]] bool is_done(std::uint64_t recording) const noexcept {
    return recording == 0 || done[recording % kRing].load(std::memory_order_acquire) >= recording;
  }
  void complete(std::uint64_t recording) noexcept;
  /// Until it is done, or `stop` says true; it is asked every few milliseconds.
  void wait(std::uint64_t recording, const std::function<bool()>& stop) const;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

struct Event {
  std::shared_ptr<EventState> state{};
  unsigned flags = 0;
  int device = 0;            // ordinal
  std::uint64_t number = 0;  // in this process; names the shared object of an interprocess event
  bool imported = false;
};

/// The events of this process. Handles as in Streams.
///
/// Threads: safe.
class Events {
 public:
  [[nodiscard]] cudaEvent_t add(Event event);
  [[nodiscard]] std::shared_ptr<const Event> find(cudaEvent_t handle) const;
  /// Takes it out; null when there is none such.
  [[nodiscard]] std::shared_ptr<const Event> take(cudaEvent_t handle);
  [[nodiscard]] std::uint64_t next_number() { return ++next_number_; }
  void clear();

 private:
  mutable std::mutex mutex_;
  std::atomic<std::uint64_t> next_number_{0};
  std::uintptr_t next_handle_ = 0x8000;
  std::map<std::uintptr_t, std::shared_ptr<const Event>> events_;
};

/// The state in a shared-memory object, mapped; null when it is not there (or cannot be made).
[[nodiscard]] std::shared_ptr<EventState> shared_event(const std::string& object, bool create);

}  // namespace tenon::sim
