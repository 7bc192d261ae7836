// What must not be freed is kept, whatever else goes wrong.
#pragma once

#include <atomic>
#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

namespace tenon::detail {

/// Keeps what somebody may still be using until the process ends: `owner` (a smart pointer, a
/// lease) is never destroyed.
///
/// It is for destructors and for the way out of an error, so it cannot fail. For want of memory the
/// owner is not even noted down: kept it is all the same.
/// Threads:  any.
template <class Owner>
void keep_for_ever(Owner owner) noexcept {
  static_assert(std::is_nothrow_move_constructible_v<Owner>);
  struct Kept {
    Kept* next;
    Owner owner;
  };
  static std::atomic<Kept*> all{nullptr};  // noted down, so that leak checkers find it in use
  if (auto* kept = new (std::nothrow) Kept{nullptr, std::move(owner)}) {
    // release, to whoever would walk the list: nobody does but a leak checker.
    kept->next = all.load(std::memory_order_relaxed);
    while (!all.compare_exchange_weak(kept->next, kept, std::memory_order_release)) {
    }
    return;
  }
  alignas(Owner) std::byte unowned[sizeof(Owner)];
  ::new (unowned) Owner(std::move(owner));  // whose destructor nobody calls
}

}  // namespace tenon::detail
