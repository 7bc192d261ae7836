// What stands in for the GPU rows in a build without CUDA.
#include <nlohmann/json.hpp>
#include <tenon/error.hpp>

#include "options.hpp"

namespace tenon::bench {
namespace {

[[noreturn]] void refuse() {
  throw Error(Errc::NoMemoryKind,
              "this build of tenon-bench has no GPU memory: it was made without the CUDA toolkit "
              "(host memory needs none)");
}

}  // namespace

nlohmann::json describe_gpu(const Options&) { refuse(); }
nlohmann::json run_gpu_gather(const Options&) { refuse(); }
nlohmann::json run_gpu_handoff(const Options&) { refuse(); }
nlohmann::json run_gpu_handles(const Options&) { refuse(); }
nlohmann::json run_gpu_sizes(const Options&) { refuse(); }
nlohmann::json run_gpu_subscribers(const Options&) { refuse(); }
nlohmann::json run_gpu_relay(const Options&) { refuse(); }

}  // namespace tenon::bench
