// Loading on a GPU: one launch per bucket over a table that is uploaded once.
#include <algorithm>
#include <tenon/cuda.hpp>

#include "bulk_copy.hpp"
#include "device_buffer.hpp"
#include "device_kernels.hpp"

namespace tenon {
namespace {

namespace cuda = detail::cuda;

class CudaBulkCopy final : public detail::BulkCopy {
 public:
  explicit CudaBulkCopy(const BucketItems& buckets) {
    cuda::check(cudaGetDevice(&device_), "cudaGetDevice");
    std::size_t count = 0;
    for (const auto& items : buckets) count += items.size();
    table_ = device::Mirrored<CopyItem>(device_, std::max<std::size_t>(count, 1));
    CopyItem* next = table_.host();
    for (const auto& items : buckets) {
      for (const CopyItem& item : items) check_writable(item.to);
      runs_.push_back({static_cast<std::size_t>(next - table_.host()),
                       static_cast<std::uint32_t>(items.size()),
                       items.empty() ? 0 : items.back().end});
      next = std::copy(items.begin(), items.end(), next);
    }
    const cudaStream_t stream = detail::per_process<cuda::Devices>().stream(device_);
    table_.upload(0, count, stream);
    cuda::wait_for(stream, cuda::kPatience, "uploading a load plan");
  }

  void copy(std::size_t bucket, const std::byte* from, Stream stream) override {
    const auto [first, count, bytes] = runs_[bucket];
    if (count == 0) return;
    const cuda::DeviceScope scope(device_);
    cuda::check(device::launch_copy(device_, table_.device() + first, count, bytes, {from, nullptr},
                                    stream.get()),
                "launching the load kernel");
  }

 private:
  /// A bucket's items in the table.
  struct Run {
    std::size_t first;
    std::uint32_t count;
    std::uint64_t bytes;
  };

  static void check_writable(const void* to) {
    if (!cuda::is_pageable(to)) return;
    throw Error(Errc::InvalidArgument,
                "a destination is in pageable host memory, which no kernel can write: use GPU "
                "memory or cudaHostAlloc, or whole parameters (into() without options)");
  }

  int device_ = 0;
  device::Mirrored<CopyItem> table_;
  std::vector<Run> runs_;  ///< per bucket
};

}  // namespace

std::shared_ptr<detail::BulkCopy> make_cuda_bulk_copy(const BucketItems& buckets) {
  return std::make_shared<CudaBulkCopy>(buckets);
}

}  // namespace tenon
