// What frameworks without Tenon have: tensors, and a communicator of trainer and engines.

// std: c++20

// needs: nccl

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <vector>

struct Tensor {
  void* data;
  std::size_t bytes;
};
extern const std::vector<Tensor> model;
void check(cudaError_t result);
void check(ncclResult_t result);

[[maybe_unused]] static void block(ncclComm_t group, cudaStream_t stream) {
  // BLOCK
}
