// The small types both ends share: dtypes, shapes, modes, parameters.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/error.hpp>
#include <vector>

struct CUstream_st;  // CUDA's; cudaStream_t points to one

namespace tenon {

/// Element types, exactly those that safetensors names. The values are part of the byte format:
/// never renumber, only append.
enum class Dtype : std::uint8_t {
  boolean = 1,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  f64,
  i64,
  u64,
};

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;  ///< as safetensors spells it
  std::uint8_t bytes;     ///< per element
};

inline constexpr std::array<DtypeInfo, 15> kDtypes{{
    {Dtype::boolean, "BOOL", 1},
    {Dtype::u8, "U8", 1},
    {Dtype::i8, "I8", 1},
    {Dtype::f8_e5m2, "F8_E5M2", 1},
    {Dtype::f8_e4m3, "F8_E4M3", 1},
    {Dtype::i16, "I16", 2},
    {Dtype::u16, "U16", 2},
    {Dtype::f16, "F16", 2},
    {Dtype::bf16, "BF16", 2},
    {Dtype::i32, "I32", 4},
    {Dtype::u32, "U32", 4},
    {Dtype::f32, "F32", 4},
    {Dtype::f64, "F64", 8},
    {Dtype::i64, "I64", 8},
    {Dtype::u64, "U64", 8},
}};

/// Whether a byte read from outside names a dtype.
[[nodiscard]] constexpr bool is_dtype(std::uint8_t value) noexcept {
  return value >= 1 && value <= kDtypes.size();
}
[[nodiscard]] constexpr const DtypeInfo& info(Dtype dtype) noexcept {
  return kDtypes[static_cast<std::uint8_t>(dtype) - 1];
}
[[nodiscard]] constexpr std::optional<Dtype> dtype_from_name(std::string_view name) noexcept {
  for (const DtypeInfo& d : kDtypes) {
    if (d.name == name) return d.dtype;
  }
  return std::nullopt;
}

inline constexpr std::size_t kMaxRank = 8;

/// A shape, viewed: dimensions in elements, outermost first. Rank 0 is a scalar.
/// Lifetime: that of whatever holds the numbers (a Layout, usually).
class Shape {
 public:
  constexpr Shape() noexcept = default;
  constexpr Shape(const std::uint64_t* dims, std::size_t rank) noexcept
      : dims_(dims), rank_(rank) {}
  [[nodiscard]] constexpr std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] constexpr std::uint64_t operator[](std::size_t i) const noexcept {
    return dims_[i];
  }
  [[nodiscard]] constexpr const std::uint64_t* begin() const noexcept { return dims_; }
  [[nodiscard]] constexpr const std::uint64_t* end() const noexcept { return dims_ + rank_; }

 private:
  const std::uint64_t* dims_ = nullptr;
  std::size_t rank_ = 0;
};

/// Bytes of a tensor, or nothing when the product does not fit 63 bits.
[[nodiscard]] constexpr std::optional<std::uint64_t> byte_size(Dtype dtype, Shape shape) noexcept {
  std::int64_t total = info(dtype).bytes;
  bool overflow = false;
  for (const std::uint64_t dim : shape) {
    if (dim == 0) return 0;
    overflow |= __builtin_mul_overflow(total, dim, &total);  // a division costs 10 times as much
  }
  if (overflow) return std::nullopt;
  return static_cast<std::uint64_t>(total);
}

/// Where a shard sits in its global tensor: per-dimension size of the whole, and offset of the
/// part.
struct Box {
  std::vector<std::uint64_t> global_shape;
  std::vector<std::uint64_t> offset;
};

/// One named tensor, as the trainer describes it to plan().
struct Parameter {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::uint64_t> shape;  ///< elements, outermost first; empty for a scalar
  std::string tied_to{};     ///< name of an earlier parameter that this one shares its bytes with
  std::optional<Box> box{};  ///< set when this is a shard of a larger tensor
};

/// How many slots a publication keeps, and what that means for readers (docs/tuning.md).
/// The values are part of the byte format.
enum class Mode : std::uint32_t {
  in_place =
      1,  ///< one slot per bucket; pointers never change; readers let go while a version is written
  double_buffered = 2,  ///< two slots per bucket; readers keep version v while v+1 is written
  streaming = 3,        ///< K slots for all buckets; readers load each bucket as it passes
};
[[nodiscard]] constexpr bool is_mode(std::uint32_t value) noexcept {
  return value >= 1 && value <= 3;
}
[[nodiscard]] constexpr const char* name_of(Mode mode) noexcept {
  switch (mode) {
    case Mode::in_place:
      return "in-place";
    case Mode::double_buffered:
      return "double";
    case Mode::streaming:
      return "streaming";
  }
  return "unknown";
}

/// A CUDA stream, for headers that include none of CUDA's. Made from a cudaStream_t; never empty (a
/// null pointer is CUDA's legacy default stream, which works but waits for every blocking stream).
class Stream {
 public:
  constexpr Stream(::CUstream_st* stream) noexcept : stream_(stream) {}
  [[nodiscard]] constexpr ::CUstream_st* get() const noexcept { return stream_; }

 private:
  ::CUstream_st* stream_;
};

/// Kinds of memory a slot can be in. The values are part of the byte format.
enum class MemoryKind : std::uint32_t { host = 1, cuda = 2 };
[[nodiscard]] constexpr bool is_memory_kind(std::uint32_t value) noexcept {
  return value == 1 || value == 2;
}
[[nodiscard]] constexpr const char* name_of(MemoryKind kind) noexcept {
  return kind == MemoryKind::host ? "host" : "cuda";
}

}  // namespace tenon
