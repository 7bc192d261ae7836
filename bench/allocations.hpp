// Counts every allocation of this program: bench replaces the global operator new.
#pragma once

#include <cstdint>

namespace tenon::bench {

/// Calls of operator new (all forms) by this thread so far.
[[nodiscard]] std::uint64_t allocations() noexcept;

}  // namespace tenon::bench
