// One plain copy of host memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenon {

/// Non-temporal when it is large enough to pay: a destination of this size leaves the cache anyway,
/// and a normal store would first read what it overwrites. Fenced: visible to whoever synchronises
/// with the caller.
void copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes) noexcept;

}  // namespace tenon
