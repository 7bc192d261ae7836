// Copies in GPU memory that are waited for.
#pragma once

#include <cstdint>
#include <tenon/detail/wait.hpp>

namespace tenon {

/// Only in builds with CUDA.
void cuda_copy_and_wait(void* to, const void* from, std::uint64_t bytes, Duration timeout);

}  // namespace tenon
