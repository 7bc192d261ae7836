// What carries bytes between nodes: a group of ranks and the collective operations on it.
//
// Two engines implement it, Gloo for host memory and NCCL for GPU memory; tests/relay runs one
// contract suite on both. An engine lives for one group: when a member is lost it is aborted and
// thrown away, and a new group gets a new engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tenon/detail/wait.hpp>
#include <tenon/types.hpp>

namespace tenon::relay {

/// What the ranks of a group tell each other while they connect: small values under names. One
/// store serves one group; whoever makes it puts the group's number in front of the keys.
///
/// Errors:   get: DeadlinePassed when nobody set the key, PeerGone when a member is lost.
/// Threads:  any.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(std::string_view key, std::string_view value) = 0;
  /// Waits until somebody has set `key`.
  [[nodiscard]] virtual std::string get(std::string_view key, const detail::Deadline& deadline) = 0;
};

/// This process's part in a group.
struct Membership {
  int rank = 0;
  int size = 1;
  std::string address = "127.0.0.1";  ///< of this node, where the other ranks reach it; Gloo
  Store* store = nullptr;             ///< outlives the engine's making, not the engine
};

/// How several ranks' elements become one. `mean` is the sum divided by the group's size. Gloo sums
/// 16- and 8-bit floats in f32 and rounds once. NCCL may round after each rank that it adds,
/// divides floats before it adds, and takes no 8-bit floats nor 16-bit integers here.
enum class ReduceOp : std::uint8_t { sum, mean };

/// A connected group.
///
/// Units:    bytes, except where "elements" is said.
/// Errors:   DeadlinePassed: the operation did not end in time, and the engine is of no more use;
///           PeerGone: a member is lost, likewise; Aborted: abort() was called; InvalidArgument:
///           a dtype that cannot be reduced, a rank outside the group (nothing was sent). When an
///           operation throws, what it was to write holds anything. Never does one return as if
///           it had succeeded.
/// Threads:  one operation at a time; abort() from any thread, at any time.
/// Memory:   all pointers are of memory(): host memory, or GPU memory of the engine's device. On
///           return the operation has finished: received bytes are there, and what was sent may be
///           overwritten.
/// Order:    all members call the same operations with the same sizes in the same order; send and
///           receive are matched per pair of ranks.
class Engine {
 public:
  virtual ~Engine() = default;
  [[nodiscard]] virtual MemoryKind memory() const noexcept = 0;
  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;

  /// A first collective of a few bytes, by all members: pays what the first one costs.
  virtual void warm_up(const detail::Deadline& deadline) = 0;
  /// `data` of rank `root` arrives in `data` of all others.
  virtual void broadcast(std::byte* data, std::size_t bytes, int root,
                         const detail::Deadline& deadline) = 0;
  /// `output` (size() x `bytes`) becomes every rank's `input` in order of rank.
  virtual void all_gather(const std::byte* input, std::byte* output, std::size_t bytes,
                          const detail::Deadline& deadline) = 0;
  /// `input` holds size() parts of `elements`; `output` becomes this rank's part, reduced.
  virtual void reduce_scatter(const std::byte* input, std::byte* output, std::size_t elements,
                              Dtype dtype, ReduceOp op, const detail::Deadline& deadline) = 0;
  /// `data` of every rank becomes all ranks' elements, reduced; the same bytes everywhere.
  virtual void all_reduce(std::byte* data, std::size_t elements, Dtype dtype, ReduceOp op,
                          const detail::Deadline& deadline) = 0;
  virtual void send(const std::byte* data, std::size_t bytes, int to,
                    const detail::Deadline& deadline) = 0;
  virtual void receive(std::byte* data, std::size_t bytes, int from,
                       const detail::Deadline& deadline) = 0;

  /// The operation in progress and all later ones throw Aborted, within some milliseconds.
  virtual void abort() noexcept = 0;
  /// Payload bytes that this rank has put on the wire.
  [[nodiscard]] virtual std::uint64_t bytes_sent() const noexcept = 0;
};

/// Connects the group over TCP for host memory. Ends when all ranks are connected.
[[nodiscard]] std::unique_ptr<Engine> make_gloo_engine(const Membership& membership,
                                                       const detail::Deadline& deadline);

/// Connects the group with NCCL for the memory of GPU `device` (its ordinal in this process).
/// libnccl is looked for in this process
/// first, then by the loader; NoEngine says what was tried when there is none.
[[nodiscard]] std::unique_ptr<Engine> make_nccl_engine(const Membership& membership, int device,
                                                       const detail::Deadline& deadline);
/// Why make_nccl_engine() would throw NoEngine here; empty when it would not.
[[nodiscard]] std::string why_no_nccl();

}  // namespace tenon::relay
