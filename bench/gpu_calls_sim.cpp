#include <cuda_sim.hpp>

#include "gpu_calls.hpp"

namespace tenon::bench {

std::optional<std::uint64_t> cuda_calls() noexcept {
  return sim::total_calls() - sim::calls("cudaStreamQuery");
}

}  // namespace tenon::bench
