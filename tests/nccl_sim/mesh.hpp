// The ranks of a group, each connected with each.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "socket.hpp"

namespace tenon::nccl_sim {

/// One part of an operation between this rank and another.
struct Message {
  int peer = 0;
  std::byte* data = nullptr;  ///< sent from, or received into
  std::size_t bytes = 0;
};

/// Threads:  one at a time; shut_down() from any.
class Mesh {
 public:
  struct Self {
    int rank = 0;
    int size = 1;
    std::string gpu;  ///< of no other rank
  };

  /// Opens the door that the ranks of a new group meet at; rank 0 must be of this process.
  [[nodiscard]] static ncclUniqueId open();
  /// Meets the others. Throws Failure when they cannot be one group.
  void connect(const ncclUniqueId& id, const Self& self, const AbortFlag& aborted);

  /// Sends and receives all at once. `operation` must be the same at both ends of each message.
  void exchange(std::uint32_t operation, const std::vector<Message>& out,
                const std::vector<Message>& in, const AbortFlag& aborted);
  void shut_down() const noexcept;

 private:
  void meet_as_root(const ncclUniqueId& id, const Self& self, const AbortFlag& aborted);
  void meet(const ncclUniqueId& id, const Self& self, const AbortFlag& aborted);

  std::vector<Socket> peers_;  // by rank; of this one: none
};

}  // namespace tenon::nccl_sim
