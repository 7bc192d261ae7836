// The receiving half of a transfer: buckets into the slots of a version being written, one on the
// wire while the ones before it are being checked and placed.
#pragma once

#include <cstdint>
#include <relay/engine.hpp>
#include <relay/messages.hpp>
#include <tenon/publisher.hpp>
#include <tenon/relay.hpp>
#include <vector>

namespace tenon::relay {

struct Incoming {
  Engine& engine;
  MemoryKind slots;  ///< the memory of the publication
  std::uint32_t ahead;
  int senders = 1;  ///< that each bucket comes from
};

/// Receives, or keeps, every bucket as `plan` says, and adds to `report`. Returns the checksum of
/// each that came; nothing when the bytes never are in host memory.
/// Throws what the engine and the update do.
[[nodiscard]] std::vector<std::uint64_t> receive_buckets(
    const Incoming& how, Publisher::Update& update, const Layout& layout, const std::string& plan,
    const detail::Deadline& deadline, VersionReport& report);

}  // namespace tenon::relay
