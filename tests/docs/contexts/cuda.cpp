// What a block of GPU memory finds: what both sides have, and a stream.

// std: c++20

// needs: cuda

#include <cuda_runtime_api.h>

#include <chrono>
#include <map>
#include <span>
#include <string>
#include <tenon/cuda.hpp>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <tenon/unpacked.hpp>
#include <vector>

using namespace std::chrono_literals;

extern const std::vector<tenon::Parameter> parameters;
extern const std::vector<tenon::Source> sources;
extern const tenon::Layout layout;
extern const std::map<std::string, void*> weights;
void run_model(const std::byte* norm, cudaStream_t stream);

[[maybe_unused]] static void block([[maybe_unused]] cudaStream_t stream,
                                   [[maybe_unused]] tenon::Lease& lease) {
  {
    // BLOCK
  }
}
