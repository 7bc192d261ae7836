// How a version is handed on: offered, routed, announced, sent, concluded. The bytes: outgoing.hpp.
#include <algorithm>
#include <relay/doing.hpp>
#include <relay/timing.hpp>
#include <utility>

#include "sender_impl.hpp"

namespace tenon::relay {
namespace {

std::uint64_t whole_buckets(const std::vector<Route>& routes) {
  return static_cast<std::uint64_t>(std::count_if(
      routes.begin(), routes.end(), [](const Route& route) { return route.shard == nullptr; }));
}

}  // namespace

// A version to everybody who lacks it.
void Sender::Impl::hand_on(const Lease& lease) {
  VersionReport report{.version = lease.version()};
  const std::vector<PeerId> replicas = peers(true);
  if (offer(lease.version(), replicas, report).size() < replicas.size()) return;
  const std::vector<PeerId> takers = offer(lease.version(), peers(false), report);
  if (takers.empty()) return;
  const Doing doing(watch_, "sending version " + std::to_string(lease.version()));
  const std::vector<Route> routes = route(lease, takers);
  announce(lease.version(), takers, routes);
  detail::StageTimer timer(subscriber_.stages(), format::Stage::send);
  const std::vector<std::uint64_t> sums = transfer(lease, takers, routes, report);
  timer.done(lease.version(), report.bytes);
  conclude(lease.version(), takers, routes, sums);
  report.receivers = static_cast<int>(takers.size());
  const bool shards_only = std::all_of(takers.begin(), takers.end(), [this](PeerId peer) {
    const auto found = members_.find(peer);
    return found == members_.end() || found->second.shard != nullptr;
  });
  if (!shards_only) report.kept = lease.layout().bucket_count() - whole_buckets(routes);
  if (watch_.version) watch_.version(report);
}

std::vector<std::uint64_t> Sender::Impl::transfer(const Lease& lease,
                                                  const std::vector<PeerId>& takers,
                                                  const std::vector<Route>& routes,
                                                  VersionReport& report) {
  const detail::Deadline deadline(options_.deadline);
  if (!reducer_)
    return send_buckets({*group_.engine(), subscriber_.memory(), options_.ahead}, lease, routes,
                        deadline, report);
  tell_replicas(lease.version(), takers);
  return reducer_->run({*group_.engine(), *group_.senders(), ranks_of(takers)}, lease, deadline,
                       report);
}

// That the version goes to `takers`; if to none, that it is over.
void Sender::Impl::tell_replicas(std::uint64_t version, const std::vector<PeerId>& takers) {
  for (const PeerId replica : peers(true))
    listener_.send(replica,
                   to_message(Reduce{version, ranks_of(takers), milliseconds(options_.deadline)}));
}

std::vector<int> Sender::Impl::ranks_of(const std::vector<PeerId>& peers) const {
  std::vector<int> ranks;
  for (const PeerId peer : peers) ranks.push_back(members_.at(peer).rank);
  return ranks;
}

// Who of `peers` lacks the version and has room for it; of replicas, who holds it. Waits for all
// answers, at most the deadline.
std::vector<PeerId> Sender::Impl::offer(std::uint64_t version, const std::vector<PeerId>& peers,
                                        VersionReport& report) {
  const Timed timed(report.waited);
  const Doing doing(watch_, "offering version " + std::to_string(version));
  answers_.clear();
  std::vector<PeerId> asked;
  for (const PeerId peer : peers) {
    const Member& member = members_.at(peer);
    if (member.rank == 0 || member.has >= version || member.not_before > detail::Clock::now())
      continue;
    const Duration patience = member.refused ? Duration::zero() : options_.deadline;
    listener_.send(peer, to_message(Offer{version, milliseconds(patience)}));
    asked.push_back(peer);
  }
  pump(detail::Deadline(options_.deadline + detail::kSlice), [&] {
    return group_.is_broken() || std::all_of(asked.begin(), asked.end(), [&](PeerId peer) {
             const auto answer = answers_.find(peer);
             return members_.count(peer) == 0 ||
                    (answer != answers_.end() && answer->second.version == version);
           });
  });
  if (group_.is_broken()) throw Error(Errc::Aborted, "a relay was lost");
  std::vector<PeerId> takers;
  for (const PeerId peer : asked) {
    const auto answer = answers_.find(peer);
    if (answer == answers_.end() || answer->second.version != version) {
      close(peer, "it did not answer in time");
      continue;
    }
    Member& member = members_.at(peer);
    const bool again = std::exchange(member.refused, !answer->second.refusal.empty());
    if (!member.refused) {
      takers.push_back(peer);
      continue;
    }
    member.not_before = detail::Clock::now() + kRetry;
    if (member.is_replica() && again) continue;  // it waits for its trainer: said once
    note(member.who +
         (member.is_replica() ? " does not hold version " : " has no room for version ") +
         std::to_string(version) + ": " + answer->second.refusal);
  }
  return takers;
}

// Each bucket to those who lack its bytes, by broadcast when that is the whole group; then each
// shard's buckets to its receiver.
std::vector<Route> Sender::Impl::route(const Lease& lease, const std::vector<PeerId>& takers) {
  std::vector<Route> routes;
  for (std::size_t b = 0; b < lease.layout().bucket_count(); ++b) {
    Route route{.bucket = b};
    for (const PeerId peer : takers) {
      const Member& member = members_.at(peer);
      if (!member.shard && (options_.reduce || member.lacks(lease, b)))
        route.ranks.push_back(member.rank);
    }
    if (route.ranks.empty()) continue;
    route.broadcast = static_cast<int>(route.ranks.size()) + senders() == group_.engine()->size();
    if (route.broadcast) route.ranks.clear();
    routes.push_back(std::move(route));
  }
  for (const PeerId peer : takers) {
    const Member& member = members_.at(peer);
    for (std::size_t b = 0; member.shard && b < member.shard->layout().bucket_count(); ++b)
      if (member.lacks(lease, b))
        routes.push_back({.bucket = b, .ranks = {member.rank}, .shard = member.shard.get()});
  }
  return routes;
}

void Sender::Impl::announce(std::uint64_t version, const std::vector<PeerId>& takers,
                            const std::vector<Route>& routes) {
  for (const PeerId peer : takers) {
    const Member& member = members_.at(peer);
    const Layout& layout = member.shard ? member.shard->layout() : subscriber_.layout();
    Transfer transfer{version,
                      std::string(layout.bucket_count(), static_cast<char>(Carriage::kept)),
                      milliseconds(options_.deadline)};
    for (const Route& route : routes)
      if (route.goes_to(member.rank))
        transfer.plan[route.bucket] =
            static_cast<char>(route.broadcast ? Carriage::broadcast : Carriage::direct);
    listener_.send(peer, to_message(transfer));
  }
}

// What everybody got, and its checksums. From here on they count as having the version.
void Sender::Impl::conclude(std::uint64_t version, const std::vector<PeerId>& takers,
                            const std::vector<Route>& routes,
                            const std::vector<std::uint64_t>& sums) {
  for (const PeerId peer : takers) {
    const auto found = members_.find(peer);
    if (found == members_.end()) continue;
    Commit commit{version, {}};
    for (std::size_t n = 0; n < sums.size(); ++n)
      if (routes[n].goes_to(found->second.rank)) commit.sums.push_back(sums[n]);
    listener_.send(peer, to_message(commit));
    found->second.has = version;
  }
  options_.expect = 0;  // it was for the first version
}

}  // namespace tenon::relay
