#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <map>
#include <relay/rendezvous/link.hpp>
#include <relay/rendezvous/mailbox.hpp>
#include <relay/rendezvous/rendezvous.hpp>
#include <relay/rendezvous/values.hpp>
#include <utility>

namespace tenon::relay {

namespace asio = boost::asio;

class Listener::Impl final : Link::Owner {
 public:
  Impl(const std::string& address, const Message& welcome, const RendezvousOptions& options,
       Watcher watcher)
      : options_(options),
        watcher_(std::move(watcher)),
        welcome_(encode(welcome, options.limits)),
        acceptor_(listen_on(thread_.io, parse_address(address), !options.secret.empty())),
        again_(thread_.io),
        values_(std::make_shared<Values>(Role::sender,
                                         [this](const Value& value) { tell_all(encode(value)); })),
        address_(text_of(acceptor_.local_endpoint())) {
    accept();
    thread_.start();
  }
  ~Impl() {
    values_->close("this listener was closed");
    asio::post(thread_.io, [this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      leaving_ = true;
      for (const auto& [id, link] : links_) link->close("the listener was closed");
      leave_when_alone();
    });
    thread_.stop_within(options_.limits.silence);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  [[nodiscard]] const std::string& address() const noexcept { return address_; }
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  [[nodiscard]] Mailbox<Event>& events() noexcept { return events_; }
  [[nodiscard]] Values& values() noexcept { return *values_; }

  void send(PeerId peer, const Message& message) {
    with(peer, [frame = encode(message, options_.limits)](Link& link) { link.send(frame); });
  }
  void close(PeerId peer, const std::string& reason) {
    with(peer, [reason](Link& link) { link.close(reason); });
  }

 private:
  // In the io thread, for a peer that has joined and is still there.
  template <class Action>
  void with(PeerId peer, Action action) {
    asio::post(thread_.io, [this, peer, action] {
      const auto at = links_.find(peer);
      if (at != links_.end() && at->second->joined()) action(*at->second);
    });
  }

  void tell_all(const SharedBytes& frame) {
    asio::post(thread_.io, [this, frame] {
      for (const auto& [id, link] : links_)
        if (link->joined()) link->send(frame);
    });
  }

  void accept() {
    acceptor_.async_wait(Tcp::acceptor::wait_read, [this](const boost::system::error_code& error) {
      if (error) return;
      const int none_left = take_one();
      if (none_left == 0) return accept();
      // Out of descriptors. The connection stays in the queue; asking at once would only spin.
      again_.expires_after(options_.limits.heartbeat);
      again_.async_wait([this](const boost::system::error_code& over) {
        if (!over) accept();
      });
    });
  }

  // 0, or why the next one has to wait. Whoever cannot be greeted keeps nobody else out.
  int take_one() {
    int none_left = 0;
    try {
      if (auto socket = accept_from(acceptor_, none_left)) greet(*std::move(socket));
    } catch (const std::exception& error) {
      detail::report({"a relay that connected to ", address_, ": ", error.what()});
    }
    return none_left;
  }

  void greet(Tcp::socket socket) {
    make_room();
    const PeerId id = ++last_id_;
    auto link = std::make_shared<Link>(
        std::move(socket),
        Session::Setup{Role::sender, options_.secret, make_nonce(), welcome_, options_.limits},
        static_cast<Link::Owner&>(*this), id);
    links_.emplace(id, link);
    link->start();
  }

  // Strangers may be many and may stay half-open. The oldest goes, so that a newcomer, which needs
  // but a moment, gets its turn.
  void make_room() {
    const auto stranger = [](const auto& entry) { return !entry.second->proved(); };
    const auto count = std::count_if(links_.begin(), links_.end(), stranger);
    if (static_cast<std::size_t>(count) < std::max<std::size_t>(options_.limits.strangers, 1))
      return;
    const auto oldest = std::find_if(links_.begin(), links_.end(), stranger);
    oldest->second->drop();
    links_.erase(oldest);
  }

  void happened(Link& link, Action& action) override {
    if (std::holds_alternative<Proved>(action)) return check_peers(link);
    if (auto* const joined = std::get_if<Joined>(&action)) {
      boost::system::error_code gone;
      const std::string address =
          plain_address(link.socket().remote_endpoint(gone).address()).to_string();
      const std::string local =
          plain_address(link.socket().local_endpoint(gone).address()).to_string();
      return announce(
          link, {Event::Kind::joined, link.id(), address, std::move(joined->message), {}, local});
    }
    if (auto* const received = std::get_if<Received>(&action))
      return announce(link, {Event::Kind::message, link.id(), {}, std::move(received->message)});
    if (const auto* const told = std::get_if<Told>(&action)) {
      if (!values_->put(told->value)) return link.close("the group's store is full");
      tell_all(encode(told->value));
    }
  }

  void check_peers(Link& link) {
    const auto count = std::count_if(links_.begin(), links_.end(), [](const auto& entry) {
      return entry.second->proved() && !entry.second->ended();
    });
    if (static_cast<std::size_t>(count) > options_.limits.peers)
      link.close("there are " + std::to_string(options_.limits.peers) + " receivers already");
  }

  void announce(Link& link, Event event) {
    if (watcher_) watcher_(event);
    const std::size_t bytes = event.message.fields.size() + event.message.blob.size();
    if (events_.push(std::move(event), bytes) > options_.limits.queue_bytes)
      link.close("nobody reads what it sends: more than " +
                 std::to_string(options_.limits.queue_bytes) + " bytes wait");
  }

  void ended(Link& link, Errc, const std::string& reason) override {
    if (leaving_) return;  // nothing happens behind the destructor's beginning
    if (link.joined()) announce(link, {Event::Kind::left, link.id(), {}, {}, reason});
  }
  void closed(Link& link) override {
    links_.erase(link.id());
    leave_when_alone();
  }
  void leave_when_alone() {
    const auto stranger = [](const auto& entry) { return !entry.second->joined(); };
    if (leaving_ && std::all_of(links_.begin(), links_.end(), stranger)) thread_.io.stop();
  }

  const pid_t pid_ = ::getpid();
  const RendezvousOptions options_;
  const Watcher watcher_;
  const SharedBytes welcome_;
  Mailbox<Event> events_;
  IoThread thread_;  // its io_context outlives what is in it below
  Tcp::acceptor acceptor_;
  asio::steady_timer again_;
  std::map<PeerId, std::shared_ptr<Link>> links_;  // in order of age
  PeerId last_id_ = 0;
  bool leaving_ = false;
  const std::shared_ptr<Values> values_;
  const std::string address_;
};

namespace {

const RendezvousOptions& checked(const RendezvousOptions& options) {
  check_secret(options.secret);
  return options;
}

}  // namespace

Listener::Listener(const std::string& address, const Message& welcome,
                   const RendezvousOptions& options, Watcher watcher)
    : impl_(std::make_unique<Impl>(address, welcome, checked(options), std::move(watcher))) {}

Listener::~Listener() {
  // A forked child has no such thread, and its copies of the sockets are its parent's connections.
  if (impl_->pid() != ::getpid()) (void)impl_.release();
}

std::string Listener::address() const { return impl_->address(); }

std::optional<Event> Listener::next(const detail::Deadline& deadline) {
  return impl_->events().pop(deadline);
}

void Listener::send(PeerId peer, const Message& message) { impl_->send(peer, message); }

void Listener::close(PeerId peer, const std::string& reason) { impl_->close(peer, reason); }

std::shared_ptr<GroupStore> Listener::store(std::uint64_t group) {
  return impl_->values().store(group);
}

}  // namespace tenon::relay
