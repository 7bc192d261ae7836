// The receiver: joins a sender, publishes here what comes, and joins again when the sender is lost.
// The bytes: incoming.hpp.
#include <algorithm>
#include <atomic>
#include <optional>
#include <relay/doing.hpp>
#include <relay/group.hpp>
#include <relay/incoming.hpp>
#include <relay/joining.hpp>
#include <relay/messages.hpp>
#include <relay/node.hpp>
#include <relay/shard.hpp>
#include <relay/timing.hpp>
#include <tenon/relay.hpp>
#include <utility>

namespace tenon::relay {
namespace {

constexpr Duration kPlacing = std::chrono::seconds(30);  ///< in GPU memory, of what has come
constexpr Duration kSwitch =
    std::chrono::seconds(5);  ///< for subscribers, PublishOptions::at_commit

Layout layout_of(const Message& message, const Welcome& welcome) {
  Layout layout = read_layout(message);
  if (layout.hash() == welcome.layout_hash) return layout;
  throw Error(Errc::Mismatch, "the layout of '" + welcome.publication +
                                  "' does not have the hash that its sender (Tenon " +
                                  welcome.library + ", this one is " TENON_VERSION ") says");
}

}  // namespace

class Receiver::Impl {
 public:
  explicit Impl(const ReceiverOptions& options) : options_(options) {
    join(detail::Deadline(options_.join));
    create();
  }
  ~Impl() {
    update_.reset();
    connection_.reset();  // its thread uses the link
  }
  [[nodiscard]] const Publisher& publisher() const noexcept { return *publisher_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  void stop() noexcept {
    stopped_ = true;
    group_.break_all();
  }
  void run(const Watch& watch);

 private:
  [[nodiscard]] bool stopping() const { return stopped_ || (watch_.stop && watch_.stop()); }
  void note(const std::string& text) const {
    detail::log(LogLevel::info, "relay, receiver: ", text);
    if (watch_.note) watch_.note(text);
  }
  [[nodiscard]] Memory memory() const { return options_.memory.value_or(Memory{welcome_.memory}); }
  void join(const detail::Deadline& deadline);
  void create();
  void rejoin(const std::string& why);
  void take(const Message& message);
  void enter(const FormGroup& group);
  void make_room(const Offer& offer);
  void receive(const Transfer& transfer);
  void commit(const Commit& commit);
  void fail(std::uint64_t version, const Error& error);
  [[nodiscard]] std::uint64_t has() const;
  void give_up_version() noexcept {
    update_.reset();
    sums_.clear();
  }

  ReceiverOptions options_;
  std::atomic<bool> stopped_{false};
  Watch watch_;
  Group group_;  // before the connection, whose thread uses it
  std::unique_ptr<Connection> connection_;
  Welcome welcome_;
  std::optional<Layout> layout_;  ///< of what comes: the sender's, or the part of it
  std::string name_;              ///< of the publication here
  std::uint64_t number_ = 0;      ///< the newest announced
  int senders_ = 1;               ///< in it
  std::string instance_;          ///< of which the publication here has versions
  std::optional<Publisher> publisher_;
  std::optional<Publisher::Update> update_;  ///< the version that is coming
  std::vector<std::uint64_t> sums_;          ///< of what came of it
  std::optional<detail::Deadline> looking_;  ///< for a sender, since the last version came
  std::uint64_t streamed_ = 0;               ///< the last version that was tried, when streaming
  VersionReport report_;
};

void Receiver::Impl::join(const detail::Deadline& deadline) {
  Hello hello = hello_of_this_process();
  hello.shard = options_.layout || !options_.only.empty();
  hello.keeps = options_.mode != Mode::streaming;
  if (options_.memory) hello.memory = options_.memory->kind;
  connection_.reset();
  group_.reset();
  connection_ = std::make_unique<Connection>(
      options_.from, to_message(hello), RendezvousOptions{.secret = options_.secret}, deadline,
      [this](const Event& event) { end_group_on(event, group_); });
  welcome_ = read<Welcome>(connection_->welcome());
  if (!options_.name.empty() && options_.name != welcome_.publication)
    throw Error(Errc::Mismatch, "the sender at " + options_.from + " hands on '" +
                                    detail::plain(welcome_.publication) + "', not '" +
                                    options_.name + "'");
  layout_ = layout_of(connection_->welcome(), welcome_);
  if (!hello.shard) return;
  if (welcome_.reduce)
    throw Error(Errc::Mismatch, "the sender at " + options_.from +
                                    " reduces replicas, whose versions come whole, not as shards");
  const Layout all = *layout_;
  layout_ = layout_of_parts(all, options_);
  (void)Shard(*layout_, all);  // what the sender would refuse is refused here
  connection_->send(to_message(Want{}, *layout_));
}

// The publication here, of the sender's instance. An earlier instance's ends: its versions count
// otherwise.
void Receiver::Impl::create() {
  if (publisher_ && instance_ == welcome_.instance) return;
  publisher_.reset();
  PublisherOptions how;
  how.received = true;
  how.memory = memory();
  how.mode = options_.mode;
  how.label = relay_label(welcome_.instance, options_.label);
  how.progress = options_.progress;
  name_ = options_.as.empty() ? welcome_.publication : options_.as;
  publisher_ = Publisher::create(name_, *layout_, how);
  instance_ = welcome_.instance;
  streamed_ = 0;
  for (const std::string& text : publisher_->notes()) note(text);
}

void Receiver::Impl::run(const Watch& watch) {
  watch_ = watch;
  for (const std::string& text : publisher_->notes()) note(text);  // of the constructor
  while (!stopping()) {
    try {
      if (const auto message = connection_->next(detail::Deadline(detail::kSlice))) take(*message);
    } catch (const Error& e) {
      if (e.code() != Errc::PeerGone && e.code() != Errc::BadFormat) throw;
      note("lost the sender: " + e.message());
      rejoin(e.message());
    }
  }
  give_up_version();
}

// The last version stays where it is, and current, until a sender has another.
void Receiver::Impl::rejoin(const std::string& why) {
  give_up_version();
  if (!looking_) looking_.emplace(options_.rejoin);
  join_again(
      why, *looking_,
      [this](const detail::Deadline& deadline) {
        join(deadline);
        note("joined the sender again");
      },
      [this] { return stopping(); });
}

void Receiver::Impl::take(const Message& message) {
  if (message.type == FormGroup::kType) return enter(read<FormGroup>(message));
  if (message.type == Offer::kType) return make_room(read<Offer>(message));
  if (message.type == Transfer::kType) return receive(read<Transfer>(message));
  if (message.type == Commit::kType) return commit(read<Commit>(message));
  throw Error(Errc::BadFormat, "a sender sent a message '" + message.type + "'");
}

void Receiver::Impl::enter(const FormGroup& group) {
  give_up_version();
  number_ = group.group;
  senders_ = group.senders;
  (void)enter_group(group_, group, {*connection_, memory().device, has(), watch_});
}

void Receiver::Impl::make_room(const Offer& offer) {
  give_up_version();
  const Doing doing(watch_, "making room for version " + std::to_string(offer.version));
  create();
  report_ = {.version = offer.version, .receivers = 1};
  Answer answer{offer.version, {}};
  try {
    const Timed timed(report_.waited);
    PublishOptions how;
    how.deadline = std::chrono::milliseconds(offer.deadline_ms);
    how.version = offer.version;
    how.at_commit = kSwitch;
    how.check = [this] {
      group_.check();
      if (stopping()) throw Error(Errc::Aborted, "told to stop");
    };
    update_.emplace(publisher_->begin(how));
  } catch (const Error& e) {
    if (e.code() == Errc::Aborted) return;  // another group is announced: nobody waits for this
    if (e.code() != Errc::DeadlinePassed && e.code() != Errc::InvalidArgument) throw;
    answer.refusal = e.message();
  }
  connection_->send(to_message(answer));
}

void Receiver::Impl::receive(const Transfer& transfer) {
  if (!update_ || update_->version() != transfer.version || group_.engine() == nullptr ||
      transfer.plan.size() != layout_->bucket_count())
    throw Error(Errc::BadFormat, "a sender's transfer of version " +
                                     std::to_string(transfer.version) +
                                     " is not of the version it offered");
  const Doing doing(watch_, "receiving version " + std::to_string(transfer.version));
  try {
    const detail::Deadline deadline{std::chrono::milliseconds(transfer.deadline_ms)};
    // A stream's buckets become readable one by one, in order; and an attempt's number is used up.
    const bool streaming = publisher_->mode() == Mode::streaming;
    if (streaming) streamed_ = transfer.version;
    sums_ =
        receive_buckets({*group_.engine(), memory().kind, streaming ? 0 : options_.ahead, senders_},
                        *update_, *layout_, transfer.plan, deadline, report_);
  } catch (const Error& e) {
    group_.leave();
    fail(transfer.version, e);
  }
}

void Receiver::Impl::commit(const Commit& commit) {
  if (!update_ || update_->version() != commit.version) return;  // it failed, and we said so
  const Doing doing(watch_, "publishing version " + std::to_string(commit.version));
  try {
    if (commit.sums != sums_)
      throw Error(Errc::PeerGone, "what came is not what was sent (checksums differ)");
    (void)update_->commit();
    (void)publisher_->wait_current(kPlacing);
  } catch (const Error& e) {
    return fail(commit.version, e);
  }
  give_up_version();
  looking_.reset();
  connection_->send(to_message(Done{number_, commit.version, commit.version, true, {}}));
  if (watch_.version) watch_.version(report_);
}

// The version is given up; the sender hears why, unless it has formed another group already.
void Receiver::Impl::fail(std::uint64_t version, const Error& error) {
  give_up_version();
  if (error.code() == Errc::Cuda) throw error;
  if (error.code() == Errc::Aborted) return;
  note("version " + std::to_string(version) + " did not arrive: " + error.message());
  connection_->send(
      to_message(Done{number_, version, has(), group_.engine() != nullptr, error.message()}));
}

// The next version is above this one; unless it streams, its unchanged buckets are there.
std::uint64_t Receiver::Impl::has() const {
  if (instance_ != welcome_.instance) return 0;
  return std::max(publisher_->version(), streamed_);
}

Receiver::Receiver(const ReceiverOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Receiver::~Receiver() = default;
const std::string& Receiver::name() const noexcept { return impl_->name(); }
const Layout& Receiver::layout() const noexcept { return impl_->publisher().layout(); }
std::uint64_t Receiver::version() const noexcept { return impl_->publisher().version(); }
void Receiver::run(const Watch& watch) { impl_->run(watch); }
void Receiver::stop() noexcept { impl_->stop(); }

}  // namespace tenon::relay
