#include <tenon/cuda.hpp>

#include "device_buffer.hpp"
#include "device_kernels.hpp"
#include "verify.hpp"

namespace tenon {

// Off the hot path: tables are made anew, and the stream is waited for.
std::vector<std::uint64_t> cuda_checksums(const Lease& lease, int device) {
  namespace cuda = detail::cuda;
  const cuda::DeviceScope scope(device);
  const std::size_t count = lease.size();
  device::Mirrored<device::ChecksumItem> items(device, count);
  device::Mirrored<std::uint64_t> sums(device, count);
  for (std::size_t i = 0; i < count; ++i)
    items.host()[i] = {lease[i].data(), lease.layout().tied_to(i) ? 0 : lease[i].bytes()};
  const cudaStream_t stream = detail::per_process<cuda::Devices>().stream(device);
  items.upload(0, count, stream);
  cuda::check(device::launch_checksum(items.device(), static_cast<std::uint32_t>(count),
                                      sums.device(), stream),
              "launching the checksum kernel");
  sums.download(0, count, stream);
  cuda::wait_for(stream, cuda::kPatience, "computing checksums");
  return {sums.host(), sums.host() + count};
}

}  // namespace tenon
