// What belongs to one process alone and is not inherited by its forked children.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <new>

namespace tenon::detail {

/// This process's id, without a system call but for the first time: ownership is looked at on
/// every step, once per bucket. It is kept in a page that the kernel clears in a forked child
/// (MADV_WIPEONFORK, Linux 4.14), however the child was made; where there is none, each call asks.
[[nodiscard]] inline pid_t own_pid() noexcept {
  static std::atomic<pid_t>* const kept = []() -> std::atomic<pid_t>* {
    const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    void* const at =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    if (::madvise(at, bytes, MADV_WIPEONFORK) == 0) return new (at) std::atomic<pid_t>(0);
    (void)::munmap(at, bytes);
    return nullptr;
  }();
  if (kept == nullptr) return ::getpid();
  // relaxed: whichever thread stores it, the value is the same.
  pid_t pid = kept->load(std::memory_order_relaxed);
  if (pid == 0) kept->store(pid = ::getpid(), std::memory_order_relaxed);
  return pid;
}

/// A T of this process alone: a forked child gets a fresh one, with nothing of its parent's in it
/// and no mutex that another thread held at the fork. Never destroyed: subscribers may outlive
/// static destruction.
template <class T>
[[nodiscard]] T& per_process() {
  struct Owned {
    pid_t pid;
    T value;
  };
  static std::atomic<Owned*> current{nullptr};
  Owned* known = current.load(std::memory_order_acquire);
  while (known == nullptr || known->pid != own_pid()) {
    auto* fresh = new Owned{own_pid(), {}};
    if (current.compare_exchange_strong(known, fresh, std::memory_order_acq_rel))
      return fresh->value;
    delete fresh;  // another thread was first; `known` is its
  }
  return known->value;
}

}  // namespace tenon::detail
