// Several ranks' elements become one, in host memory.
#pragma once

#include <cstddef>
#include <span>
#include <tenon/types.hpp>

#include "engine.hpp"

namespace tenon::relay {

/// An element-wise sum or mean.
///
/// Floats of 16 and 8 bits are summed in f32 and rounded once, to nearest even; f32 and f64 in
/// their own type; integers in 64 bits, of which the low ones are kept, and their mean is cut off
/// towards zero. The order of the sources is the order of the additions.
class Reduction {
 public:
  /// Errors: InvalidArgument for BOOL, which has no sum.
  Reduction(Dtype dtype, ReduceOp op);
  /// `bytes` of each source make `bytes` of output, which may be one of the sources.
  void apply(std::span<const std::byte* const> sources, std::byte* output, std::size_t bytes) const;

 private:
  using Function = void (*)(std::span<const std::byte* const>, std::byte*, std::size_t, ReduceOp);
  Function function_;
  ReduceOp op_;
};

}  // namespace tenon::relay
