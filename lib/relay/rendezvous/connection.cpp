#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <relay/rendezvous/link.hpp>
#include <relay/rendezvous/mailbox.hpp>
#include <relay/rendezvous/rendezvous.hpp>
#include <relay/rendezvous/values.hpp>
#include <utility>

namespace tenon::relay {

namespace asio = boost::asio;

namespace {

// The listener's Limits::join is for strangers; who connects waits until its own deadline.
Limits until(const detail::Deadline& deadline, Limits limits) {
  limits.join = std::min<Duration>(deadline.left(), std::chrono::hours(24));
  return limits;
}

}  // namespace

class Connection::Impl final : Link::Owner {
 public:
  Impl(const RendezvousOptions& options, Watcher watcher)
      : options_(options),
        watcher_(std::move(watcher)),
        values_(std::make_shared<Values>(Role::receiver,
                                         [this](const Value& value) { queue(encode(value)); })) {}
  /// Once, before anything else. When it throws, there is nothing left to close.
  void join(const std::string& address, const Message& hello, const detail::Deadline& deadline) {
    check_secret(options_.secret);
    const SharedBytes own = encode(hello, options_.limits);
    auto socket =
        connect_to(thread_.io, parse_address(address), !options_.secret.empty(), deadline);
    local_address_ = socket.local_endpoint().address().to_string();
    link_ = std::make_shared<Link>(std::move(socket),
                                   Session::Setup{Role::receiver, options_.secret, make_nonce(),
                                                  own, until(deadline, options_.limits)},
                                   static_cast<Link::Owner&>(*this), PeerId{0});
    link_->start();
    thread_.start();
    try {
      await_welcome(deadline);
    } catch (const Error& error) {
      thread_.stop();
      throw Error(error.code(), "joining the relay at " + address + ": " + error.message());
    }
  }
  ~Impl() {
    values_->close("this connection was closed");
    asio::post(thread_.io, [this] {
      leaving_ = true;
      if (gone_) return thread_.io.stop();
      link_->close("the receiver was closed");
    });
    thread_.stop_within(options_.limits.silence);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  [[nodiscard]] const Message& welcome() const noexcept { return welcome_; }
  [[nodiscard]] const std::string& local_address() const noexcept { return local_address_; }
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  [[nodiscard]] Mailbox<Message>& messages() noexcept { return messages_; }
  [[nodiscard]] Values& values() noexcept { return *values_; }

  void send(const Message& message) {
    messages_.require_open();
    queue(encode(message, options_.limits));
  }

 private:
  void await_welcome(const detail::Deadline& deadline) {
    auto welcome = messages_.pop(deadline);
    if (!welcome)
      throw Error(Errc::DeadlinePassed,
                  "something listens there, but did not answer until the deadline; check the port");
    welcome_ = *std::move(welcome);
  }

  void queue(const SharedBytes& frame) {
    asio::post(thread_.io, [this, frame] { link_->send(frame); });
  }

  void happened(Link& link, Action& action) override {
    if (auto* const joined = std::get_if<Joined>(&action))
      (void)messages_.push(std::move(joined->message), 0);
    if (auto* const received = std::get_if<Received>(&action))
      announce(link, std::move(received->message));
    if (const auto* const told = std::get_if<Told>(&action)) {
      if (!values_->put(told->value)) link.close("the group's store is full");
    }
  }

  void announce(Link& link, Message message) {
    if (watcher_) watcher_({Event::Kind::message, 0, {}, message});
    const std::size_t bytes = message.fields.size() + message.blob.size();
    if (messages_.push(std::move(message), bytes) > options_.limits.queue_bytes)
      link.close("nobody reads what is sent here: more than " +
                 std::to_string(options_.limits.queue_bytes) + " bytes wait");
  }

  void ended(Link& link, Errc code, const std::string& reason) override {
    if (leaving_) return;  // nothing happens behind the destructor's beginning
    if (link.joined() && watcher_) watcher_({Event::Kind::left, 0, {}, {}, reason});
    values_->close(reason);
    messages_.close(link.joined() ? Errc::PeerGone : code, reason);
  }
  void closed(Link&) override {
    gone_ = true;
    if (leaving_) thread_.io.stop();
  }

  const pid_t pid_ = ::getpid();
  const RendezvousOptions options_;
  const Watcher watcher_;
  Message welcome_;
  std::string local_address_;
  Mailbox<Message> messages_;
  IoThread thread_;  // its io_context outlives the link
  std::shared_ptr<Link> link_;
  bool leaving_ = false, gone_ = false;
  const std::shared_ptr<Values> values_;
};

Connection::Connection(const std::string& address, const Message& hello,
                       const RendezvousOptions& options, const detail::Deadline& deadline,
                       Watcher watcher)
    : impl_(std::make_unique<Impl>(options, std::move(watcher))) {
  impl_->join(address, hello, deadline);
}

Connection::~Connection() {
  // As for Listener: a forked child leaves its parent's connection alone.
  if (impl_->pid() != ::getpid()) (void)impl_.release();
}

const Message& Connection::welcome() const noexcept { return impl_->welcome(); }

std::string Connection::local_address() const { return impl_->local_address(); }

std::optional<Message> Connection::next(const detail::Deadline& deadline) {
  return impl_->messages().pop(deadline);
}

void Connection::send(const Message& message) { impl_->send(message); }

std::shared_ptr<GroupStore> Connection::store(std::uint64_t group) {
  return impl_->values().store(group);
}

}  // namespace tenon::relay
