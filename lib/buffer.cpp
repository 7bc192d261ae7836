#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <tenon/buffer.hpp>

#include "no_cuda.hpp"

#if TENON_WITH_CUDA
#include <tenon/cuda.hpp>
#endif

namespace tenon {
namespace {

std::shared_ptr<std::byte> map_host(std::uint64_t bytes) {
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    throw Error(Errc::OutOfSpace, "allocating " + std::to_string(bytes) +
                                      " bytes of host memory: " + std::strerror(errno));
  return {static_cast<std::byte*>(at), [bytes](std::byte* p) { ::munmap(p, bytes); }};
}

#if TENON_WITH_CUDA
namespace cuda = detail::cuda;

cudaStream_t own_stream() {
  int device = 0;
  cuda::check(cudaGetDevice(&device), "cudaGetDevice");
  return detail::per_process<cuda::Devices>().stream(device);
}

std::shared_ptr<std::byte> allocate_on(int device, std::uint64_t bytes) {
  (void)cuda::device_count();
  const cuda::DeviceScope scope(device);
  void* at = nullptr;
  const cudaError_t error = cuda::forgotten(cudaMalloc(&at, bytes));
  if (error == cudaErrorMemoryAllocation)
    throw Error(Errc::OutOfSpace, "allocating " + std::to_string(bytes) + " bytes on device " +
                                      std::to_string(device) + ": it has not as much left");
  cuda::check(error, "cudaMalloc");
  std::shared_ptr<std::byte> owner(static_cast<std::byte*>(at),
                                   [](std::byte* p) { (void)cuda::forgotten(cudaFree(p)); });
  cuda::check(cudaMemsetAsync(at, 0, bytes, own_stream()), "clearing GPU memory");
  return owner;
}
#endif

}  // namespace

Buffer::Buffer(Memory memory, std::uint64_t bytes) {
  bytes = std::max<std::uint64_t>(bytes, 1);
  if (memory.kind == MemoryKind::host) {
    data_ = map_host(bytes);
    return;
  }
#if TENON_WITH_CUDA
  data_ = allocate_on(memory.device, bytes);
#else
  throw Error(Errc::NoMemoryKind, kNoCuda);
#endif
}

void copy_and_wait(MemoryKind kind, void* to, const void* from, std::uint64_t bytes) {
  if (bytes == 0) return;
  if (kind == MemoryKind::host) {
    std::memcpy(to, from, bytes);
    return;
  }
#if TENON_WITH_CUDA
  const cudaStream_t stream = own_stream();
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  cuda::check(cudaStreamSynchronize(stream), "copying to or from GPU memory");
#else
  throw Error(Errc::NoMemoryKind, kNoCuda);
#endif
}

}  // namespace tenon
