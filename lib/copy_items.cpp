#include "copy_items.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cast.hpp"
#include "copy_bytes.hpp"

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

// Bytes of one element of the destination.
std::uint64_t element_bytes(Cast cast) noexcept {
  if (cast == Cast::none) return 1;
  return cast == Cast::bf16_to_f32 ? 4 : 2;
}

}  // namespace

bool has_rows(std::span<const CopyItem> items) noexcept {
  std::uint64_t done = 0;
  return std::any_of(items.begin(), items.end(), [&](const CopyItem& item) {
    return item.row_bytes != item.end - std::exchange(done, item.end);
  });
}

void copy_part(const CopyItem& item, std::uint64_t begin, std::uint64_t end) noexcept {
  const std::uint64_t element = element_bytes(item.cast);
  begin -= begin % element;
  end -= end % element;
  while (begin < end) {
    const std::uint64_t row = begin / item.row_bytes;
    const std::uint64_t column = begin % item.row_bytes;
    const std::uint64_t bytes = std::min(item.row_bytes - column, end - begin);
    copy_row(item.to + row * item.to_pitch + column,
             item.from + row * item.from_pitch + source_bytes(item.cast, column), bytes, item.cast);
    begin += bytes;
  }
}

void copy_items(std::span<const CopyItem> items, CopyBase base) noexcept {
  std::uint64_t done = 0;
  for (const CopyItem& item : items) {
    copy_part(base.resolve(item), 0, item.end - done);
    done = item.end;
  }
}

}  // namespace tenon
