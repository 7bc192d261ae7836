// The processes of a relay between nodes, and what they tell each other.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <tenon/relay.hpp>

#include "child.hpp"
#include "network.hpp"
#include "samples.hpp"

namespace tenon::bench {

/// Where a process says that the time of its versions went, one sample for each.
struct Stages {
  Series waited, transfer, prepare, wire;

  void add(const relay::VersionReport& report) noexcept;
};

/// One sender and its receivers, in memory that they share.
struct RelayBoard {
  Turn listening;  // address is there
  std::array<char, 64> address{};
  Turn group;  // number of the newest that is formed
  std::atomic<bool> ended{false};
  bool quiet = false;  // nobody is told what its relays note: receivers are lost on purpose
  Stages sent;
};

/// One receiver.
struct ReceiverBoard {
  Turn version;  // the newest that it has
  Stages received;
};

/// What a forked child of a bench does until `board.ended`: hands on publication `name` from node
/// 0. What `options` says about address and secret is filled in.
void send_from(const Network& network, const std::string& name, relay::SenderOptions options,
               RelayBoard& board);
/// Receives on `node` what that sends, and publishes it as `options.as`.
void receive_on(const Network& network, int node, relay::ReceiverOptions options, RelayBoard& board,
                ReceiverBoard& mine);

}  // namespace tenon::bench
