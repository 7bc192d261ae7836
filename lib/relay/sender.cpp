// The sender: who comes and goes, and the groups they form. What they are handed:
// sender_versions.cpp.
#include <algorithm>
#include <relay/doing.hpp>
#include <relay/timing.hpp>
#include <utility>

#include "sender_impl.hpp"

namespace tenon::relay {
namespace {

// Whether an error of the group is this process's own, which another group would not mend.
bool is_ours(Errc code) {
  return code == Errc::NoEngine || code == Errc::NoDevice || code == Errc::NoMemoryKind ||
         code == Errc::Cuda || code == Errc::ForkedChild;
}

}  // namespace

void Sender::Impl::run(const Watch& watch) {
  watch_ = watch;
  try {
    while (!stopping()) {
      pump(detail::Deadline(complete() ? Duration::zero() : detail::kSlice), [] { return false; });
      send_away_undecided();
      if (complete())
        work();
      else
        check_publication();
    }
  } catch (const Error& e) {
    for (const auto& [peer, member] : members_)
      listener_.close(peer, "the sender ends: " + e.message());
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
  std::optional<Lease> lease;
  const auto attempt = [this](const auto& action) {
    try {
      action();
      return true;
    } catch (const Error& e) {
      group_.leave();
      if (is_ours(e.code())) throw;
      if (stopped_) return false;
      note("the group is broken up: " + e.message());
      if (e.code() != Errc::Aborted) pump(detail::Deadline(kRetry), [] { return false; });
      return false;
    }
  };
  if (!group_is_whole() && !attempt([this] { form_group(); })) return check_publication();
  lease = next_version();
  if (!lease) return;
  (void)attempt([&] { hand_on(*lease); });
  tell_replicas(lease->version(), {});  // whatever became of it, they let go of it
}

// Throws what the publication ended with, if it has.
void Sender::Impl::check_publication() {
  try {
    (void)subscriber_.wait(newer_than(format::kMaxRecord), Duration::zero());
  } catch (const Error& e) {
    if (e.code() != Errc::DeadlinePassed) throw;
  }
}

// The least that a receiver has who may be offered something now.
std::uint64_t Sender::Impl::lowest() const {
  constexpr std::uint64_t kNobody = ~std::uint64_t{0};
  std::uint64_t least = kNobody;
  for (const auto& [peer, member] : members_) {
    const bool soon = member.not_before <= detail::Clock::now();
    if (member.is_replica() && !soon) return kNobody;
    if (!member.is_replica() && soon) least = std::min(least, member.has);
  }
  return least;
}

// The replica has seen the same in our welcome, and says it to whom it may concern.
void Sender::Impl::check_hello(const Hello& hello) const {
  if (hello.shard && options_.reduce)
    throw Error(Errc::InvalidArgument, "reduced versions come whole, not as shards");
  const bool far = hello.shard || hello.memory.value_or(MemoryKind::cuda) != MemoryKind::cuda;
  if (options_.engine == EngineKind::nccl && far)
    throw Error(Errc::Mismatch, "this sender's engine is NCCL, for whole versions in GPU memory");
  if (!hello.reduce) return;
  if (hello.reduce != options_.reduce || hello.layout_hash != subscriber_.layout().hash())
    throw Error(Errc::Mismatch, "it is no replica of this publication");
  if (peers(true).size() + 1 == options_.replicas)
    throw Error(Errc::InvalidArgument,
                "all " + std::to_string(options_.replicas) + " replicas are here already");
}

// The members reach each other at the addresses by which they reach the sender.
void Sender::Impl::check_address(const std::string& local) const {
  const auto loops = [](const std::string& address) {
    return address.rfind("127.", 0) == 0 || address == "::1";
  };
  for (const auto& [peer, member] : members_)
    if (loops(member.local) != loops(local))
      throw Error(Errc::Mismatch, "it reaches the sender at " + local + ", and " + member.who +
                                      " at " + member.local +
                                      ": a loopback address is of no use to another node");
}

std::vector<PeerId> Sender::Impl::peers(bool replicas) const {
  std::vector<PeerId> found;
  for (const auto& [peer, member] : members_)
    if (member.is_replica() == replicas) found.push_back(peer);
  return found;
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

void Sender::Impl::take(const Event& event) {
  try {
    if (event.kind == Event::Kind::joined) {
      if (read<Hello>(event.message).asks) return;
      Member member{.local = event.local, .who = {}, .hello = read<Hello>(event.message)};
      member.who = (member.is_replica() ? "replica " : "receiver ") + event.address + " (" +
                   member.hello.host + ", pid " + std::to_string(member.hello.pid) + ")";
      check_hello(member.hello);
      check_address(member.local);
      note(member.who + " joined");
      if (member.hello.shard)
        undecided_.emplace(event.peer,
                           Undecided{std::move(member), detail::Deadline(options_.deadline)});
      else
        members_.emplace(event.peer, std::move(member));
      return;
    }
    if (undecided_.count(event.peer) > 0) {
      if (event.kind == Event::Kind::message) return decide(event.peer, event.message);
      undecided_.erase(event.peer);
    }
    const auto found = members_.find(event.peer);
    if (found == members_.end()) return;
    if (event.kind == Event::Kind::left) {
      note(found->second.who + " left: " + event.reason +
           (found->second.is_replica() ? "; versions wait for its return" : ""));
      members_.erase(found);
    } else {
      take_message(event.peer, found->second, event.message);
    }
  } catch (const Error& e) {  // what a peer says is its own fault
    listener_.close(event.peer, e.message());
    note("the relay at " + event.address + " is sent away: " + e.message());
  }
}

// Whatever it says first: it is undecided no longer.
void Sender::Impl::decide(PeerId peer, const Message& message) {
  Member member = std::move(undecided_.at(peer).member);
  undecided_.erase(peer);
  if (message.type != Want::kType)
    throw Error(Errc::BadFormat, "a receiver sent a message '" + message.type +
                                     "' before it said which part it takes");
  member.shard = std::make_unique<Shard>(read_layout(message), subscriber_.layout());
  members_.emplace(peer, std::move(member));
}

// They would keep places of others.
void Sender::Impl::send_away_undecided() {
  for (auto it = undecided_.begin(); it != undecided_.end();) {
    const auto& [peer, undecided] = *it;
    if (!undecided.deadline.passed()) {
      ++it;
      continue;
    }
    const std::string why = "it has not said which part it takes";
    note(undecided.member.who + " is sent away: " + why);
    listener_.close(peer, why);
    it = undecided_.erase(it);
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
      if (!done.in_group) group_.break_before(groups_ + 1);  // its end is dead, unlike ours
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
  if (options_.reduce) return EngineKind::gloo;
  const bool all = subscriber_.memory() == MemoryKind::cuda && why_no_nccl().empty() &&
                   std::all_of(members_.begin(), members_.end(), [](const auto& m) {
                     const Hello& hello = m.second.hello;
                     return hello.nccl && !hello.shard &&
                            hello.memory.value_or(MemoryKind::cuda) == MemoryKind::cuda;
                   });
  return all ? EngineKind::nccl : EngineKind::gloo;
}

// At a version boundary: everybody who is here becomes a member, replicas before receivers.
void Sender::Impl::form_group() {
  group_.leave();
  take_all();
  std::vector<PeerId> peers = this->peers(true);
  if (peers.size() + 1 < options_.replicas) throw Error(Errc::Aborted, "a replica is missing");
  for (const PeerId receiver : this->peers(false)) peers.push_back(receiver);
  if (peers.size() < options_.replicas) throw Error(Errc::Aborted, "no receiver is left");
  ready_.clear();
  GroupReport report{.group = ++groups_,
                     .receivers = static_cast<int>(peers.size()) + 1 - senders(),
                     .engine = choose_engine()};
  const Doing doing(watch_, "forming group " + std::to_string(groups_));
  const detail::Deadline deadline(options_.deadline);
  const detail::Deadline end(options_.deadline + std::chrono::seconds(1));  // for all to say so
  const int size = static_cast<int>(peers.size()) + 1;
  int rank = 0;
  for (const PeerId peer : peers) {
    members_[peer].rank = ++rank;
    listener_.send(peer, to_message(FormGroup{groups_, rank, size, senders(), report.engine,
                                              milliseconds(deadline.left())}));
  }
  try {
    {
      const Timed timed(report.setup);
      group_.join(groups_, peers, listener_.store(groups_), [&](Store& store) {
        return make_engines(report.engine, {0, size, members_.begin()->second.local, &store},
                            senders(), subscriber_.device(), deadline);
      });
    }
    const Timed timed(report.warm_up);
    group_.warm_up(deadline);
  } catch (const Error& e) {
    // Who is to blame says nothing, or why. Where somebody was lost, the next group is announced at
    // once, and ends everybody's waiting in this one.
    if (e.code() != Errc::Aborted) await_ready(end);
    throw;
  }
  await_ready(end);
  if (!group_is_whole()) throw Error(Errc::Aborted, "not all receivers came into the group");
  detail::log(LogLevel::info, "relay, sender: group ", report.group, " of ", report.receivers,
              " receivers is ready");
  if (watch_.group) watch_.group(report);
}

// What everybody in the group has. Who does not say so in time is sent away.
void Sender::Impl::await_ready(const detail::Deadline& deadline) {
  const auto answered = [&] {
    return group_.is_broken() || std::all_of(members_.begin(), members_.end(), [&](const auto& m) {
             return m.second.rank == 0 || ready_.count(m.first) > 0;
           });
  };
  pump(deadline, answered);
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
  const std::string where = "it is not in group " + std::to_string(groups_) + ": ";
  for (const PeerId peer : silent) close(peer, where + "no answer in time");
  for (const auto& [peer, why] : failed) fail(peer, where + why);
}

Sender::Sender(std::string_view name, const SenderOptions& options)
    : impl_(std::make_unique<Impl>(name, options)) {}
Sender::~Sender() = default;
std::string Sender::address() const { return impl_->address(); }
void Sender::run(const Watch& watch) { impl_->run(watch); }
void Sender::stop() noexcept { impl_->stop(); }

}  // namespace tenon::relay
