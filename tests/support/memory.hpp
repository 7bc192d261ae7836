// Memory of the kinds under test, as trainers and engines have it. Programs with a CUDA runtime
// (TENON_TEST_CUDA), which is the simulated one (TENON_TEST_SIM) or a real one, run on host and GPU
// memory, others on host memory alone.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tenon/types.hpp>
#include <vector>

#if TENON_TEST_CUDA
#include <tenon/cuda.hpp>
#endif
#if TENON_TEST_SIM
#include <cuda_sim.hpp>
#endif

namespace tenon::test {

inline std::vector<MemoryKind> kinds() {
#if TENON_TEST_CUDA
  return {MemoryKind::host, MemoryKind::cuda};
#else
  return {MemoryKind::host};
#endif
}

#if TENON_TEST_CUDA
/// The stream that publications use which are given none: work of a test on it is in their order.
inline cudaStream_t own_stream() { return detail::per_process<detail::cuda::Devices>().stream(0); }
#endif
#if TENON_TEST_SIM
/// A simulated node of its own for one test, which ends without anything that must never happen.
struct Node : sim::FreshNode {
  Node() {
    // A real process never sees other devices than those it began with.
    make_anew(detail::per_process<detail::cuda::Devices>());
    make_anew(detail::per_process<detail::cuda::Contexts>());
  }
  template <class T>
  static void make_anew(T& object) {
    std::destroy_at(&object);
    std::construct_at(&object);
  }
  ~Node() {
    for (const std::string& what : sim::violation_log()) ADD_FAILURE() << what;
  }
};
/// A forked child may use the simulated CUDA as if it had been started afresh.
inline void forget_inherited_cuda() { sim::reset_process(); }
#else
struct [[maybe_unused]] Node {};
inline void forget_inherited_cuda() {}
#endif

/// Bytes in memory of one kind, on device 0.
class Bytes {
 public:
  Bytes(MemoryKind kind, std::uint64_t bytes, std::byte value = {}) : kind_(kind), bytes_(bytes) {
    memory_ = allocate(kind, std::max<std::uint64_t>(bytes, 1));
    upload(std::vector<std::byte>(bytes, value));
  }

  [[nodiscard]] std::byte* data() const noexcept { return memory_.get(); }
  void upload(const std::vector<std::byte>& from) const { put(kind_, data(), from); }
  [[nodiscard]] std::vector<std::byte> download() const { return get(kind_, data(), bytes_); }
  /// Changes one byte.
  void spoil(std::uint64_t at = 0) const {
    auto all = download();
    all[at] ^= std::byte{1};
    upload(all);
  }

  static void put(MemoryKind kind, std::byte* to, const std::vector<std::byte>& from) {
    move(kind, to, from.data(), from.size());
  }
  [[nodiscard]] static std::vector<std::byte> get(MemoryKind kind, const std::byte* from,
                                                  std::uint64_t bytes) {
    std::vector<std::byte> to(bytes);
    move(kind, to.data(), from, bytes);
    return to;
  }

 private:
  static void move(MemoryKind kind, std::byte* to, const std::byte* from, std::uint64_t bytes) {
    if (bytes == 0) return;
#if TENON_TEST_CUDA
    if (kind == MemoryKind::cuda) {
      detail::cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, own_stream()),
                          "cudaMemcpyAsync of a test");
      detail::cuda::check(cudaStreamSynchronize(own_stream()), "cudaStreamSynchronize of a test");
      return;
    }
#endif
    (void)kind;
    std::memcpy(to, from, bytes);
  }
  static std::shared_ptr<std::byte> allocate(MemoryKind kind, std::uint64_t bytes) {
#if TENON_TEST_CUDA
    if (kind == MemoryKind::cuda) {
      void* memory = nullptr;
      detail::cuda::check(cudaMalloc(&memory, bytes), "cudaMalloc of a test");
      return {static_cast<std::byte*>(memory), [](std::byte* m) { (void)cudaFree(m); }};
    }
#endif
    (void)kind;
    return {new std::byte[bytes], [](const std::byte* m) { delete[] m; }};
  }

  MemoryKind kind_;
  std::uint64_t bytes_;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace tenon::test
