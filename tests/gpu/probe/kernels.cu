#include "kernels.hpp"

namespace tenon::probe {
namespace {

__device__ unsigned long long now_ns() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

__global__ void spin(unsigned long long ns, unsigned long long* counter) {
  const unsigned long long end = now_ns() + ns;
  for (unsigned long long n = 1; now_ns() < end; ++n) {
    if (counter != nullptr) *static_cast<volatile unsigned long long*>(counter) = n;
  }
}
__global__ void trap() { __trap(); }
__global__ void write_to(unsigned* address) { *address = 1; }

}  // namespace

cudaError_t launch_spin(double ms, unsigned long long* counter, cudaStream_t stream) {
  spin<<<1, 1, 0, stream>>>(static_cast<unsigned long long>(ms * 1e6), counter);
  return cudaGetLastError();
}
cudaError_t launch_trap(cudaStream_t stream) {
  trap<<<1, 1, 0, stream>>>();
  return cudaGetLastError();
}
cudaError_t launch_illegal_write(cudaStream_t stream) {
  write_to<<<1, 1, 0, stream>>>(reinterpret_cast<unsigned*>(0x10));
  return cudaGetLastError();
}

}  // namespace tenon::probe
