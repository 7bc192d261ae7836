// The group a relay is in, as two threads see it: the one that works in it, and the rendezvous',
// which breaks it off when a member is lost or the next group is announced.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <relay/rendezvous/rendezvous.hpp>
#include <set>
#include <utility>
#include <vector>

namespace tenon::relay {

/// What connects a group.
struct Engines {
  std::unique_ptr<Engine> all;
  std::unique_ptr<Engine>
      senders{};  ///< the first ranks alone; null elsewhere, and where one sends
};

/// Errors:   join() throws Error(Aborted) when the group was broken off meanwhile.
/// Threads:  join(), leave() and engine() are the working thread's; the rest any thread's.
class Group {
 public:
  using Make = std::function<Engines(Store&)>;

  /// Connects group `group` of `members` (the sender's view; a receiver names none). The engines
  /// stay this object's.
  void join(std::uint64_t group, const std::vector<PeerId>& members,
            std::shared_ptr<GroupStore> store, const Make& make) {
    leave();
    {
      const std::lock_guard lock(mutex_);
      group_ = group;
      members_ = {members.begin(), members.end()};
      store_ = store;
      for (const PeerId member : members)
        if (lost_.count(member) > 0) broken_before_ = group + 1;
      check_locked();
      lost_.clear();  // none of them is ever a member again
    }
    Engines engines = make(*store);
    const std::lock_guard lock(mutex_);
    store_.reset();
    check_locked();
    engines_ = std::move(engines);
  }
  /// The first operation of each engine, by all members.
  void warm_up(const detail::Deadline& deadline) {
    engines_.all->warm_up(deadline);
    if (engines_.senders) engines_.senders->warm_up(deadline);
  }
  void leave() noexcept {
    Engines engines;  // their end may take a while, and is nobody's to wait for
    const std::lock_guard lock(mutex_);
    std::swap(engines, engines_);
    store_.reset();
    members_.clear();
  }
  /// Null outside a group.
  [[nodiscard]] Engine* engine() const noexcept { return engines_.all.get(); }
  /// Of the senders among themselves.
  [[nodiscard]] Engine* senders() const noexcept { return engines_.senders.get(); }

  /// Forgets what was broken off: another sender counts its groups anew.
  void reset() noexcept {
    leave();
    const std::lock_guard lock(mutex_);
    group_ = broken_before_ = 0;
    lost_.clear();
  }

  /// Every group before `group` is over.
  void break_before(std::uint64_t group) noexcept {
    const std::lock_guard lock(mutex_);
    if (group <= broken_before_) return;
    broken_before_ = group;
    if (group_ < group) break_off();
  }
  /// The group, if it is a member, is over.
  void lose(PeerId peer) {
    const std::lock_guard lock(mutex_);
    lost_.insert(peer);
    if (members_.count(peer) == 0) return;
    broken_before_ = group_ + 1;
    break_off();
  }
  /// Every group, until reset().
  void break_all() noexcept { break_before(~std::uint64_t{0}); }
  [[nodiscard]] bool is_broken() const noexcept {
    const std::lock_guard lock(mutex_);
    return group_ < broken_before_;
  }
  /// Throws Error(Aborted) when it is.
  void check() const {
    const std::lock_guard lock(mutex_);
    check_locked();
  }

 private:
  void check_locked() const {
    if (group_ < broken_before_)
      throw Error(Errc::Aborted, "group " + std::to_string(group_) + " of relays was broken off");
  }
  void break_off() noexcept {
    if (store_) store_->cancel();
    if (engines_.all) engines_.all->abort();
    if (engines_.senders) engines_.senders->abort();
  }

  mutable std::mutex mutex_;
  std::uint64_t group_ = 0;
  std::uint64_t broken_before_ = 0;
  std::set<PeerId> members_;
  std::set<PeerId> lost_;
  std::shared_ptr<GroupStore> store_;  ///< while connecting
  Engines engines_;                    ///< afterwards
};

}  // namespace tenon::relay
