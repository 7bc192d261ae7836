#include <cstring>
#include <tenon/copy_and_wait.hpp>
#include <tenon/error.hpp>

#include "cuda_copy.hpp"
#include "no_cuda.hpp"

namespace tenon {

void copy_and_wait(MemoryKind kind, void* to, const void* from, std::uint64_t bytes,
                   Duration timeout) {
  if (bytes == 0) return;
  if (kind == MemoryKind::host) {
    std::memcpy(to, from, bytes);
    return;
  }
#if TENON_WITH_CUDA
  cuda_copy_and_wait(to, from, bytes, timeout);
#else
  (void)timeout;
  throw Error(Errc::NoMemoryKind, kNoCuda);
#endif
}

}  // namespace tenon
