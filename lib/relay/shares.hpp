// Who puts which bytes of a bucket on the wire.
//
// Where several senders reduce a bucket together, it is cut into runs of one dtype, and each run
// into one share for each sender: as many elements each, except that the last ones are shorter, or
// missing, where it does not divide. Pure: every member of a group comes to the same answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tenon/layout.hpp>
#include <tenon/types.hpp>
#include <vector>

namespace tenon::relay {

/// Parameters of one dtype that follow each other in a bucket, with the padding between them: it is
/// reduced as if it were elements, and nobody looks at what comes out.
struct Run {
  Dtype dtype;
  std::uint64_t offset;  ///< bytes, in the bucket
  std::uint64_t bytes;   ///< a multiple of the element size; never 0
};

/// What one sender puts on the wire.
struct Share {
  int sender;            ///< its rank
  std::uint64_t offset;  ///< bytes, in the bucket
  std::uint64_t bytes;
};

/// In order of offset. Between runs may be bytes of none, which do not travel.
[[nodiscard]] std::vector<Run> runs_of(const Layout& layout, std::size_t bucket);

/// Elements of a full share of `run`: rounded up, so that `senders` of them cover it.
[[nodiscard]] std::uint64_t share_elements(const Run& run, int senders) noexcept;
/// In order of sender and of offset; together they cover `run`.
[[nodiscard]] std::vector<Share> shares_of(const Run& run, int senders);
/// Those of all runs, in the order in which they travel. From one sender: the bucket as it is.
[[nodiscard]] std::vector<Share> shares_of(const Layout& layout, std::size_t bucket, int senders);

/// The checksum of a bucket so far, with that of its next share.
[[nodiscard]] constexpr std::uint64_t add_share(std::uint64_t sums, std::uint64_t sum) noexcept {
  return sums * 31 + sum;
}

}  // namespace tenon::relay
