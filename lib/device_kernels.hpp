// What Tenon runs on a GPU. Defined twice: by nvcc in kernels_gpu.cu, and for the simulated runtime
// of the tests in tests/cuda_sim/kernels_sim.cpp.
//
// Every function enqueues on `stream` and returns; tables must stay unchanged until the work has
// run. They return what CUDA says and leave no error behind for a later cudaGetLastError().
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <tenon/copy_item.hpp>

namespace tenon::device {

/// A list of items in a device's memory.
struct CopyTable {
  const CopyItem* items;
  std::uint32_t count;
  std::uint64_t bytes;  ///< CopyItem::end of the last one
  bool rows;            ///< whether any has more than one row (has_rows())
};

/// Copies all items in one launch. `device` is the current one, and the table is in its memory.
[[nodiscard]] cudaError_t launch_copy(int device, const CopyTable& table, CopyBase base,
                                      cudaStream_t stream) noexcept;

/// The same by cub::DeviceMemcpy::Batched, for items of one row with no cast. With `scratch` null
/// only stores in `scratch_bytes` how much device memory it needs there.
[[nodiscard]] cudaError_t launch_copy_cub(const CopyItem* table, std::uint32_t count, CopyBase base,
                                          void* scratch, std::size_t& scratch_bytes,
                                          cudaStream_t stream) noexcept;

/// A run of bytes to sum.
struct ChecksumItem {
  const std::byte* data;
  std::uint64_t bytes;
};
/// sums[i] = checksum(table[i]) (tenon/checksum.hpp). `table` and `sums` are in device memory.
[[nodiscard]] cudaError_t launch_checksum(const ChecksumItem* table, std::uint32_t count,
                                          std::uint64_t* sums, cudaStream_t stream) noexcept;

}  // namespace tenon::device
