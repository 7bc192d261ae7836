// Part of a publication: what one receiver asked for, with a layout of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tenon/lease.hpp>
#include <tenon/relay.hpp>
#include <vector>

namespace tenon::relay {

/// The layout of the parts of `all` that `options` asks for; nothing when that is all of it.
/// Throws Error(NoSuchParameter) for a pattern that meets none, Error(InvalidArgument) for a slice
/// that does not divide.
[[nodiscard]] std::optional<Layout> layout_of_parts(const Layout& all,
                                                    const ReceiverOptions& options);

/// Boxes of a publication's parameters, packed as a receiver's layout has them.
///
/// Threads:  immutable.
class Shard {
 public:
  /// Throws Error(Mismatch) naming the parameter of `wanted` that is no part of `all`.
  Shard(const Layout& wanted, const Layout& all);

  [[nodiscard]] const Layout& layout() const noexcept { return wanted_; }
  /// The version whose publish wrote the newest bytes of bucket `b`.
  [[nodiscard]] std::uint64_t written_in(std::size_t b, const Lease& lease) const;
  /// Puts bucket `b` together at `to`, in host memory. `slots`: the memory of the lease.
  void fill(std::size_t b, const Lease& lease, MemoryKind slots, std::byte* to,
            const detail::Deadline& deadline) const;

 private:
  /// One parameter's part: rows of `extent` out of `shape`, from `offset` on.
  struct Piece {
    std::size_t parameter;  ///< of the publication
    std::uint64_t at;       ///< in the wanted bucket
    std::uint64_t element;  ///< bytes
    std::vector<std::uint64_t> shape, offset, extent;
  };
  [[nodiscard]] static Piece piece_of(const Layout& wanted, std::size_t i, const Layout& all);

  Layout wanted_;
  std::vector<std::vector<Piece>> pieces_;  ///< by wanted bucket
};

}  // namespace tenon::relay
