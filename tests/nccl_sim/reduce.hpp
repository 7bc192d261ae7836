// The arithmetic of reductions.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <vector>

namespace tenon::nccl_sim {

/// 0 for what is no type.
[[nodiscard]] std::size_t bytes_of(ncclDataType_t type) noexcept;

/// All ranks' parts, of the same size, become one: added one after the other and rounded to the
/// type after each, as around NCCL's ring. ncclAvg divides floats before and integers behind the
/// sum.
void reduce(const std::vector<std::vector<std::byte>>& parts, ncclDataType_t type, ncclRedOp_t op,
            std::byte* result);

}  // namespace tenon::nccl_sim
