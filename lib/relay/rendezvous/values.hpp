// The values of the groups' stores, as one end of a connection knows them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <relay/rendezvous/proof.hpp>
#include <relay/rendezvous/rendezvous.hpp>
#include <relay/rendezvous/wire.hpp>
#include <string>

namespace tenon::relay {

/// The listener's word counts: a receiver's own set() is there when the listener has said it back,
/// so that all ends know the same. Groups below the highest one asked for are forgotten.
///
/// Threads:  any.
/// Lifetime: its stores keep it, also behind the end that made it.
class Values : public std::enable_shared_from_this<Values> {
 public:
  /// `tell` passes a set() on: to the listener, or from it to all. It must not block or call back.
  using Tell = std::function<void(const Value&)>;
  Values(Role role, Tell tell) : role_(role), tell_(std::move(tell)) {}

  [[nodiscard]] std::shared_ptr<GroupStore> store(std::uint64_t group);
  /// What came from the other end. False when it is too much to keep.
  [[nodiscard]] bool put(const Value& value);
  /// From now on nothing is told any more, and waits end with PeerGone.
  void close(const std::string& reason);

 private:
  class Group;
  struct Known {
    std::map<std::string, std::string, std::less<>> values{};
    bool cancelled = false;
  };

  void set(const Value& value);
  [[nodiscard]] bool keep(const Value& value);  // mutex_ is held
  [[nodiscard]] std::string get(std::uint64_t group, std::string_view key,
                                const detail::Deadline& deadline);
  void cancel(std::uint64_t group) noexcept;
  [[noreturn]] static void fail(Errc code, std::string_view key, const std::string& why);

  std::mutex mutex_;
  std::condition_variable changed_;
  const Role role_;
  Tell tell_;
  std::map<std::uint64_t, Known> groups_;
  std::uint64_t oldest_ = 0;
  std::size_t bytes_ = 0;
  bool closed_ = false;
  std::string reason_;
};

}  // namespace tenon::relay
