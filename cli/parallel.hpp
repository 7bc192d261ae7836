// Work that is cut into pieces and shared by a few threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace tenon::cli {

/// Processors this process may run on, at most 8: what pays for copying.
[[nodiscard]] unsigned thread_count() noexcept;

/// Calls `work(i)` for every i below `count`, from `threads` threads, the caller among them, in
/// order of i. The first exception stops the rest and is thrown here.
void for_each_piece(std::size_t count, unsigned threads,
                    const std::function<void(std::size_t)>& work);

/// A part of a parameter's bytes.
struct Piece {
  std::size_t parameter;
  std::uint64_t offset;
  std::uint64_t bytes;
};
inline constexpr std::uint64_t kPieceBytes = 16ULL << 20U;
/// Appends parameter `i` of `bytes` bytes in pieces; an empty one gives none.
void add_pieces(std::vector<Piece>& pieces, std::size_t i, std::uint64_t bytes);

}  // namespace tenon::cli
