// Random lists of things to copy, between two arenas: for the host's copying, for the kernel's
// arithmetic, and for the kernel itself.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <tenon/copy_item.hpp>
#include <vector>

namespace tenon::test {

inline constexpr std::byte kUntouched{0xA5};

/// Items as offsets into a source and a destination, which items() turns into pointers.
struct CopyCase {
  std::vector<CopyItem> table;
  std::vector<std::uint64_t> from, to;
  std::uint64_t from_bytes = 64, to_bytes = 64;  // of the arenas; both begin with a guard

  [[nodiscard]] std::uint64_t bytes() const { return table.empty() ? 0 : table.back().end; }
  /// With null pointers: offsets, for a CopyBase.
  [[nodiscard]] std::vector<CopyItem> items(const std::byte* source, std::byte* target) const {
    std::vector<CopyItem> all = table;
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i].from = CopyBase::offset<const std::byte>(from[i]);
      all[i].to = CopyBase::offset<std::byte>(to[i]);
      all[i] = CopyBase{source, target}.resolve(all[i]);
    }
    return all;
  }

  /// `rows` rows of `row` elements (bytes when there is no cast), with gaps between them, at least
  /// `from_skip` and `to_skip` elements behind what is there.
  void add(Cast cast, std::uint64_t row, std::uint64_t rows, std::uint64_t from_gap,
           std::uint64_t to_gap, std::uint64_t from_skip, std::uint64_t to_skip) {
    const std::uint64_t from_size = cast == Cast::none ? 1 : cast == Cast::bf16_to_f32 ? 2 : 4;
    const std::uint64_t to_size = cast == Cast::none ? 1 : cast == Cast::bf16_to_f32 ? 4 : 2;
    const std::uint64_t from_pitch = (row + from_gap) * from_size;
    const std::uint64_t to_pitch = (row + to_gap) * to_size;
    from.push_back((from_bytes + 63) / 64 * 64 + from_skip * from_size);
    to.push_back((to_bytes + 63) / 64 * 64 + to_skip * to_size);
    from_bytes = from.back() + rows * from_pitch + 64;
    to_bytes = to.back() + rows * to_pitch + 64;
    table.push_back({nullptr, nullptr, row * to_size, from_pitch, to_pitch,
                     bytes() + row * to_size * rows, cast, 0, 0});
  }
};

/// `most` bounds the elements of an item.
/// `rows`: whether items may have more than one.
inline CopyCase random_case(std::mt19937_64& random, std::size_t items, std::uint64_t most,
                            bool rows = true) {
  CopyCase result;
  const auto below = [&](std::uint64_t n) { return random() % n; };
  const auto scaled = [&](std::uint64_t n) {
    return 1 + below(n) / (1 + below(n));
  };  // often small
  for (std::size_t i = 0; i < items; ++i) {
    const auto cast = static_cast<Cast>(below(2) * below(4));
    const std::uint64_t unit = below(2) == 0 ? 1 : 16;  // aligned or not
    const std::uint64_t row =
        (below(3) == 0 ? 1 + below(most) : scaled(most)) / unit * unit + (unit - 1) / 15 * 16;
    const std::uint64_t count = !rows || below(2) == 0 ? 1 : 1 + below(most / row + 1);
    result.add(cast, row, count, below(3) * below(20) * unit, below(3) * below(20) * unit,
               below(unit == 1 ? 17 : 1), below(unit == 1 ? 17 : 1));
  }
  return result;
}

inline std::vector<std::byte> random_bytes(std::mt19937_64& random, std::uint64_t bytes) {
  std::vector<std::byte> result(bytes);
  for (std::size_t at = 0; at < result.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::memcpy(&result[at], &word, std::min(sizeof word, result.size() - at));
  }
  return result;
}

}  // namespace tenon::test
