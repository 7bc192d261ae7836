#include "event.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <ctime>
#include <utility>

namespace tenon::sim {

void EventState::complete(std::uint64_t recording) noexcept {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  done_ns.store(
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()),
      std::memory_order_relaxed);
  std::atomic<std::uint64_t>& slot = done[recording % kRing];
  std::uint64_t before = slot.load(std::memory_order_relaxed);
  // Release: who sees it done sees the work before it.
  while (before < recording &&
         !slot.compare_exchange_weak(before, recording, std::memory_order_release)) {
  }
  changes.fetch_add(1, std::memory_order_release);
  ::syscall(SYS_futex, &changes, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void EventState::wait(std::uint64_t recording, const std::function<bool()>& stop) const {
  while (!is_done(recording) && !stop()) {
    const std::uint32_t seen = changes.load(std::memory_order_acquire);
    if (is_done(recording)) return;
    const struct ::timespec slice { 0, 5'000'000 };
    ::syscall(SYS_futex, &changes, FUTEX_WAIT, seen, &slice, nullptr, 0);
  }
}

cudaEvent_t Events::add(Event event) {
  const std::lock_guard lock(mutex_);
  next_handle_ += 16;
  events_[next_handle_] = std::make_shared<const Event>(std::move(event));
  return reinterpret_cast<cudaEvent_t>(next_handle_);
}

std::shared_ptr<const Event> Events::find(cudaEvent_t handle) const {
  const std::lock_guard lock(mutex_);
  const auto found = events_.find(reinterpret_cast<std::uintptr_t>(handle));
  return found == events_.end() ? nullptr : found->second;
}

std::shared_ptr<const Event> Events::take(cudaEvent_t handle) {
  const std::lock_guard lock(mutex_);
  const auto found = events_.find(reinterpret_cast<std::uintptr_t>(handle));
  if (found == events_.end()) return nullptr;
  auto event = std::move(found->second);
  events_.erase(found);
  return event;
}

void Events::clear() {
  const std::lock_guard lock(mutex_);
  events_.clear();
}

std::shared_ptr<EventState> shared_event(const std::string& object, bool create) {
  const std::string path = "/" + object;
  const int fd = ::shm_open(path.c_str(), O_RDWR | (create ? O_CREAT | O_EXCL : 0), 0600);
  if (fd < 0) return nullptr;
  void* at = MAP_FAILED;
  if (!create || ::posix_fallocate(fd, 0, sizeof(EventState)) == 0)
    at = ::mmap(nullptr, sizeof(EventState), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (at == MAP_FAILED) {
    if (create) ::shm_unlink(path.c_str());
    return nullptr;
  }
  return {static_cast<EventState*>(at),
          [](EventState* state) { ::munmap(state, sizeof(EventState)); }};
}

}  // namespace tenon::sim
