// The sender's state: who is there, what each has, and what is under way.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <relay/group.hpp>
#include <relay/messages.hpp>
#include <relay/node.hpp>
#include <relay/outgoing.hpp>
#include <relay/reducer.hpp>
#include <relay/shard.hpp>
#include <string>
#include <tenon/relay.hpp>
#include <vector>

namespace tenon::relay {

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
    if (options_.engine == EngineKind::nccl && subscriber_.memory() != MemoryKind::cuda)
      throw Error(Errc::InvalidArgument, "relaying '" + std::string(name) +
                                             "' over NCCL: it is in host memory; take Gloo");
    reducer_ = make_reducer(options, subscriber_.layout(), subscriber_.memory());
  }

  [[nodiscard]] std::string address() const { return listener_.address(); }
  void stop() noexcept {
    stopped_ = true;
    group_.break_all();
  }
  void run(const Watch& watch);

 private:
  /// Before a version that was refused is offered again.
  static constexpr Duration kRetry = std::chrono::milliseconds(200);
  static constexpr int kPatience = 3;  ///< times that a receiver may fail in a row

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
    [[nodiscard]] bool is_replica() const noexcept { return hello.reduce.has_value(); }
  };
  using Members = std::map<PeerId, Member>;
  /// Has joined, and has not said which part it takes.
  struct Undecided {
    Member member;
    detail::Deadline deadline;
  };

  [[nodiscard]] Message welcome(std::string_view name) const {
    const Layout& layout = subscriber_.layout();
    return to_message(Welcome{TENON_VERSION, std::string(name), hexadecimal(subscriber_.instance()),
                              boot_id(), subscriber_.memory(), layout.hash(), options_.reduce},
                      layout);
  }
  [[nodiscard]] bool stopping() const { return stopped_ || (watch_.stop && watch_.stop()); }
  void note(const std::string& text) const {
    detail::log(LogLevel::info, "relay, sender: ", text);
    if (watch_.note) watch_.note(text);
  }
  [[nodiscard]] std::uint64_t lowest() const;
  void check_hello(const Hello& hello) const;
  void check_address(const std::string& local) const;
  [[nodiscard]] int senders() const noexcept { return static_cast<int>(options_.replicas); }
  [[nodiscard]] std::vector<PeerId> peers(bool replicas) const;
  [[nodiscard]] bool complete() const {
    return peers(false).size() >= std::max<std::size_t>(options_.expect, 1) &&
           peers(true).size() + 1 == options_.replicas;
  }
  void close(PeerId peer, const std::string& why);
  void fail(PeerId peer, const std::string& why);

  // Events.
  template <class Done>
  void pump(const detail::Deadline& deadline, const Done& done);
  void take_all() {
    pump(detail::Deadline(Duration::zero()), [] { return true; });
  }
  void take(const Event& event);
  void decide(PeerId peer, const Message& message);
  void send_away_undecided();
  void take_message(PeerId peer, Member& member, const Message& message);

  // Groups.
  void form_group();
  [[nodiscard]] EngineKind choose_engine() const;
  void await_ready(const detail::Deadline& deadline);
  void check_publication();
  [[nodiscard]] bool group_is_whole() const;

  // Versions.
  [[nodiscard]] std::optional<Lease> next_version();
  void work();
  void hand_on(const Lease& lease);
  [[nodiscard]] std::vector<PeerId> offer(std::uint64_t version, const std::vector<PeerId>& peers,
                                          VersionReport& report);
  void tell_replicas(std::uint64_t version, const std::vector<PeerId>& takers);
  [[nodiscard]] std::vector<int> ranks_of(const std::vector<PeerId>& peers) const;
  [[nodiscard]] std::vector<std::uint64_t> transfer(const Lease& lease,
                                                    const std::vector<PeerId>& takers,
                                                    const std::vector<Route>& routes,
                                                    VersionReport& report);
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
  std::optional<Reducer> reducer_;  ///< with replicas
  Watch watch_;
  Members members_;
  std::map<PeerId, Undecided> undecided_;
  std::uint64_t groups_ = 0;
  std::map<PeerId, Ready> ready_;     ///< of the group being formed
  std::map<PeerId, Answer> answers_;  ///< to the offer being made
};

// Takes events until `done` or the deadline; those that are there already in any case.
template <class Done>
void Sender::Impl::pump(const detail::Deadline& deadline, const Done& done) {
  while (!stopping()) {
    const bool finished = done() || deadline.passed();
    const auto slice = detail::Deadline(
        finished ? Duration::zero() : std::min(deadline.left(), Duration(detail::kSlice)));
    const auto event = listener_.next(slice);
    if (event) take(*event);
    if (!event && finished) return;
  }
}

}  // namespace tenon::relay
