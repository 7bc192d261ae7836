// GPU memory in a build that has none.
#include <tenon/error.hpp>

#include "gpu.hpp"

namespace tenon::cli::gpu {
namespace {

[[noreturn]] void refuse() {
  throw Error(Errc::NoMemoryKind,
              "this tenon was built without the CUDA toolkit and has host memory only");
}

}  // namespace

void use_device(int) { refuse(); }
void use_device(const std::string&) { refuse(); }
std::uint64_t free_memory() { refuse(); }
Bytes allocate(std::uint64_t) { refuse(); }
Bytes allocate_page_locked(std::uint64_t) { refuse(); }
Stream make_stream() { refuse(); }

}  // namespace tenon::cli::gpu
