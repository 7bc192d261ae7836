// What receivers and replicas do alike: they join a sender and come into its groups.
#pragma once

#include <algorithm>
#include <chrono>
#include <relay/group.hpp>
#include <relay/messages.hpp>
#include <string>
#include <tenon/relay.hpp>
#include <thread>

namespace tenon::relay {

/// In the rendezvous' thread: what the working thread may be waiting for is over when the sender is
/// lost, or announces another group.
void end_group_on(const Event& event, Group& group) noexcept;

/// Who comes into a group, and with what.
struct Newcomer {
  Connection& connection;
  int device;             ///< of its GPU memory
  std::uint64_t version;  ///< that it has
  const Watch& watch;
};

/// Connects the group that is announced and tells the sender how it went. Whether it went well.
bool enter_group(Group& group, const FormGroup& announced, const Newcomer& who);

/// Calls `join(deadline)` until it finds the sender, which was lost because of `why`; gives up
/// quietly when told to stop. Throws PeerGone at `deadline`, and what join() throws but for nobody
/// being there.
template <class Join, class Stopping>
void join_again(const std::string& why, const detail::Deadline& deadline, const Join& join,
                const Stopping& stopping) {
  constexpr Duration kRetry = std::chrono::milliseconds(200);  ///< between attempts
  constexpr Duration kAttempt = std::chrono::seconds(1);       ///< for each of them
  while (!stopping()) {
    std::this_thread::sleep_for(kRetry);  // also at first: it may have been there, and sent us away
    try {
      return join(detail::Deadline(std::min<Duration>(deadline.left(), kAttempt)));
    } catch (const Error& e) {
      if (e.code() != Errc::DeadlinePassed && e.code() != Errc::PeerGone) throw;
      if (deadline.passed()) throw Error(Errc::PeerGone, why + "; and then: " + e.message());
    }
  }
}

}  // namespace tenon::relay
