// Checksums of what is in GPU memory.
#pragma once

#include <cstdint>
#include <tenon/lease.hpp>
#include <vector>

namespace tenon {

/// By parameter; of tied ones nothing that means anything. `device`: the ordinal under which the
/// slots are open. Only in builds with CUDA.
[[nodiscard]] std::vector<std::uint64_t> cuda_checksums(const Lease& lease, int device);

}  // namespace tenon
