// The one shape of copying that Tenon does: rows from one place to another, cast on the way if
// asked.
//
// A parameter into its slot is one row. A slice along dimension d of a row-major tensor is as many
// rows as the dimensions before d have elements; so is a part of a fused destination. Gathering and
// loading are lists of these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <tenon/types.hpp>
#include <type_traits>

#if defined(__CUDACC__)
#define TENON_HOST_DEVICE __host__ __device__
#else
#define TENON_HOST_DEVICE
#endif

namespace tenon {

/// Conversions between dtypes, rounding to nearest, ties to even; infinities stay, a NaN stays a
/// NaN, a value too large for f16 becomes an infinity, subnormal numbers are kept.
enum class Cast : std::uint32_t { none = 0, f32_to_bf16 = 1, f32_to_f16 = 2, bf16_to_f32 = 3 };

/// How to get from one dtype to another; nothing when Tenon does not convert between them.
[[nodiscard]] constexpr std::optional<Cast> cast_between(Dtype from, Dtype to) noexcept {
  if (from == to) return Cast::none;
  if (from == Dtype::f32 && to == Dtype::bf16) return Cast::f32_to_bf16;
  if (from == Dtype::f32 && to == Dtype::f16) return Cast::f32_to_f16;
  if (from == Dtype::bf16 && to == Dtype::f32) return Cast::bf16_to_f32;
  return std::nullopt;
}
/// Bytes of the source for so many bytes of the destination.
[[nodiscard]] constexpr std::uint64_t source_bytes(Cast cast, std::uint64_t bytes) noexcept {
  switch (cast) {
    case Cast::none:
      return bytes;
    case Cast::f32_to_bf16:
    case Cast::f32_to_f16:
      return 2 * bytes;
    case Cast::bf16_to_f32:
      return bytes / 2;
  }
  return bytes;
}

/// Rows to copy. Also a row of the table that kernels read, hence plain fixed-width fields.
///
/// Units:    bytes; row_bytes, to_pitch and end count destination bytes, from_pitch source bytes.
/// Alignment: none is needed, except that a cast's pointers and pitches are multiples of their
///           element sizes.
struct CopyItem {
  const std::byte* from;     ///< or an offset from CopyBase::from
  std::byte* to;             ///< or an offset from CopyBase::to
  std::uint64_t row_bytes;   ///< of one row in the destination; at least 1
  std::uint64_t from_pitch;  ///< from one row of the source to the next
  std::uint64_t to_pitch;
  std::uint64_t end;  ///< destination bytes of this item and all before it in its list
  Cast cast;
  std::uint32_t reserved;
  std::uint64_t reserved2;
};
static_assert(sizeof(CopyItem) == 64 && std::is_trivially_copyable_v<CopyItem>);

/// What is added to both pointers of every item of a list: a bucket's table of offsets serves
/// whichever slot the bucket is in.
struct CopyBase {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;

  /// An offset, as an item keeps it.
  template <class Byte>
  [[nodiscard]] static Byte* offset(std::uint64_t bytes) noexcept {
    return reinterpret_cast<Byte*>(static_cast<std::uintptr_t>(bytes));
  }
  /// The item with real pointers.
  [[nodiscard]] TENON_HOST_DEVICE CopyItem resolve(CopyItem item) const noexcept {
    item.from = add(from, item.from);
    item.to = add(to, item.to);
    return item;
  }

 private:
  template <class Byte>
  [[nodiscard]] TENON_HOST_DEVICE static Byte* add(Byte* base, Byte* offset) noexcept {
    return reinterpret_cast<Byte*>(reinterpret_cast<std::uintptr_t>(base) +
                                   reinterpret_cast<std::uintptr_t>(offset));
  }
};

}  // namespace tenon

#undef TENON_HOST_DEVICE
