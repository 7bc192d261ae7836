// What frameworks without Tenon have: tensors, a way to send their handles, a barrier.

// std: c++20

// needs: cuda

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

struct Tensor {
  void* allocation;
};
struct Received {
  cudaIpcMemHandle_t handle;
  std::size_t offset;
  std::size_t bytes;
  void* to;
};
extern const std::vector<Tensor> model;
void check(cudaError_t result);
void send(const Tensor& tensor, const cudaIpcMemHandle_t& handle);
const Received* receive();
void barrier();

[[maybe_unused]] static void block(cudaStream_t stream) {
  // BLOCK
}
