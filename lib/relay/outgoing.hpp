// The sending half of a transfer: buckets of a held version, one on the wire while the next ones
// are being prepared.
#pragma once

#include <algorithm>
#include <cstdint>
#include <relay/engine.hpp>
#include <relay/messages.hpp>
#include <relay/shard.hpp>
#include <tenon/lease.hpp>
#include <tenon/relay.hpp>
#include <vector>

namespace tenon::relay {

/// Where one bucket goes.
struct Route {
  std::size_t bucket = 0;
  bool broadcast = false;        ///< to the whole group
  std::vector<int> ranks{};      ///< else to these, one after another
  const Shard* shard = nullptr;  ///< whose bucket it is; null: the publication's own

  [[nodiscard]] bool goes_to(int rank) const {
    return broadcast || std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
  }
};

struct Outgoing {
  Engine& engine;
  MemoryKind slots;  ///< the memory of the lease
  std::uint32_t ahead;
};

/// Sends the buckets of `routes` in their order and adds to `report`'s buckets, bytes and times.
/// Returns the checksum of each; nothing when the bytes never are in host memory.
/// Throws what the engine does.
[[nodiscard]] std::vector<std::uint64_t> send_buckets(const Outgoing& how, const Lease& lease,
                                                      const std::vector<Route>& routes,
                                                      const detail::Deadline& deadline,
                                                      VersionReport& report);

}  // namespace tenon::relay
