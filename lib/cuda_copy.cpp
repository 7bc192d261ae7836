#include "cuda_copy.hpp"

#include <optional>
#include <string>
#include <tenon/cuda.hpp>

namespace tenon {
namespace {

namespace cuda = detail::cuda;

/// The device whose memory that is; empty for host memory.
std::optional<int> device_of(const void* pointer) {
  cudaPointerAttributes attributes{};
  cuda::check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    return std::nullopt;
  return attributes.device;
}

}  // namespace

void cuda_copy_and_wait(void* to, const void* from, std::uint64_t bytes, Duration timeout) {
  (void)cuda::device_count();  // so that a machine without a GPU is told of as one
  const int device = device_of(to).value_or(device_of(from).value_or(0));
  const cuda::DeviceScope scope(device);  // the calling thread may never have chosen one
  const cudaStream_t stream = detail::per_process<cuda::Devices>().stream(device);
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  cuda::wait_for(stream, timeout, "copying " + std::to_string(bytes) + " bytes");
}

}  // namespace tenon
