// One address for both ways: by shared memory when the publisher is on this node, else by a relay.
//
//   auto policy = tenon::connect("tenon://10.0.0.1:4711/policy", {.secret = secret});
//   auto lease = policy->wait(tenon::newest(), 30s);
//   std::puts(policy.how().c_str());                   // "shared memory", "relay: other node", …
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/relay.hpp>
#include <tenon/subscriber.hpp>

namespace tenon {

namespace relay {
class Feeder;
}

struct ConnectOptions {
  AttachOptions attach{};  ///< its deadline is for everything together
  std::string secret{};
  /// Of the publication on this node, when one has to be made: name (default: the sender's),
  /// memory, mode and part as in relay::ReceiverOptions; `from`, `secret` and `label` are ignored.
  relay::ReceiverOptions receiver{};
  std::function<void(const std::string&)> log{};  ///< one line each: why a relay, joined, lost
};

/// A subscriber, and the receiver that feeds it when there had to be one.
///
/// Errors:   use after the publication's end: as of Subscriber. Connect again then, when this
/// object
///           is gone: it may hold this node's relay.
/// Threads:  those of Subscriber.
/// Lifetime: leases may outlive it, except those of GPU memory that a receiver in it published.
class Connected {
 public:
  Connected(Connected&&) noexcept;
  Connected& operator=(Connected&&) noexcept;
  ~Connected();

  [[nodiscard]] Subscriber& operator*() noexcept { return *subscriber_; }
  [[nodiscard]] Subscriber* operator->() noexcept { return &*subscriber_; }
  /// "shared memory"; "relay: " and the reason when this object receives for the node; "relay of
  /// this node" when another process does. The publication's label (`tenon inspect`) has it too.
  [[nodiscard]] const std::string& how() const noexcept { return how_; }

 private:
  Connected(std::unique_ptr<relay::Feeder> feeder, Subscriber subscriber, std::string how);
  friend Connected connect(std::string_view, const ConnectOptions&);

  std::unique_ptr<relay::Feeder> feeder_;  ///< null without a relay in this process
  std::optional<Subscriber> subscriber_;
  std::string how_;
};

/// `address` is tenon://HOST:PORT/NAME, of a Sender. Attaches to NAME by shared memory when it is
/// the sender's own publication; else to this node's relay of it, which it becomes when there is
/// none: one transfer per node, whoever comes first receives for all.
///
/// Errors: InvalidArgument (the address), Mismatch (the sender hands on another name); those of
///         relay::Receiver and of Subscriber::attach.
[[nodiscard]] Connected connect(std::string_view address, const ConnectOptions& options = {});

}  // namespace tenon
