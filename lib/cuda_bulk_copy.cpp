// Loading on a GPU: one launch per bucket over a table that is uploaded once.
#include <algorithm>
#include <tenon/cuda.hpp>

#include "bulk_copy.hpp"
#include "copy_items.hpp"
#include "device_buffer.hpp"
#include "device_kernels.hpp"

namespace tenon {
namespace {

namespace cuda = detail::cuda;

class CudaBulkCopy final : public detail::BulkCopy {
 public:
  CudaBulkCopy(const BucketItems& buckets, int device) : device_(device) {
    const cuda::DeviceScope scope(device_);
    std::size_t count = 0;
    for (const auto& items : buckets) count += items.size();
    table_ = device::Mirrored<CopyItem>(device_, std::max<std::size_t>(count, 1));
    CopyItem* next = table_.host();
    for (const auto& items : buckets) {
      for (const CopyItem& item : items) check_writable(item.to);
      tables_.push_back({table_.device() + (next - table_.host()),
                         static_cast<std::uint32_t>(items.size()),
                         items.empty() ? 0 : items.back().end, has_rows(items)});
      next = std::copy(items.begin(), items.end(), next);
    }
    const cudaStream_t stream = detail::per_process<cuda::Devices>().stream(device_);
    table_.upload(0, count, stream);
    cuda::wait_for(stream, cuda::kPatience, "uploading a load plan");
  }

  void copy(std::size_t bucket, const std::byte* from, Stream stream) override {
    if (tables_[bucket].count == 0) return;
    const cuda::DeviceScope scope(device_);
    cuda::check(device::launch_copy(device_, tables_[bucket], {from, nullptr}, stream.get()),
                "launching the load kernel");
  }

 private:
  void check_writable(const void* to) const {
    cudaPointerAttributes attributes{};
    cuda::check(cudaPointerGetAttributes(&attributes, to), "cudaPointerGetAttributes");
    if (attributes.type == cudaMemoryTypeUnregistered) {
      throw Error(Errc::InvalidArgument,
                  "a destination is in pageable host memory, which no kernel can write: use GPU "
                  "memory or cudaHostAlloc, or whole parameters (into() without options)");
    }
    if (attributes.type == cudaMemoryTypeDevice && attributes.device != device_) {
      throw Error(Errc::InvalidArgument,
                  "a destination is on device " + std::to_string(attributes.device) +
                      " and the publication is open under device " + std::to_string(device_) +
                      ", whose kernel fills it: attach with the destinations' device current, or "
                      "use whole parameters (into() without options)");
    }
  }

  int device_;
  device::Mirrored<CopyItem> table_;
  std::vector<device::CopyTable> tables_;  ///< its items of each bucket
};

}  // namespace

std::shared_ptr<detail::BulkCopy> make_cuda_bulk_copy(const BucketItems& buckets, int device) {
  return std::make_shared<CudaBulkCopy>(buckets, device);
}

}  // namespace tenon
