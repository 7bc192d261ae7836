// The kernels of device_kernels.hpp: launches, loads and stores. What they compute is in
// copy_walk.hpp and checksum_walk.hpp.
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <array>
#include <atomic>
#include <cstring>
#include <cub/device/device_memcpy.cuh>

#include "checksum_walk.hpp"
#include "copy_walk.hpp"
#include "device_kernels.hpp"

namespace tenon::device {
namespace {

using walk::Word;

constexpr std::uint32_t kChecksumThreads = 256;
constexpr std::uint32_t kBlocksPerChecksum = 32;

template <std::uint32_t kBytes>
struct Native;
template <>
struct Native<16> {
  using Type = uint4;
};
template <>
struct Native<8> {
  using Type = uint2;
};
template <>
struct Native<4> {
  using Type = unsigned int;
};
template <>
struct Native<2> {
  using Type = unsigned short;
};
template <>
struct Native<1> {
  using Type = unsigned char;
};

// Past the caches, as everything is touched once: weights are larger than L2.
struct Streaming {
  template <class Holds>
  static __device__ std::uint32_t lanes_where(Holds holds) {
    return static_cast<std::uint32_t>(
        __popc(__ballot_sync(0xFFFFFFFFU, holds(threadIdx.x % walk::kWarp))));
  }
  template <std::uint32_t kBytes>
  static __device__ Word<kBytes> load(const std::byte* from) {
    const auto native = __ldcs(reinterpret_cast<const typename Native<kBytes>::Type*>(from));
    Word<kBytes> word;
    std::memcpy(&word, &native, kBytes);
    return word;
  }
  template <std::uint32_t kBytes>
  static __device__ void store(std::byte* to, const Word<kBytes>& word) {
    typename Native<kBytes>::Type native;
    std::memcpy(&native, &word, kBytes);
    __stcs(reinterpret_cast<typename Native<kBytes>::Type*>(to), native);
  }
};

template <bool kRows>
__global__ void __launch_bounds__(walk::kThreads, walk::kBlocks<kRows>)
    copy_kernel(const CopyItem* table, std::uint32_t count, std::uint64_t bytes, CopyBase base,
                std::uint64_t tile) {
  walk::copy<kRows, Streaming>(table, count, bytes, base, tile, {blockIdx.x, gridDim.x},
                               threadIdx.x);
}

// Blocks of one item have its index as x; y says which of them.
__global__ void __launch_bounds__(kChecksumThreads)
    checksum_kernel(const ChecksumItem* table, unsigned long long* sums) {
  std::uint64_t sum = walk::checksum_share<Streaming>(table[blockIdx.x], {blockIdx.y, gridDim.y},
                                                      {threadIdx.x, kChecksumThreads});
  for (unsigned apart = walk::kWarp / 2; apart > 0; apart /= 2)
    sum += __shfl_down_sync(0xFFFFFFFFU, sum, apart);
  if (threadIdx.x % walk::kWarp == 0 && sum != 0) atomicAdd(&sums[blockIdx.x], sum);
}

// The runtime remembers the error of each call that fails; ours is in `error`.
cudaError_t forgotten(cudaError_t error) noexcept {
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

cudaError_t multiprocessors(int device, int& count) noexcept {
  static std::array<std::atomic<int>, 64> known{};  // of each device; relaxed: nothing but a number
  const auto i = static_cast<std::size_t>(device) % known.size();
  const bool cached = static_cast<std::size_t>(device) == i;
  count = cached ? known[i].load(std::memory_order_relaxed) : 0;
  if (count != 0) return cudaSuccess;
  const cudaError_t error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess && cached) known[i].store(count, std::memory_order_relaxed);
  return error;
}

// Not <<<>>>: its error can only be had by cudaGetLastError(), which may tell an older one.
template <class... Parameters, class... Arguments>
cudaError_t launch(dim3 blocks, std::uint32_t threads, cudaStream_t stream,
                   void (*kernel)(Parameters...), Arguments... arguments) noexcept {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <bool kRows>
cudaError_t launch_copy_of(const CopyTable& table, std::uint32_t multiprocessors, CopyBase base,
                           cudaStream_t stream) noexcept {
  const walk::Deal deal =
      walk::deal_of<kRows>(walk::total_cost(table.bytes, table.count), multiprocessors);
  return launch(dim3(deal.blocks), walk::kThreads, stream, copy_kernel<kRows>, table.items,
                table.count, table.bytes, base, deal.tile);
}

struct FromOf {
  const CopyItem* table;
  CopyBase base;
  __host__ __device__ const void* operator()(std::uint32_t i) const {
    return base.resolve(table[i]).from;
  }
};
struct ToOf {
  const CopyItem* table;
  CopyBase base;
  __host__ __device__ void* operator()(std::uint32_t i) const { return base.resolve(table[i]).to; }
};
struct BytesOf {
  const CopyItem* table;
  __host__ __device__ std::uint64_t operator()(std::uint32_t i) const {
    return table[i].end - (i == 0 ? 0 : table[i - 1].end);
  }
};
template <class Field>
auto each(Field field) {
  return thrust::make_transform_iterator(thrust::counting_iterator<std::uint32_t>(0), field);
}

}  // namespace

cudaError_t launch_copy(int device, const CopyTable& table, CopyBase base,
                        cudaStream_t stream) noexcept {
  if (table.count == 0 || table.bytes == 0) return cudaSuccess;
  int found = 0;
  if (const cudaError_t error = multiprocessors(device, found); error != cudaSuccess)
    return forgotten(error);
  const auto sms = static_cast<std::uint32_t>(found);
  return forgotten(table.rows ? launch_copy_of<true>(table, sms, base, stream)
                              : launch_copy_of<false>(table, sms, base, stream));
}

cudaError_t launch_copy_cub(const CopyItem* table, std::uint32_t count, CopyBase base,
                            void* scratch, std::size_t& scratch_bytes, cudaStream_t stream) noexcept {
  return forgotten(cub::DeviceMemcpy::Batched(scratch, scratch_bytes, each(FromOf{table, base}),
                                              each(ToOf{table, base}), each(BytesOf{table}),
                                              std::int64_t{count}, stream));
}

cudaError_t launch_checksum(const ChecksumItem* table, std::uint32_t count, std::uint64_t* sums,
                            cudaStream_t stream) noexcept {
  if (count == 0) return cudaSuccess;
  const cudaError_t error = cudaMemsetAsync(sums, 0, count * sizeof *sums, stream);
  if (error != cudaSuccess) return forgotten(error);
  return forgotten(launch(dim3(count, kBlocksPerChecksum), kChecksumThreads, stream, checksum_kernel, table,
                          reinterpret_cast<unsigned long long*>(sums)));
}

}  // namespace tenon::device
