// What belongs to one process alone and is not inherited by its forked children.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <new>

namespace tenon::detail {

/// A page that the kernel clears in a forked child (MADV_WIPEONFORK, Linux 4.14); null where there
/// is none. Emulators that accept any advice and follow none are told by advice that is none.
[[nodiscard]] inline std::atomic<pid_t>* make_page_wiped_on_fork() noexcept {
  const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* const at =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  if (::madvise(at, bytes, MADV_WIPEONFORK) == 0 && ::madvise(at, bytes, -1) != 0)
    return new (at) std::atomic<pid_t>(0);
  (void)::munmap(at, bytes);
  return nullptr;
}

/// This process's id, without a system call but for the first time: ownership is looked at on
/// every step, once per bucket. Kept in a page that a child with memory of its own finds cleared,
/// also one that fork() did not make; where there is no such page, each call asks. A child that
/// shares its parent's memory (vfork) is taken for its parent.
[[nodiscard]] inline pid_t own_pid() noexcept {
  // No function-local initialiser: its guard is a lock, which a fork could find held.
  static std::atomic<std::atomic<pid_t>*> page{nullptr};
  std::atomic<pid_t>* kept = page.load(std::memory_order_acquire);
  if (kept == nullptr) {
    kept = make_page_wiped_on_fork();
    if (kept == nullptr) return ::getpid();
    // Of two threads that are first, the later one's page stays unused.
    std::atomic<pid_t>* other = nullptr;
    if (!page.compare_exchange_strong(other, kept, std::memory_order_acq_rel)) kept = other;
  }
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
  // acquire, and release below: behind the pointer lies the object that another thread has made.
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
