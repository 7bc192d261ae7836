// A version that several senders hold partial results of, on its way to the receivers.
//
// For each run of a bucket (shares.hpp) the senders reduce-scatter among themselves, so that each
// has its own share reduced, and then each puts that share on the wire, and no other:
//
//   sender 0   a0 b0 c0 ┐                   ┌▶ a ──▶ all
//   sender 1   a1 b1 c1 ├─ reduce-scatter ──┼▶ b ──▶ all
//   sender 2   a2 b2 c2 ┘                   └▶ c ──▶ all
//
// Nobody reduces everything, and slices: that would move all bytes twice.
#pragma once

#include <cstdint>
#include <optional>
#include <relay/engine.hpp>
#include <relay/shares.hpp>
#include <tenon/detail/block.hpp>
#include <tenon/lease.hpp>
#include <tenon/relay.hpp>
#include <vector>

namespace tenon::relay {

/// Throws Error(InvalidArgument) naming a parameter that has no sum.
void check_reducible(const Layout& layout, ReduceOp op);

struct ReducerOptions {
  ReduceOp op = ReduceOp::mean;
  int senders = 2;
  MemoryKind slots = MemoryKind::host;  ///< the memory of the leases
  std::uint32_t ahead = 2;              ///< buckets copied while one is on the wire
};

/// Where one version goes.
struct Handover {
  Engine& all;
  Engine& senders;
  const std::vector<int>& takers;  ///< ranks; not empty
};

/// One sender's part. All senders of a group call run() for the same versions and takers.
///
/// Memory: host memory for ahead + 1 buckets, kept from version to version.
class Reducer {
 public:
  /// For a layout that can be reduced.
  Reducer(const Layout& layout, const ReducerOptions& options);
  /// Adds to `report`'s buckets, bytes and times. At the first sender, which gets all shares:
  /// returns the checksum of each bucket. Throws what the engines do.
  std::vector<std::uint64_t> run(const Handover& to, const Lease& lease,
                                 const detail::Deadline& deadline, VersionReport& report);

 private:
  /// A run in a room: padded with zeros to as many full shares as there are senders.
  struct PaddedRun {
    Run run;
    std::vector<Share> shares;
    std::uint64_t elements;  ///< of a full share
    std::uint64_t at;        ///< bytes, in the room
    [[nodiscard]] std::uint64_t place(const Share& share) const noexcept {
      return at + share.offset - run.offset;
    }
  };
  [[nodiscard]] std::byte* room(std::size_t bucket) const noexcept {
    return rooms_[bucket % rooms_.size()].get();
  }
  void prepare(const Lease& lease, std::size_t bucket, const detail::Deadline& deadline) const;
  void hand_over(const Handover& to, std::size_t bucket, const detail::Deadline& deadline) const;
  [[nodiscard]] std::uint64_t sum(std::size_t bucket) const;

  ReducerOptions options_;
  std::vector<std::vector<PaddedRun>> buckets_;
  std::vector<detail::Block> rooms_;  ///< of buckets in turn
};

/// The sender's, if its options want one. Throws Error(InvalidArgument) when they cannot be right
/// or the layout cannot be reduced.
[[nodiscard]] std::optional<Reducer> make_reducer(const SenderOptions& options,
                                                  const Layout& layout, MemoryKind slots);

}  // namespace tenon::relay
