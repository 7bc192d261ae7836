// How many calls of the CUDA runtime this process has made: the form of the GPU rows that no
// machine changes.
#pragma once

#include <cstdint>
#include <optional>

namespace tenon::bench {

/// Nothing where the runtime does not count, as CUDA's own does not. Without cudaStreamQuery, by
/// which waits look now and then whether the device is still well: how often is a matter of time.
[[nodiscard]] std::optional<std::uint64_t> cuda_calls() noexcept;

}  // namespace tenon::bench
