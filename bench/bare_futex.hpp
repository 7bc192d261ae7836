// The kernel's own wake, without anything of Tenon's: what `wake` and `subscribers` compare with.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace tenon::bench {

/// Wakes everybody who sleeps on `word`.
inline void bare_wake(std::atomic<std::uint32_t>& word) noexcept {
  (void)::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr,
                  nullptr, 0);
}

/// Sleeps until woken, or returns at once when `word` is not `before` any more.
inline void bare_wait(std::atomic<std::uint32_t>& word, std::uint32_t before) noexcept {
  (void)::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, before, nullptr,
                  nullptr, 0);
}

}  // namespace tenon::bench
