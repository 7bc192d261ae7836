// What belongs to one process alone and is not inherited by its forked children.
#pragma once

#include <unistd.h>

#include <atomic>

namespace tenon::detail {

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
  while (known == nullptr || known->pid != ::getpid()) {
    auto* fresh = new Owned{::getpid(), {}};
    if (current.compare_exchange_strong(known, fresh, std::memory_order_acq_rel))
      return fresh->value;
    delete fresh;  // another thread was first; `known` is its
  }
  return known->value;
}

}  // namespace tenon::detail
