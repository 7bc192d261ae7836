#include "copy_items.hpp"

#include <cstring>

#include "cast.hpp"
#include "copy_pool.hpp"

namespace tenon {
namespace {

// By memcpy, not through typed pointers: the objects behind them are bytes. Compilers make the same
// vector code of it.
template <class From, class To>
void convert_row(std::byte* to, const std::byte* from, std::uint64_t bytes,
                 To (*convert)(From)) noexcept {
  for (std::uint64_t i = 0; i < bytes / sizeof(To); ++i) {
    From element;
    std::memcpy(&element, from + i * sizeof element, sizeof element);
    const To converted = convert(element);
    std::memcpy(to + i * sizeof converted, &converted, sizeof converted);
  }
}

void copy_row(std::byte* to, const std::byte* from, std::uint64_t bytes, Cast cast) noexcept {
  switch (cast) {
    case Cast::none:
      return copy_bytes(to, from, bytes);
    case Cast::f32_to_bf16:
      return convert_row<std::uint32_t, std::uint16_t>(to, from, bytes, bf16_from_f32);
    case Cast::f32_to_f16:
      return convert_row<std::uint32_t, std::uint16_t>(to, from, bytes, f16_from_f32);
    case Cast::bf16_to_f32:
      return convert_row<std::uint16_t, std::uint32_t>(to, from, bytes, f32_from_bf16);
  }
}

}  // namespace

void copy_items(std::span<const CopyItem> items) noexcept {
  std::uint64_t done = 0;
  for (const CopyItem& item : items) {
    const std::uint64_t rows = (item.end - done) / item.row_bytes;
    for (std::uint64_t row = 0; row < rows; ++row)
      copy_row(item.to + row * item.to_pitch, item.from + row * item.from_pitch, item.row_bytes,
               item.cast);
    done = item.end;
  }
}

}  // namespace tenon
