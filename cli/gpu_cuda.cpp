// GPU memory through the CUDA runtime.
#include <fmt/format.h>

#include <tenon/cuda.hpp>

#include "common.hpp"
#include "gpu.hpp"

namespace tenon::cli::gpu {
namespace {

namespace cuda = detail::cuda;

// At the end of a process, or of its context, memory goes by itself.
void free_on_device(std::byte* memory) { (void)cuda::forgotten(cudaFree(memory)); }
void free_page_locked(std::byte* memory) { (void)cuda::forgotten(cudaFreeHost(memory)); }

Bytes owned(cudaError_t error, void* memory, void (*free)(std::byte*), const std::string& what) {
  if (cuda::forgotten(error) == cudaErrorMemoryAllocation)
    throw Error(Errc::OutOfSpace, "allocating " + what + ": there is not as much left");
  if (error != cudaSuccess) throw CudaError(error, "allocating " + what);
  return {static_cast<std::byte*>(memory), free};
}

}  // namespace

void use_device(int ordinal) {
  cuda::check_ordinal(ordinal);
  cuda::check(cudaSetDevice(ordinal), "cudaSetDevice");
}

void use_device(const std::string& uuid) {
  const int count = cuda::device_count();
  for (int device = 0; device < count; ++device) {
    if (detail::device_text(cuda::uuid_of(device)) == uuid) use_device(device);
  }
}

std::uint64_t free_memory() {
  std::size_t free = 0;
  std::size_t total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

Bytes allocate(std::uint64_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  return owned(error, memory, free_on_device, human_bytes(bytes) + " of GPU memory");
}

Bytes allocate_page_locked(std::uint64_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
  return owned(error, memory, free_page_locked, human_bytes(bytes) + " of page-locked memory");
}

Stream make_stream() {
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
              "cudaStreamCreateWithFlags");
  return stream;
}

}  // namespace tenon::cli::gpu
