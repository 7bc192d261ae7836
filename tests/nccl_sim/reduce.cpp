#include "reduce.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "failure.hpp"

namespace tenon::nccl_sim {
namespace {

/// How a type is added: as what, and to and from that.
template <class T>
struct Arithmetic {
  using Wide = T;
  static Wide load(T value) { return value; }
  static T store(Wide value) { return value; }
};
template <>
struct Arithmetic<__half> {
  using Wide = float;
  static Wide load(__half value) { return __half2float(value); }
  static __half store(Wide value) { return __float2half(value); }
};
template <>
struct Arithmetic<__nv_bfloat16> {
  using Wide = float;
  static Wide load(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __nv_bfloat16 store(Wide value) { return __float2bfloat16(value); }
};

/// Sums of integers wrap, which without a sign is defined.
template <class T>
T add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(
        static_cast<Unsigned>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b)));
  } else {
    using A = Arithmetic<T>;
    return A::store(A::load(a) + A::load(b));
  }
}

/// A float times 1/n; an integer divided by n.
template <class T>
T divide(T value, std::size_t n) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(value / static_cast<T>(n));
  } else {
    using A = Arithmetic<T>;
    return A::store(A::load(value) * (typename A::Wide{1} / static_cast<typename A::Wide>(n)));
  }
}

template <class T>
void reduce_as(const std::vector<std::vector<std::byte>>& parts, bool mean, std::byte* result) {
  const bool before = mean && !std::is_integral_v<T>;
  const std::size_t ranks = parts.size();
  for (std::size_t at = 0; at + sizeof(T) <= parts[0].size(); at += sizeof(T)) {
    T sum{};
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      T value;
      std::memcpy(&value, parts[rank].data() + at, sizeof value);
      if (before) value = divide(value, ranks);
      sum = rank == 0 ? value : add(sum, value);
    }
    if (mean && !before) sum = divide(sum, ranks);
    std::memcpy(result + at, &sum, sizeof sum);
  }
}

}  // namespace

std::size_t bytes_of(ncclDataType_t type) noexcept {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 0;
  }
}

void reduce(const std::vector<std::vector<std::byte>>& parts, ncclDataType_t type, ncclRedOp_t op,
            std::byte* result) {
  const bool mean = op == ncclAvg;
  switch (type) {
    case ncclInt8:
      return reduce_as<std::int8_t>(parts, mean, result);
    case ncclUint8:
      return reduce_as<std::uint8_t>(parts, mean, result);
    case ncclInt32:
      return reduce_as<std::int32_t>(parts, mean, result);
    case ncclUint32:
      return reduce_as<std::uint32_t>(parts, mean, result);
    case ncclInt64:
      return reduce_as<std::int64_t>(parts, mean, result);
    case ncclUint64:
      return reduce_as<std::uint64_t>(parts, mean, result);
    case ncclFloat16:
      return reduce_as<__half>(parts, mean, result);
    case ncclBfloat16:
      return reduce_as<__nv_bfloat16>(parts, mean, result);
    case ncclFloat32:
      return reduce_as<float>(parts, mean, result);
    case ncclFloat64:
      return reduce_as<double>(parts, mean, result);
    default:
      throw Failure(ncclInvalidArgument, "no such type");
  }
}

}  // namespace tenon::nccl_sim
