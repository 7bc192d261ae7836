// The sender: who is there, what each has, and who is told what when. The bytes: outgoing.hpp.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <relay/group.hpp>
#include <relay/messages.hpp>
#include <relay/node.hpp>
#include <relay/outgoing.hpp>
#include <relay/shard.hpp>
#include <relay/timing.hpp>
#include <tenon/relay.hpp>
#include <utility>

namespace tenon::relay {
namespace {

constexpr Duration kRetry =
    std::chrono::milliseconds(200);  ///< before a refused version is offered again
std::uint64_t whole_buckets(const std::vector<Route>& routes) {
  return static_cast<std::uint64_t>(std::count_if(
      routes.begin(), routes.end(), [](const Route& route) { return route.shard == nullptr; }));
}

constexpr int kPatience = 3;  ///< times that a receiver may fail in a row

}  // namespace

class Sender::Impl {
 public:
  Impl(std::string_view name, const SenderOptions& options)
      : options_(options),
        subscriber_(Subscriber::attach(
            name, {.deadline = options.attach, .label = "relay", .owner = options.owner})),
        listener_(options.listen, welcome(name), {.secret = options.secret},
                  [this](const Event& event) {
                    if (event.kind == Event::Kind::left) group_.lose(event.peer);
                  }) {
    if (subscriber_.mode() == Mode::streaming) {
      throw Error(Errc::StreamingOnly, "relaying '" + std::string(name) +
                                           "': it streams, and keeps no whole version that could "
                                           "be handed on; publish it in place or double-buffered");
    }
  }

  [[nodiscard]] std::string address() const { return listener_.address(); }
  void stop() noexcept {
    stopped_ = true;
    group_.break_all();
  }
  void run(const Watch& watch);

 private:
  struct Member {
    std::string local;  ///< this node's address, as it reaches it
    std::string who;    ///< for messages
    Hello hello;
    int rank = 0;           ///< in the group; 0: in none yet
    std::uint64_t has = 0;  ///< the version it has, or will have with what was sent
    bool refused = false;   ///< the last offer: the next one waits for it no longer than now
    detail::Clock::time_point not_before{};  ///< for another offer
    int failures = 0;
    std::unique_ptr<Shard> shard{};  ///< what it takes; null: everything
    [[nodiscard]] bool lacks(const Lease& lease, std::size_t bucket) const {
      const std::uint64_t written =
          shard ? shard->written_in(bucket, lease) : lease.written_in(bucket);
      return !hello.keeps || written > has;
    }
  };
  using Members = std::map<PeerId, Member>;

  [[nodiscard]] Message welcome(std::string_view name) const {
    const Layout& layout = subscriber_.layout();
    return to_message(Welcome{TENON_VERSION, std::string(name), hexadecimal(subscriber_.instance()),
                              boot_id(), subscriber_.memory(), layout.hash()},
                      layout);
  }
  [[nodiscard]] bool stopping() const { return stopped_ || (watch_.stop && watch_.stop()); }
  void note(const std::string& text) const {
    if (watch_.note) watch_.note(text);
  }
  [[nodiscard]] std::uint64_t lowest() const;
  void close(PeerId peer, const std::string& why);
  void fail(PeerId peer, const std::string& why);

  // Events.
  template <class Done>
  void pump(const detail::Deadline& deadline, const Done& done);
  void take_all() {
    pump(detail::Deadline(Duration::zero()), [] { return true; });
  }
  void take(const Event& event);
  void take_message(PeerId peer, Member& member, const Message& message);

  // Groups.
  void form_group();
  [[nodiscard]] EngineKind choose_engine() const;
  void await_ready(std::uint64_t group);
  [[nodiscard]] bool group_is_whole() const;

  // Versions.
  [[nodiscard]] std::optional<Lease> next_version();
  void work();
  void hand_on(const Lease& lease);
  [[nodiscard]] std::vector<PeerId> offer(std::uint64_t version, VersionReport& report);
  [[nodiscard]] std::vector<Route> route(const Lease& lease, const std::vector<PeerId>& takers);
  void announce(std::uint64_t version, const std::vector<PeerId>& takers,
                const std::vector<Route>& routes);
  void conclude(std::uint64_t version, const std::vector<PeerId>& takers,
                const std::vector<Route>& routes, const std::vector<std::uint64_t>& sums);

  SenderOptions options_;
  std::atomic<bool> stopped_{false};
  Group group_;  // before the listener, whose thread uses it
  Subscriber subscriber_;
  Listener listener_;
  Watch watch_;
  Members members_;
  Members undecided_;  ///< joined, and have not said what they want
  std::uint64_t groups_ = 0;
  std::map<PeerId, Ready> ready_;     ///< of the group being formed
  std::map<PeerId, Answer> answers_;  ///< to the offer being made
};

void Sender::Impl::run(const Watch& watch) {
  watch_ = watch;
  try {
    while (!stopping()) {
      const bool complete = members_.size() >= std::max<std::size_t>(options_.expect, 1);
      pump(detail::Deadline(complete ? Duration::zero() : detail::kSlice), [] { return false; });
      if (members_.size() < std::max<std::size_t>(options_.expect, 1)) continue;
      options_.expect = 0;  // it is for the first version
      work();
    }
  } catch (const Error& e) {
    for (const auto& [peer, member] : members_)
      listener_.close(peer, std::string("the sender ends: ") + e.what());
    throw;
  }
}

std::optional<Lease> Sender::Impl::next_version() {
  try {
    return subscriber_.wait(newer_than(lowest()), detail::kSlice);
  } catch (const Error& e) {
    if (e.code() != Errc::DeadlinePassed) throw;
    return std::nullopt;
  }
}

// The group is formed, and warm, before there is a version for it. One that fails is formed anew,
// without those who are lost, and what they lack offered again.
void Sender::Impl::work() {
  try {
    if (!group_is_whole()) form_group();
    if (const std::optional<Lease> lease = next_version()) hand_on(*lease);
  } catch (const Error& e) {
    if (e.code() != Errc::DeadlinePassed && e.code() != Errc::PeerGone && e.code() != Errc::Aborted)
      throw;
    group_.leave();
    if (stopped_) return;
    note(std::string("the group is broken up: ") + e.what());
  }
}

// The least that somebody has who may be offered something now.
std::uint64_t Sender::Impl::lowest() const {
  std::uint64_t least = ~std::uint64_t{0};
  for (const auto& [peer, member] : members_)
    if (member.not_before <= detail::Clock::now()) least = std::min(least, member.has);
  return least;
}

void Sender::Impl::close(PeerId peer, const std::string& why) {
  const auto found = members_.find(peer);
  if (found == members_.end()) return;
  note(found->second.who + " is sent away: " + why);
  listener_.close(peer, why);
  group_.lose(peer);
  members_.erase(found);
}

void Sender::Impl::fail(PeerId peer, const std::string& why) {
  Member& member = members_.at(peer);
  note(member.who + ": " + why);
  member.not_before = detail::Clock::now() + kRetry;
  if (++member.failures >= kPatience) close(peer, why);
}

// Takes events until `done` or the deadline; those that are there already in any case.
template <class Done>
void Sender::Impl::pump(const detail::Deadline& deadline, const Done& done) {
  while (!stopped_) {
    const bool finished = done() || deadline.passed();
    const auto slice = detail::Deadline(
        finished ? Duration::zero() : std::min(deadline.left(), Duration(detail::kSlice)));
    const auto event = listener_.next(slice);
    if (event) take(*event);
    if (!event && finished) return;
  }
}

void Sender::Impl::take(const Event& event) {
  try {
    if (event.kind == Event::Kind::joined) {
      if (read<Hello>(event.message).asks) return;
      Member member{.local = event.local, .who = {}, .hello = read<Hello>(event.message)};
      member.who = "receiver " + event.address + " (" + member.hello.host + ", pid " +
                   std::to_string(member.hello.pid) + ")";
      note(member.who + " joined");
      const bool decided = !member.hello.shard;
      (decided ? members_ : undecided_).emplace(event.peer, std::move(member));
      return;
    }
    if (const auto found = undecided_.find(event.peer); found != undecided_.end()) {
      if (event.kind == Event::Kind::message && event.message.type == Want::kType) {
        found->second.shard =
            std::make_unique<Shard>(read_layout(event.message), subscriber_.layout());
        members_.insert(undecided_.extract(found));
        return;
      }
      undecided_.erase(found);
    }
    const auto found = members_.find(event.peer);
    if (found == members_.end()) return;
    if (event.kind == Event::Kind::left) {
      note(found->second.who + " left: " + event.reason);
      members_.erase(found);
    } else {
      take_message(event.peer, found->second, event.message);
    }
  } catch (const Error& e) {  // what a peer says is its own fault
    listener_.close(event.peer, e.what());
    note("receiver " + event.address + " is sent away: " + e.what());
  }
}

void Sender::Impl::take_message(PeerId peer, Member& member, const Message& message) {
  if (message.type == Ready::kType) {
    const Ready ready = read<Ready>(message);
    if (ready.group == groups_) ready_[peer] = ready;
  } else if (message.type == Answer::kType) {
    answers_[peer] = read<Answer>(message);
  } else if (message.type == Done::kType) {
    const Done done = read<Done>(message);
    if (done.failure.empty()) {
      member.failures = 0;
    } else if (done.group == groups_) {
      group_.break_before(groups_ + 1);  // its end of the engine may be dead, unlike ours
      member.has = done.has;
      fail(peer, "version " + std::to_string(done.version) + " did not arrive: " + done.failure);
    }
  } else {
    throw Error(Errc::BadFormat, "a receiver sent a message '" + message.type + "'");
  }
}

bool Sender::Impl::group_is_whole() const {
  return group_.engine() != nullptr && !group_.is_broken() &&
         std::all_of(members_.begin(), members_.end(),
                     [](const auto& m) { return m.second.rank != 0; });
}

EngineKind Sender::Impl::choose_engine() const {
  if (options_.engine != EngineKind::automatic) return options_.engine;
  const bool all = subscriber_.memory() == MemoryKind::cuda && why_no_nccl().empty() &&
                   std::all_of(members_.begin(), members_.end(), [](const auto& m) {
                     const Hello& hello = m.second.hello;
                     return hello.nccl && !hello.shard &&
                            hello.memory.value_or(MemoryKind::cuda) == MemoryKind::cuda;
                   });
  return all ? EngineKind::nccl : EngineKind::gloo;
}

// At a version boundary: everybody who is here becomes a member.
void Sender::Impl::form_group() {
  group_.leave();
  take_all();
  if (members_.empty()) throw Error(Errc::Aborted, "no receiver is left");
  ready_.clear();
  GroupReport report{.group = ++groups_,
                     .receivers = static_cast<int>(members_.size()),
                     .engine = choose_engine()};
  const detail::Deadline deadline(options_.deadline);
  std::vector<PeerId> peers;
  for (auto& [peer, member] : members_) {
    peers.push_back(peer);
    member.rank = static_cast<int>(peers.size());
  }
  const int size = static_cast<int>(peers.size()) + 1;
  for (const PeerId peer : peers) {
    listener_.send(peer, to_message(FormGroup{groups_, members_[peer].rank, size, report.engine,
                                              milliseconds(deadline.left())}));
  }
  try {
    {
      const Timed timed(report.setup);
      group_.join(groups_, peers, listener_.store(groups_), [&](Store& store) {
        return make_engine(report.engine, {0, size, members_.begin()->second.local, &store},
                           subscriber_.device(), deadline);
      });
    }
    const Timed timed(report.warm_up);
    group_.engine()->warm_up(deadline);
  } catch (const Error& e) {
    // Who is to blame is who says nothing. Where somebody was lost, the next group is announced at
    // once, and ends everybody's waiting in this one.
    if (e.code() == Errc::DeadlinePassed) await_ready(groups_);
    throw;
  }
  await_ready(groups_);
  if (!group_is_whole()) throw Error(Errc::Aborted, "not all receivers came into the group");
  if (watch_.group) watch_.group(report);
}

// What everybody in the group has. Who does not say so in time is sent away.
void Sender::Impl::await_ready(std::uint64_t group) {
  const auto answered = [&] {
    return group_.is_broken() || std::all_of(members_.begin(), members_.end(), [&](const auto& m) {
             return m.second.rank == 0 || ready_.count(m.first) > 0;
           });
  };
  pump(detail::Deadline(options_.deadline), answered);
  group_.check();
  std::vector<PeerId> silent;
  std::map<PeerId, std::string> failed;
  for (auto& [peer, member] : members_) {
    if (member.rank == 0) continue;
    const auto found = ready_.find(peer);
    if (found == ready_.end()) {
      silent.push_back(peer);
      continue;
    }
    member.has = found->second.version;
    if (!found->second.failure.empty()) failed[peer] = found->second.failure;
  }
  const std::string where = "it is not in group " + std::to_string(group) + ": ";
  for (const PeerId peer : silent) close(peer, where + "no answer in time");
  for (const auto& [peer, why] : failed) fail(peer, where + why);
}

// A version to everybody who lacks it.
void Sender::Impl::hand_on(const Lease& lease) {
  VersionReport report{.version = lease.version()};
  const std::vector<PeerId> takers = offer(lease.version(), report);
  if (takers.empty()) return;
  const std::vector<Route> routes = route(lease, takers);
  announce(lease.version(), takers, routes);
  const detail::Deadline deadline(options_.deadline);
  const std::vector<std::uint64_t> sums = send_buckets(
      {*group_.engine(), subscriber_.memory(), options_.ahead}, lease, routes, deadline, report);
  conclude(lease.version(), takers, routes, sums);
  report.receivers = static_cast<int>(takers.size());
  const bool shards_only = std::all_of(takers.begin(), takers.end(), [this](PeerId peer) {
    const auto found = members_.find(peer);
    return found == members_.end() || found->second.shard != nullptr;
  });
  if (!shards_only) report.kept = lease.layout().bucket_count() - whole_buckets(routes);
  if (watch_.version) watch_.version(report);
}

// Who lacks the version and has room for it. Waits for all answers, at most the deadline.
std::vector<PeerId> Sender::Impl::offer(std::uint64_t version, VersionReport& report) {
  const Timed timed(report.waited);
  answers_.clear();
  std::vector<PeerId> asked;
  for (const auto& [peer, member] : members_) {
    if (member.has >= version || member.not_before > detail::Clock::now()) continue;
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
  if (group_.is_broken()) throw Error(Errc::Aborted, "a receiver was lost");
  std::vector<PeerId> takers;
  for (const PeerId peer : asked) {
    const auto answer = answers_.find(peer);
    if (answer == answers_.end()) {
      close(peer, "it did not answer in time");
      continue;
    }
    Member& member = members_.at(peer);
    member.refused = !answer->second.refusal.empty();
    if (!member.refused) {
      takers.push_back(peer);
      continue;
    }
    member.not_before = detail::Clock::now() + kRetry;
    note(member.who + " has no room for version " + std::to_string(version) + ": " +
         answer->second.refusal);
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
      if (!member.shard && member.lacks(lease, b)) route.ranks.push_back(member.rank);
    }
    if (route.ranks.empty()) continue;
    route.broadcast = static_cast<int>(route.ranks.size()) + 1 == group_.engine()->size();
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
}

Sender::Sender(std::string_view name, const SenderOptions& options)
    : impl_(std::make_unique<Impl>(name, options)) {}
Sender::~Sender() = default;
std::string Sender::address() const { return impl_->address(); }
void Sender::run(const Watch& watch) { impl_->run(watch); }
void Sender::stop() noexcept { impl_->stop(); }

}  // namespace tenon::relay
