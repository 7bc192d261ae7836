#include "reduce.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "small_float.hpp"

namespace tenon::relay {
namespace {

/// Elements that are summed as they are stored.
template <class T>
struct Plain {
  using Stored = T;
  using Sum = T;
  static T widen(T value) noexcept { return value; }
  static T narrow(T sum) noexcept { return sum; }
  static T divide(T sum, std::size_t by) noexcept { return sum / static_cast<T>(by); }
};

/// Floats that are summed in f32.
template <class Format>
struct Widened : Format {
  using Sum = float;
  static float divide(float sum, std::size_t by) noexcept { return sum / static_cast<float>(by); }
};

/// Integers: summed modulo 2^64, which for signed ones is defined too.
template <class T>
struct Integer {
  using Stored = T;
  using Sum = std::uint64_t;
  static Sum widen(T value) noexcept { return static_cast<Sum>(value); }
  static T narrow(Sum sum) noexcept { return static_cast<T>(sum); }
  static Sum divide(Sum sum, std::size_t by) noexcept {
    if constexpr (std::is_signed_v<T>)
      return static_cast<Sum>(static_cast<std::int64_t>(sum) / static_cast<std::int64_t>(by));
    else
      return sum / by;
  }
};

/// A run of elements at a time, source by source: loops that the compiler turns into vector code.
template <class Element>
void reduce(std::span<const std::byte* const> sources, std::byte* output, std::size_t bytes,
            ReduceOp op) {
  using Stored = typename Element::Stored;
  constexpr std::size_t kRun = 512;
  std::array<Stored, kRun> stored;  // memory of any alignment is copied, not cast
  std::array<typename Element::Sum, kRun> sums;
  for (std::size_t start = 0; start < bytes; start += kRun * sizeof(Stored)) {
    const std::size_t run = std::min(kRun, (bytes - start) / sizeof(Stored));
    sums.fill({});
    for (std::size_t s = 0; s < sources.size(); ++s) {
      std::memcpy(stored.data(), sources[s] + start, run * sizeof(Stored));
      for (std::size_t i = 0; i < run; ++i) {
        const auto value = Element::widen(stored[i]);
        sums[i] = s == 0 ? value : sums[i] + value;  // not 0 + value, which loses the sign of -0
      }
    }
    for (std::size_t i = 0; i < run; ++i) {
      const auto sum = op == ReduceOp::mean ? Element::divide(sums[i], sources.size()) : sums[i];
      stored[i] = Element::narrow(sum);
    }
    std::memcpy(output + start, stored.data(), run * sizeof(Stored));
  }
}

}  // namespace

Reduction::Reduction(Dtype dtype, ReduceOp op) : function_(nullptr), op_(op) {
  switch (dtype) {
    case Dtype::boolean:
      break;
    case Dtype::u8:
      function_ = reduce<Integer<std::uint8_t>>;
      break;
    case Dtype::i8:
      function_ = reduce<Integer<std::int8_t>>;
      break;
    case Dtype::f8_e5m2:
      function_ = reduce<Widened<F8E5M2>>;
      break;
    case Dtype::f8_e4m3:
      function_ = reduce<Widened<F8E4M3>>;
      break;
    case Dtype::i16:
      function_ = reduce<Integer<std::int16_t>>;
      break;
    case Dtype::u16:
      function_ = reduce<Integer<std::uint16_t>>;
      break;
    case Dtype::f16:
      function_ = reduce<Widened<F16>>;
      break;
    case Dtype::bf16:
      function_ = reduce<Widened<Bf16>>;
      break;
    case Dtype::i32:
      function_ = reduce<Integer<std::int32_t>>;
      break;
    case Dtype::u32:
      function_ = reduce<Integer<std::uint32_t>>;
      break;
    case Dtype::f32:
      function_ = reduce<Plain<float>>;
      break;
    case Dtype::f64:
      function_ = reduce<Plain<double>>;
      break;
    case Dtype::i64:
      function_ = reduce<Integer<std::int64_t>>;
      break;
    case Dtype::u64:
      function_ = reduce<Integer<std::uint64_t>>;
      break;
  }
  if (function_ == nullptr) {
    throw Error(Errc::InvalidArgument,
                "elements of dtype " + std::string(info(dtype).name) + " cannot be reduced");
  }
}

void Reduction::apply(std::span<const std::byte* const> sources, std::byte* output,
                      std::size_t bytes) const {
  function_(sources, output, bytes, op_);
}

}  // namespace tenon::relay
