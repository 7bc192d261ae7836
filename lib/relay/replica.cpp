// The replica: holds a version of its trainer when the sender asks for it, and reduces it together
// with the sender. The bytes: reducer.hpp.

#include <atomic>
#include <optional>
#include <relay/doing.hpp>
#include <relay/group.hpp>
#include <relay/joining.hpp>
#include <relay/messages.hpp>
#include <relay/node.hpp>
#include <relay/reducer.hpp>
#include <relay/timing.hpp>
#include <tenon/relay.hpp>
#include <tenon/subscriber.hpp>
#include <utility>

namespace tenon::relay {

class Replica::Impl {
 public:
  Impl(std::string_view name, const ReplicaOptions& options)
      : options_(options),
        name_(name),
        subscriber_(Subscriber::attach(
            name, {.deadline = options.attach, .label = "relay", .owner = options.owner})) {
    if (subscriber_.mode() == Mode::streaming) {
      throw Error(Errc::StreamingOnly, "reducing '" + name_ +
                                           "': it streams, and keeps no whole "
                                           "version; publish it in place or double-buffered");
    }
    check_reducible(subscriber_.layout(), options.op);
    join(detail::Deadline(options_.join));
  }

  void stop() noexcept {
    stopped_ = true;
    group_.break_all();
  }
  void run(const Watch& watch);

 private:
  [[nodiscard]] bool stopping() const { return stopped_ || (watch_.stop && watch_.stop()); }
  void note(const std::string& text) const {
    detail::log(LogLevel::info, "relay, replica: ", text);
    if (watch_.note) watch_.note(text);
  }
  void join(const detail::Deadline& deadline);
  void check_sender() const;
  void check_publication();
  void take(const Message& message);
  void enter(const FormGroup& group);
  void hold(const Offer& offer);
  [[nodiscard]] Lease wait_for(std::uint64_t version, const detail::Deadline& deadline);
  void hand_over(const Reduce& reduce);

  ReplicaOptions options_;
  std::string name_;
  std::atomic<bool> stopped_{false};
  Watch watch_;
  Group group_;  // before the connection, whose thread uses it
  Subscriber subscriber_;
  std::optional<Reducer> reducer_;  ///< of as many senders as the group has
  std::unique_ptr<Connection> connection_;
  Welcome welcome_;
  FormGroup announced_;  ///< the newest group
  std::optional<Lease> lease_;
  VersionReport report_;  ///< of the version held
};

void Replica::Impl::join(const detail::Deadline& deadline) {
  Hello hello = hello_of_this_process();
  hello.memory = subscriber_.memory();
  hello.reduce = options_.op;
  hello.layout_hash = subscriber_.layout().hash();
  connection_.reset();
  group_.reset();
  connection_ = std::make_unique<Connection>(
      options_.from, to_message(hello), RendezvousOptions{.secret = options_.secret}, deadline,
      [this](const Event& event) { end_group_on(event, group_); });
  welcome_ = read<Welcome>(connection_->welcome());
  check_sender();
}

void Replica::Impl::check_sender() const {
  const std::string sender =
      "'" + detail::plain(welcome_.publication) + "' of the sender at " + options_.from;
  const auto fail = [&](const std::string& why) { throw Error(Errc::Mismatch, why); };
  if (!welcome_.reduce) fail(sender + " is handed on as it is, not reduced with replicas");
  if (*welcome_.reduce != options_.op)
    fail(sender + " is reduced by " + name_of(*welcome_.reduce) + ", this replica's '" + name_ +
         "' by " + name_of(options_.op));
  if (welcome_.layout_hash != subscriber_.layout().hash())
    fail(sender + " has another layout than this replica's '" + name_ +
         "': names, dtypes, shapes and buckets must be the same");
}

void Replica::Impl::run(const Watch& watch) {
  watch_ = watch;
  while (!stopping()) {
    try {
      if (const auto message = connection_->next(detail::Deadline(detail::kSlice)))
        take(*message);
      else
        check_publication();
    } catch (const Error& e) {
      if (e.code() != Errc::PeerGone && e.code() != Errc::BadFormat) throw;
      lease_.reset();
      note("lost the sender: " + e.message());
      join_again(
          e.message(), detail::Deadline(options_.rejoin),
          [this](const detail::Deadline& deadline) {
            join(deadline);
            note("joined the sender again");
          },
          [this] { return stopping(); });
    }
  }
  lease_.reset();
}

// Throws when the trainer is gone, also while no version is asked for.
void Replica::Impl::check_publication() {
  if (lease_) return;
  try {
    (void)subscriber_.wait(newer_than(format::kMaxRecord), Duration::zero());
  } catch (const Error& e) {
    if (e.code() != Errc::DeadlinePassed) throw;
  }
}

void Replica::Impl::take(const Message& message) {
  if (message.type == FormGroup::kType) return enter(read<FormGroup>(message));
  if (message.type == Offer::kType) return hold(read<Offer>(message));
  if (message.type == Reduce::kType) return hand_over(read<Reduce>(message));
  throw Error(Errc::BadFormat, "a sender sent a replica a message '" + message.type + "'");
}

void Replica::Impl::enter(const FormGroup& group) {
  lease_.reset();
  if (group.rank >= group.senders)
    throw Error(Errc::BadFormat, "a sender took a replica for a receiver");
  if (!reducer_ || announced_.senders != group.senders)
    reducer_.emplace(subscriber_.layout(), ReducerOptions{options_.op, group.senders,
                                                          subscriber_.memory(), options_.ahead});
  announced_ = group;
  (void)enter_group(group_, group, {*connection_, 0, 0, watch_});
}

void Replica::Impl::hold(const Offer& offer) {
  lease_.reset();
  const Doing doing(watch_, "waiting for version " + std::to_string(offer.version));
  report_ = {.version = offer.version};
  Answer answer{offer.version, {}};
  try {
    const Timed timed(report_.waited);
    lease_ =
        wait_for(offer.version, detail::Deadline(std::chrono::milliseconds(offer.deadline_ms)));
  } catch (const Error& e) {
    if (e.code() == Errc::Aborted) return;  // another group is announced: nobody waits for this
    if (e.code() != Errc::DeadlinePassed && e.code() != Errc::NotRetained) throw;
    answer.refusal = "'" + name_ + "' there is at version " +
                     std::to_string(subscriber_.current_version()) + ": " + e.message();
  }
  connection_->send(to_message(answer));
}

Lease Replica::Impl::wait_for(std::uint64_t version, const detail::Deadline& deadline) {
  for (;;) {
    group_.check();
    if (stopping()) throw Error(Errc::Aborted, "told to stop");
    try {
      return subscriber_.wait(exactly(version),
                              std::min<Duration>(deadline.left(), detail::kSlice));
    } catch (const Error& e) {
      if (e.code() != Errc::DeadlinePassed || deadline.passed()) throw;
    }
  }
}

// One end for every version that was held: it is handed over, it failed, or nobody takes it.
void Replica::Impl::hand_over(const Reduce& reduce) {
  const std::optional<Lease> lease = std::exchange(lease_, std::nullopt);
  if (reduce.takers.empty()) return;
  if (!lease || lease->version() != reduce.version || group_.senders() == nullptr)
    throw Error(Errc::BadFormat, "a sender wants version " + std::to_string(reduce.version) +
                                     ", which it was not promised");
  const Doing doing(watch_, "sending version " + std::to_string(reduce.version));
  Done done{.group = announced_.group, .version = reduce.version, .failure = {}};
  try {
    const detail::Deadline deadline{std::chrono::milliseconds(reduce.deadline_ms)};
    (void)reducer_->run({*group_.engine(), *group_.senders(), reduce.takers}, *lease, deadline,
                        report_);
  } catch (const Error& e) {
    group_.leave();
    if (e.code() == Errc::Cuda) throw;
    if (e.code() == Errc::Aborted) return;  // the sender knows
    done.in_group = false;
    done.failure = e.message();
    note("version " + std::to_string(reduce.version) + " was not handed on: " + e.message());
  }
  connection_->send(to_message(done));
  report_.receivers = static_cast<int>(reduce.takers.size());
  if (done.failure.empty() && watch_.version) watch_.version(report_);
}

Replica::Replica(std::string_view name, const ReplicaOptions& options)
    : impl_(std::make_unique<Impl>(name, options)) {}
Replica::~Replica() = default;
void Replica::run(const Watch& watch) { impl_->run(watch); }
void Replica::stop() noexcept { impl_->stop(); }

}  // namespace tenon::relay
