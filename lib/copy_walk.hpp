// How the blocks and threads of the copy kernel divide their work: everything of it but the loads
// and stores, so that the tests can run it, thread by thread, on a CPU.
//
// Blocks: the destination bytes of all items, one item after the other, are cut into tiles. In
// front of each item's bytes lies an imaginary kItemCost, so that a crowd of tiny items is dealt
// out too. A block finds its tile's first item by a search. There are two kernels:
//   items of one row   a block for each tile. The GPU starts blocks in order, so what is copied at
//                      one time lies close together; blocks that stay drift apart, which costs
//                      bandwidth (docs/performance.md). Two blocks share a multiprocessor, so that
//                      one searches while the other copies; their registers let no third be.
//   rows (kRows)       takes twice the registers: one block for each multiprocessor stays, and
//                      takes tiles in turn.
//
// Inside a block, of each item its part of the tile is copied in one of two ways:
//   runs   row by row, each by one team (a warp for short rows, else all threads): bytes up to the
//          first address where wide accesses are possible, those, and the bytes left over. Which
//          team begins changes from item to item, so that small items are copied side by side.
//   block  many short rows at once, as one sequence of accesses so wide that they divide all rows
//          and pitches.
// "Elements" are bytes for a plain copy and numbers for a cast: nothing splits a number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tenon/copy_item.hpp>

#include "cast.hpp"

#if defined(__CUDACC__)
#define TENON_HOST_DEVICE __host__ __device__
#define TENON_DEVICE __device__
#else
#define TENON_HOST_DEVICE
#define TENON_DEVICE
#endif
#if defined(__CUDA_ARCH__)
#define TENON_UNROLL _Pragma("unroll")
#else
#define TENON_UNROLL
#endif

namespace tenon::walk {

inline constexpr std::uint32_t kThreads = 512;  // of a block
template <bool kRows>
inline constexpr std::uint32_t kBlocks = kRows ? 1 : 2;  // of a multiprocessor, at one time
inline constexpr std::uint32_t kWarp = 32;
inline constexpr std::uint32_t kInFlight = 4;  // accesses of a thread before it waits for the first
inline constexpr std::uint64_t kItemCost = 2048;  // what one item more costs a block, in bytes
inline constexpr std::uint64_t kGranule = 4096;   // tiles are multiples of it
inline constexpr std::uint64_t kTileMin = 32768;  // a block for less is not worth its start
inline constexpr std::uint64_t kTileMax = 65536;
inline constexpr std::uint64_t kTilesPerBlock =
    32;                                            // that stays: at least, before tiles get larger
inline constexpr std::uint64_t kBlockRow = 32768;  // longer rows keep all threads busy one by one
inline constexpr std::uint64_t kWarpRow = 16384;   // shorter ones only a warp
inline constexpr std::uint64_t kTinyRow = 512;     // and these not even that

struct Span {
  std::uint64_t begin, end;
};
/// The index-th of `count` threads, teams or blocks.
struct Place {
  std::uint32_t index, count;
};

[[nodiscard]] TENON_HOST_DEVICE constexpr std::uint64_t smaller(std::uint64_t a,
                                                                std::uint64_t b) noexcept {
  return a < b ? a : b;
}
[[nodiscard]] TENON_HOST_DEVICE constexpr std::uint64_t lowest_bit(std::uint64_t x) noexcept {
  return x & (~x + 1);
}
[[nodiscard]] TENON_HOST_DEVICE inline std::uint64_t address(const void* pointer) noexcept {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

// --- Blocks ---

[[nodiscard]] TENON_HOST_DEVICE constexpr std::uint64_t total_cost(std::uint64_t bytes,
                                                                   std::uint32_t count) noexcept {
  return bytes + count * kItemCost;
}
/// How a list is dealt out: tiles of so many bytes of cost, to so many blocks.
struct Deal {
  std::uint64_t tile;
  std::uint32_t blocks;
};
template <bool kRows>
[[nodiscard]] TENON_HOST_DEVICE constexpr Deal deal_of(std::uint64_t cost,
                                                       std::uint32_t multiprocessors) noexcept {
  const std::uint64_t at_once = std::uint64_t{multiprocessors} * kBlocks<kRows>;
  std::uint64_t tile = cost / (kRows ? at_once * kTilesPerBlock : at_once) / kGranule * kGranule;
  tile = tile < kTileMin ? kTileMin : smaller(tile, kTileMax);
  const std::uint64_t tiles = (cost + tile - 1) / tile;
  return {tile, static_cast<std::uint32_t>(kRows ? smaller(tiles, at_once) : tiles)};
}
/// Whether an item's bytes, and what it costs, end before `at`.
[[nodiscard]] TENON_HOST_DEVICE inline bool is_before(const CopyItem* table, std::uint32_t item,
                                                      std::uint64_t at) noexcept {
  return table[item].end + (item + std::uint64_t{1}) * kItemCost <= at;
}
/// The item that `at` falls into; `count` when behind the last. The lanes of a warp look at a place
/// each, so that a thousand items take two loads, one behind the other, where halving takes ten.
template <class Access>
[[nodiscard]] TENON_DEVICE std::uint32_t item_at(const CopyItem* table, std::uint32_t count,
                                                 std::uint64_t at) noexcept {
  std::uint32_t low = 0;
  std::uint32_t high = count;
  while (low < high) {
    const std::uint32_t step = (high - low + kWarp - 1) / kWarp;
    low += step * Access::lanes_where([=](std::uint32_t lane) {
             const std::uint32_t place = low + (lane + 1) * step - 1;
             return place < high && is_before(table, place, at);
           });
    high = high < low + step - 1 ? high : low + step - 1;
  }
  return low;
}
/// Which of an item's own bytes a tile has, when they begin behind `before`, cost included.
/// Boundaries are rounded down to whole elements, whose size is a power of two; both tiles that
/// meet there round alike.
[[nodiscard]] TENON_HOST_DEVICE constexpr Span part_of(Span tile, std::uint64_t before,
                                                       std::uint64_t bytes,
                                                       std::uint32_t element) noexcept {
  const std::uint64_t begin = tile.begin > before ? smaller(tile.begin - before, bytes) : 0;
  const std::uint64_t end = tile.end > before ? smaller(tile.end - before, bytes) : 0;
  return {begin & -std::uint64_t{element}, end & -std::uint64_t{element}};
}

// --- Rows ---

struct Sizes {
  std::uint32_t from, to;  ///< bytes of an element
  std::uint32_t widest;    ///< elements of the widest access
};
[[nodiscard]] TENON_HOST_DEVICE constexpr Sizes sizes_of(Cast cast) noexcept {
  if (cast == Cast::none) return {1, 1, 16};
  return cast == Cast::bf16_to_f32 ? Sizes{2, 4, 4} : Sizes{4, 2, 4};
}

/// Elements that lie one behind the other on both sides.
struct Run {
  const std::byte* from;
  std::byte* to;
  std::uint64_t elements;
};
/// What `part` has of a row.
[[nodiscard]] TENON_HOST_DEVICE inline Run run_of(const CopyItem& item, Span part,
                                                  std::uint64_t row, Sizes sizes) noexcept {
  const std::uint64_t row_begin = row * item.row_bytes;
  const std::uint64_t begin = part.begin > row_begin ? part.begin - row_begin : 0;
  const std::uint64_t end = smaller(part.end - row_begin, item.row_bytes);
  return {item.from + row * item.from_pitch + begin / sizes.to * sizes.from,
          item.to + row * item.to_pitch + begin, (end - begin) / sizes.to};
}

/// What `widest` and addresses with the bits `misaligned` allow, in elements. A cast is wide or
/// not.
[[nodiscard]] TENON_HOST_DEVICE constexpr std::uint32_t width_of(std::uint64_t misaligned,
                                                                 Sizes sizes) noexcept {
  const auto width = static_cast<std::uint32_t>(lowest_bit(misaligned | sizes.widest));
  return sizes.from == sizes.to || width == sizes.widest ? width : 1;
}

/// How to copy a run: `head` elements one by one, then accesses of `width`.
struct Split {
  std::uint32_t width;
  std::uint64_t head;
};
[[nodiscard]] TENON_HOST_DEVICE inline Split split(const Run& run, Sizes sizes) noexcept {
  const std::uint64_t to = address(run.to) / sizes.to;
  const std::uint32_t width = width_of(to ^ (address(run.from) / sizes.from), sizes);
  return {width, smaller((~to + 1) & (width - 1), run.elements)};
}

/// The widest access, in elements, that divides all rows and what lies between them.
[[nodiscard]] TENON_HOST_DEVICE inline std::uint32_t block_width(const CopyItem& item,
                                                                 Sizes sizes) noexcept {
  const std::uint64_t from = (address(item.from) | item.from_pitch) / sizes.from;
  const std::uint64_t to = (address(item.to) | item.to_pitch | item.row_bytes) / sizes.to;
  return width_of(from | to, sizes);
}
/// Whether to copy an item of so many bytes as a block, not as runs.
[[nodiscard]] TENON_HOST_DEVICE inline bool as_block(const CopyItem& item, std::uint64_t bytes,
                                                     Sizes sizes) noexcept {
  if (item.row_bytes == bytes) return false;
  if (item.row_bytes < kTinyRow) return true;
  return item.row_bytes < kBlockRow && block_width(item, sizes) == sizes.widest;
}

/// Rows of units, a unit being what one access moves.
struct Block {
  const std::byte* from;
  std::byte* to;
  std::uint64_t units;  ///< of a row
  std::uint64_t rows;
  std::uint64_t from_pitch, to_pitch;
};

/// Walks a lane's units of a block, row by row, with no division but at the start. Offsets are
/// those from the first row; behind the last row they mean nothing, but cost nothing either.
class Cursor {
 public:
  TENON_HOST_DEVICE Cursor(const Block& block, std::uint32_t from_bytes, std::uint32_t to_bytes,
                           Place lane) noexcept
      : units_(block.units), column_(lane.index), step_columns_(lane.count) {
    std::uint64_t row = 0;
    std::uint64_t step_rows = 0;
    if (units_ <= lane.count) {
      row = lane.index / units_;
      column_ = lane.index % units_;
      step_rows = lane.count / units_;
      step_columns_ = lane.count % units_;
    }
    from_ = row * block.from_pitch + column_ * from_bytes;
    to_ = row * block.to_pitch + column_ * to_bytes;
    step_from_ = step_rows * block.from_pitch + step_columns_ * from_bytes;
    step_to_ = step_rows * block.to_pitch + step_columns_ * to_bytes;
    wrap_from_ = block.from_pitch - units_ * from_bytes;
    wrap_to_ = block.to_pitch - units_ * to_bytes;
  }

  [[nodiscard]] TENON_HOST_DEVICE std::uint64_t from() const noexcept { return from_; }
  [[nodiscard]] TENON_HOST_DEVICE std::uint64_t to() const noexcept { return to_; }
  /// As many units on as there are lanes.
  TENON_HOST_DEVICE void advance() noexcept {
    const bool wraps = (column_ += step_columns_) >= units_;
    column_ -= wraps ? units_ : 0;
    from_ += step_from_ + (wraps ? wrap_from_ : 0);
    to_ += step_to_ + (wraps ? wrap_to_ : 0);
  }

 private:
  std::uint64_t units_, column_, step_columns_;
  std::uint64_t from_, to_;
  std::uint64_t step_from_, step_to_;
  std::uint64_t wrap_from_, wrap_to_;  // from behind a row to the next; modulo 2^64
};

// --- Copying. `Access` loads and stores: Word<N> load<N>(from), store(to, Word<N>). It also tells
// of how many of a warp's lanes something holds: lanes_where(of a lane) ---

template <std::uint32_t kBytes>
struct Word {
  std::uint32_t part[kBytes / 4];
};
template <>
struct Word<2> {
  std::uint16_t part[1];
};
template <>
struct Word<1> {
  std::uint8_t part[1];
};

/// One access's elements, converted. Two 16-bit numbers share a part, the first in its low half.
template <Cast kCast, std::uint32_t kWidth>
[[nodiscard]] TENON_HOST_DEVICE constexpr auto convert(
    const Word<kWidth * sizes_of(kCast).from>& in) noexcept {
  if constexpr (kCast == Cast::none) {
    return in;
  } else {
    Word<kWidth * sizes_of(kCast).to> out{};
    TENON_UNROLL
    for (std::uint32_t i = 0; i < kWidth; ++i) {
      const std::uint32_t shift = i % 2 * 16;
      if constexpr (kCast == Cast::bf16_to_f32) {
        out.part[i] = f32_from_bf16(static_cast<std::uint16_t>(in.part[i / 2] >> shift));
      } else {
        const std::uint32_t number =
            kCast == Cast::f32_to_bf16 ? bf16_from_f32(in.part[i]) : f16_from_f32(in.part[i]);
        using Part = std::remove_reference_t<decltype(out.part[0])>;
        out.part[i / 2] = static_cast<Part>(out.part[i / 2] | number << shift);
      }
    }
    return out;
  }
}

/// One round of a lane: kInFlight accesses of kWidth elements, `apart` units from each other, as
/// far as `left` units go (kAll: known to be far enough).
template <Cast kCast, std::uint32_t kWidth, bool kAll, class Access>
TENON_DEVICE void copy_round(const std::byte* from, std::byte* to, std::uint32_t apart,
                             std::uint64_t left) noexcept {
  constexpr std::uint32_t kFrom = kWidth * sizes_of(kCast).from;
  constexpr std::uint32_t kTo = kWidth * sizes_of(kCast).to;
  Word<kFrom> held[kInFlight];
  TENON_UNROLL
  for (std::uint32_t k = 0; k < kInFlight; ++k) {
    if (kAll || k * apart < left)
      held[k] = Access::template load<kFrom>(from + std::size_t{k * apart} * kFrom);
  }
  TENON_UNROLL
  for (std::uint32_t k = 0; k < kInFlight; ++k) {
    if (kAll || k * apart < left)
      Access::template store<kTo>(to + std::size_t{k * apart} * kTo,
                                  convert<kCast, kWidth>(held[k]));
  }
}

/// A lane's share of so many units of kWidth elements, one behind the other.
template <Cast kCast, std::uint32_t kWidth, class Access>
TENON_DEVICE void copy_units(const std::byte* from, std::byte* to, std::uint64_t units,
                             Place lane) noexcept {
  constexpr std::uint32_t kFrom = kWidth * sizes_of(kCast).from;
  constexpr std::uint32_t kTo = kWidth * sizes_of(kCast).to;
  const std::uint64_t round = std::uint64_t{lane.count} * kInFlight;
  std::uint64_t at = lane.index;
  for (; at + lane.count * (kInFlight - 1) < units; at += round)
    copy_round<kCast, kWidth, true, Access>(from + at * kFrom, to + at * kTo, lane.count, 0);
  if (at < units)
    copy_round<kCast, kWidth, false, Access>(from + at * kFrom, to + at * kTo, lane.count,
                                             units - at);
}

/// A lane's share of a block in units of kWidth elements.
template <Cast kCast, std::uint32_t kWidth, class Access>
TENON_DEVICE void copy_block(const Block& block, Place lane) noexcept {
  constexpr std::uint32_t kFrom = kWidth * sizes_of(kCast).from;
  constexpr std::uint32_t kTo = kWidth * sizes_of(kCast).to;
  const std::uint64_t total = block.rows * block.units;
  if (lane.index >= total) return;
  Cursor cursor(block, kFrom, kTo, lane);
  for (std::uint64_t at = lane.index; at < total; at += kInFlight * lane.count) {
    Word<kFrom> held[kInFlight];
    std::uint64_t offset[kInFlight];
    TENON_UNROLL
    for (std::uint32_t k = 0; k < kInFlight; ++k) {
      if (k * lane.count < total - at)
        held[k] = Access::template load<kFrom>(block.from + cursor.from());
      offset[k] = cursor.to();
      cursor.advance();
    }
    TENON_UNROLL
    for (std::uint32_t k = 0; k < kInFlight; ++k) {
      if (k * lane.count < total - at)
        Access::template store<kTo>(block.to + offset[k], convert<kCast, kWidth>(held[k]));
    }
  }
}

/// copy_block() with units of `width` elements. A cast has only the widest and the narrowest.
template <Cast kCast, std::uint32_t kWidth, class Access>
TENON_DEVICE void copy_block_of(std::uint32_t width, const Block& block, Place lane) noexcept {
  if (width == kWidth)
    copy_block<kCast, kWidth, Access>(block, lane);
  else if constexpr (kWidth > 1)
    copy_block_of<kCast, kCast == Cast::none ? kWidth / 2 : 1, Access>(width, block, lane);
}

template <Cast kCast, class Access>
TENON_DEVICE void copy_element(const Run& run, std::uint64_t index) noexcept {
  constexpr Sizes kSizes = sizes_of(kCast);
  Access::template store<kSizes.to>(
      run.to + index * kSizes.to,
      convert<kCast, 1>(Access::template load<kSizes.from>(run.from + index * kSizes.from)));
}

/// A run that begins where accesses of `width` elements can; a cast has only the widest and the
/// narrowest. kWidth is known to the compiler: a division by `width` costs more than a search.
template <Cast kCast, std::uint32_t kWidth, class Access>
TENON_DEVICE void copy_wide(std::uint32_t width, const Run& run, Place lane) noexcept {
  if (width == kWidth) {
    const std::uint64_t tail = run.elements % kWidth;
    // At most 15 elements, and at least kWarp lanes.
    if (lane.index < tail) copy_element<kCast, Access>(run, run.elements - tail + lane.index);
    copy_units<kCast, kWidth, Access>(run.from, run.to, run.elements / kWidth, lane);
  } else if constexpr (kWidth > 1) {
    copy_wide<kCast, kCast == Cast::none ? kWidth / 2 : 1, Access>(width, run, lane);
  }
}

template <Cast kCast, class Access>
TENON_DEVICE void copy_run(const Run& run, Place lane) noexcept {
  constexpr Sizes kSizes = sizes_of(kCast);
  const Split s = split(run, kSizes);
  if (lane.index < s.head) copy_element<kCast, Access>(run, lane.index);
  copy_wide<kCast, kSizes.widest, Access>(
      s.width,
      {run.from + s.head * kSizes.from, run.to + s.head * kSizes.to, run.elements - s.head}, lane);
}

/// A thread's work for an item of several rows, of which the block has `part`.
template <Cast kCast, class Access>
TENON_DEVICE void copy_rows(const CopyItem& item, std::uint64_t bytes, std::uint32_t index,
                            Span part, std::uint32_t thread) noexcept {
  constexpr Sizes kSizes = sizes_of(kCast);
  const Span touched{part.begin / item.row_bytes, (part.end - 1) / item.row_bytes + 1};
  Span whole{touched.end, touched.end};  // rows copied as a block, not as runs
  if (as_block(item, bytes, kSizes)) {
    whole.begin = touched.begin + (part.begin % item.row_bytes == 0 ? 0 : 1);
    whole.end = part.end / item.row_bytes;
    if (whole.begin < whole.end) {
      const std::uint32_t width = block_width(item, kSizes);
      copy_block_of<kCast, kSizes.widest, Access>(
          width,
          {item.from + whole.begin * item.from_pitch, item.to + whole.begin * item.to_pitch,
           item.row_bytes / (width * kSizes.to), whole.end - whole.begin, item.from_pitch,
           item.to_pitch},
          {thread, kThreads});
    }
  }
  if (whole.begin >= whole.end) whole = {touched.end, touched.end};
  const std::uint32_t lanes = item.row_bytes < kWarpRow ? kWarp : kThreads;
  const std::uint32_t teams = kThreads / lanes;
  const std::uint64_t in_block = whole.end - whole.begin;
  for (std::uint64_t i = (thread / lanes + index) % teams;
       i < touched.end - touched.begin - in_block; i += teams) {
    const std::uint64_t row = touched.begin + i;
    copy_run<kCast, Access>(run_of(item, part, row < whole.begin ? row : row + in_block, kSizes),
                            {thread % lanes, lanes});
  }
}

/// A thread's work for the index-th item, of `bytes` bytes, of which the block has `part`. One row
/// is what nearly all items are: it takes no division and few registers.
template <Cast kCast, bool kRows, class Access>
TENON_DEVICE void copy_part(const CopyItem& item, std::uint64_t bytes, std::uint32_t index,
                            Span part, std::uint32_t thread) noexcept {
  if (part.begin == part.end) return;
  if constexpr (kRows)
    if (item.row_bytes != bytes) return copy_rows<kCast, Access>(item, bytes, index, part, thread);
  const bool by_all = bytes >= kWarpRow;
  if (!by_all && (thread / kWarp + index) % (kThreads / kWarp) != 0) return;
  copy_run<kCast, Access>(run_of(item, part, 0, sizes_of(kCast)),
                          by_all ? Place{thread, kThreads} : Place{thread % kWarp, kWarp});
}

/// What one thread does of a tile, whose first item is the index-th.
template <bool kRows, class Access>
TENON_DEVICE void copy_tile(const CopyItem* table, std::uint32_t count, CopyBase base, Span tile,
                            std::uint32_t index, std::uint32_t thread) noexcept {
  std::uint64_t begin = index == 0 ? 0 : table[index - 1].end;
  for (std::uint32_t i = index; i < count && begin + i * kItemCost < tile.end; ++i) {
    const CopyItem item = base.resolve(table[i]);
    const std::uint64_t size = item.end - begin;
    const std::uint64_t before = begin + (i + std::uint64_t{1}) * kItemCost;
    const Span part = part_of(tile, before, size, sizes_of(item.cast).to);
    switch (item.cast) {
      case Cast::none:
        copy_part<Cast::none, kRows, Access>(item, size, i, part, thread);
        break;
      case Cast::f32_to_bf16:
        copy_part<Cast::f32_to_bf16, kRows, Access>(item, size, i, part, thread);
        break;
      case Cast::f32_to_f16:
        copy_part<Cast::f32_to_f16, kRows, Access>(item, size, i, part, thread);
        break;
      case Cast::bf16_to_f32:
        copy_part<Cast::bf16_to_f32, kRows, Access>(item, size, i, part, thread);
        break;
    }
    begin = item.end;
  }
}

/// The kernel: what one thread, of kThreads, of a block does. `tile` is that of deal_of().
template <bool kRows, class Access>
TENON_DEVICE void copy(const CopyItem* table, std::uint32_t count, std::uint64_t bytes,
                       CopyBase base, std::uint64_t tile, Place block,
                       std::uint32_t thread) noexcept {
  const std::uint64_t cost = total_cost(bytes, count);
  for (std::uint64_t at = block.index * tile; at < cost; at += block.count * tile) {
    copy_tile<kRows, Access>(table, count, base, {at, at + tile}, item_at<Access>(table, count, at),
                             thread);
  }
}

}  // namespace tenon::walk

#undef TENON_HOST_DEVICE
#undef TENON_DEVICE
#undef TENON_UNROLL
