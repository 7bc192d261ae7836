// The three calls that engines with a "parameter update group" have (SGLang's
// init_weights_update_group, update_weights_from_distributed, get_weights_by_name), on a relay.
//
//   auto group = tenon::relay::UpdateGroup::init({.address = "10.0.0.1", .port = 4711, .name =
//   "policy",
//                                                 .rank_offset = 1, .world_size = 3, .secret =
//                                                 secret});
//   std::uint64_t version = group.update({{"lm_head.weight", tenon::Dtype::bf16, {151936, 2048}}},
//   30s); std::vector<double> first = group.get("lm_head.weight", 8);
//
// The trainer's side is a Sender that expects world_size - 1 receivers.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tenon/relay.hpp>
#include <tenon/subscriber.hpp>
#include <vector>

namespace tenon::relay {

struct UpdateGroupOptions {
  std::string address{};  ///< of the trainer's sender, without the port
  std::uint16_t port = 0;
  std::string name{};   ///< of the group: that of the publication
  int rank_offset = 1;  ///< this engine's first rank, 1 to world_size - 1; the trainer is 0
  int world_size = 2;   ///< ranks in all, the trainer's included
  std::string secret{};
  Duration timeout = std::chrono::seconds(60);  ///< for all ranks to be in the group
  ReceiverOptions receiver{};  ///< memory, mode, part and name on this node; the rest is ignored
};

/// A parameter as the caller believes it to be.
struct Expected {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::uint64_t> shape{};
};

/// An engine's end of the group. It receives in a thread of its own.
///
/// Errors:   init: InvalidArgument, those of Receiver; DeadlinePassed, which says how many ranks
///           are there; Mismatch when there are more. update: DeadlinePassed, Mismatch (naming the
///           parameter), NoSuchParameter, PeerGone and others with which receiving ended. get:
///           NoSuchParameter, InvalidArgument before the first update.
/// Threads:  one at a time.
/// Lifetime: views of version() while it is held: until the next update(), or the object's end.
class UpdateGroup {
 public:
  /// Joins, and returns when `world_size` ranks are in the group and have warmed up.
  [[nodiscard]] static UpdateGroup init(const UpdateGroupOptions& options);
  UpdateGroup(UpdateGroup&&) noexcept;
  UpdateGroup& operator=(UpdateGroup&&) noexcept;
  ~UpdateGroup();

  /// Lets go of the version before and waits for a newer one, whole. Returns its number.
  std::uint64_t update(Duration timeout);
  /// The same, when the layout has every one of `expected` with that dtype and shape: otherwise
  /// throws, and waits for nothing.
  std::uint64_t update(const std::vector<Expected>& expected, Duration timeout);
  /// The first `count` values (fewer when there are fewer) of a parameter of the version held.
  [[nodiscard]] std::vector<double> get(std::string_view name, std::size_t count);
  /// The version held, for views without a copy.
  [[nodiscard]] const Lease& version() const;
  [[nodiscard]] int world_size() const noexcept;
  [[nodiscard]] int rank_offset() const noexcept;

 private:
  class Impl;
  explicit UpdateGroup(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenon::relay
