// What the commands need of CUDA, without its headers: gpu_cuda.cpp has them (and
// doctor/gpu_cuda.cpp); builds without CUDA have gpu_none.cpp instead, where everything is
// Error(NoMemoryKind).
#pragma once

#include <cstdint>
#include <string>
#include <tenon/types.hpp>

#include "memory.hpp"

namespace tenon::cli::gpu {

/// Makes a device this thread's current one. Throws Error(NoDevice).
void use_device(int ordinal);
/// The same by UUID; one that is not seen here changes nothing, as attaching says what is the
/// matter.
void use_device(const std::string& uuid);
/// Of the current device, in bytes.
[[nodiscard]] std::uint64_t free_memory();

// Throw Error(OutOfSpace).
[[nodiscard]] Bytes allocate(std::uint64_t bytes);
[[nodiscard]] Bytes allocate_page_locked(std::uint64_t bytes);

/// On the current device; waits for no other stream, and lives as long as the process.
[[nodiscard]] Stream make_stream();

}  // namespace tenon::cli::gpu
