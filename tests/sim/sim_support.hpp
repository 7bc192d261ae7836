// What the tests of GPU memory on the simulated runtime share.
#pragma once

#include <cuda_sim/test_support.hpp>
#include <support/support.hpp>

namespace tenon::test {

using sim::test::make_stream;
using sim::test::Variable;

/// Keeps what is queued on a stream from starting.
class Held {
 public:
  explicit Held(cudaStream_t stream) : stream_(stream) { sim::hold_stream(stream_, true); }
  ~Held() { release(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  void release() {
    if (stream_ != nullptr) sim::hold_stream(std::exchange(stream_, nullptr), false);
  }

 private:
  cudaStream_t stream_;
};

/// Keeps host functions from starting, and what is behind them.
class HeldHostFunctions {
 public:
  HeldHostFunctions() { sim::hold_host_functions(true); }
  ~HeldHostFunctions() { release(); }
  HeldHostFunctions(const HeldHostFunctions&) = delete;
  HeldHostFunctions& operator=(const HeldHostFunctions&) = delete;
  void release() { sim::hold_host_functions(false); }
};

inline bool eventually(const std::function<bool()>& condition) {
  for (const detail::Deadline deadline(kPatience); !deadline.passed();) {
    if (condition()) return true;
    std::this_thread::sleep_for(200us);
  }
  return false;
}

/// Long enough for what must not happen to have happened.
inline void let_things_happen() { std::this_thread::sleep_for(30ms); }

inline std::span<const Source> of_bucket(const Layout& layout, std::span<const Source> sources,
                                         std::size_t bucket) {
  const auto [first, last] = layout.bucket_parameters(bucket);
  return sources.subspan(first, last - first);
}

/// A publication's shared memory, writable.
inline detail::Segment segment_of(const std::string& name) {
  return std::move(
      *detail::find_publication(name, ::geteuid(), detail::SharedObject::Access::read_write)
           .segment);
}

/// A model in GPU memory, on a node of its own.
class Simulated : public ::testing::Test {
 protected:
  Publisher create(Mode mode, PublisherOptions options = {}) {
    options.memory = cuda(0);
    options.mode = mode;
    return Publisher::create(name_, model_.layout, options);
  }
  std::string name_ = unique_name("sim");
  Node node_;
  Model model_{MemoryKind::cuda};
};

}  // namespace tenon::test
