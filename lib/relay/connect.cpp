#include <algorithm>
#include <relay/feeder.hpp>
#include <relay/messages.hpp>
#include <relay/node.hpp>
#include <tenon/connect.hpp>
#include <tenon/inspect.hpp>
#include <tenon/name.hpp>
#include <utility>

namespace tenon {

using relay::Receiver;
using relay::ReceiverOptions;

namespace {

constexpr Duration kOffer = std::chrono::seconds(1);  ///< for an attachment that should succeed

struct Address {
  std::string sender;  ///< HOST:PORT
  std::string name;
};

Address parse(std::string_view text) {
  constexpr std::string_view kScheme = "tenon://";
  const std::size_t slash = text.rfind('/');
  if (text.substr(0, kScheme.size()) != kScheme || slash < kScheme.size())
    throw Error(Errc::InvalidArgument,
                "'" + detail::plain(text) + "' is no address: it is tenon://HOST:PORT/NAME");
  Address address{std::string(text.substr(kScheme.size(), slash - kScheme.size())),
                  std::string(text.substr(slash + 1))};
  check_name(address.name);
  return address;
}

/// What the sender hands on, asked for without becoming a receiver.
relay::Welcome ask(const Address& address, const ConnectOptions& options,
                   const detail::Deadline& deadline) {
  relay::Hello hello = relay::hello_of_this_process();
  hello.asks = true;
  const relay::Connection connection(address.sender, to_message(hello), {.secret = options.secret},
                                     deadline);
  relay::Welcome welcome = relay::read<relay::Welcome>(connection.welcome());
  if (welcome.publication == address.name) return welcome;
  throw Error(Errc::Mismatch, "the sender at " + address.sender + " hands on '" +
                                  detail::plain(welcome.publication) + "', not '" + address.name +
                                  "'");
}

/// A way to the sender's own publication; or why there is none.
struct Way {
  std::optional<Subscriber> subscriber{};
  std::string why_not{};
  bool name_is_taken = false;  ///< here, by the sender's own publication
};

Way by_shared_memory(const Address& address, const relay::Welcome& sender,
                     const ConnectOptions& options) {
  if (sender.boot_id != relay::boot_id()) return {{}, "other node"};
  AttachOptions how = options.attach;
  how.deadline = std::min(how.deadline, kOffer);
  try {
    Subscriber subscriber = Subscriber::attach(address.name, how);
    if (relay::hexadecimal(subscriber.instance()) == sender.instance)
      return {std::move(subscriber), {}};
    return {{}, "no common /dev/shm"};
  } catch (const Error& e) {
    switch (e.code()) {
      case Errc::NotFound:
      case Errc::DeadlinePassed:
      case Errc::PublisherGone:
      case Errc::Closed:
        return {{}, "no common /dev/shm"};
      case Errc::NotYours:
        return {{}, "another user's publication"};
      case Errc::NoDevice:
      case Errc::NotShareable:
      case Errc::NoMemoryKind:
      case Errc::Cuda:
        return {{}, "device not reachable by IPC", true};
      default:
        throw;
    }
  }
}

bool relays(const std::string& name, const relay::Welcome& sender, std::optional<Uid> owner) {
  const PublicationInfo info = inspect(name, owner);
  return info.state == Attach::ready &&
         info.label.rfind(relay::relay_label(sender.instance, {}), 0) == 0;
}

}  // namespace

Connected::Connected(std::unique_ptr<relay::Feeder> feeder, Subscriber subscriber, std::string how)
    : feeder_(std::move(feeder)), subscriber_(std::move(subscriber)), how_(std::move(how)) {}
Connected::Connected(Connected&&) noexcept = default;
Connected& Connected::operator=(Connected&&) noexcept = default;
Connected::~Connected() = default;

Connected connect(std::string_view text, const ConnectOptions& options) {
  const Address address = parse(text);
  const detail::Deadline deadline(options.attach.deadline);
  const relay::Welcome sender = ask(address, options, deadline);
  Way way = by_shared_memory(address, sender, options);
  if (way.subscriber) return {nullptr, *std::move(way.subscriber), "shared memory"};
  if (options.log)
    options.log("'" + address.name + "' of " + address.sender +
                " comes by a relay: " + way.why_not);
  ReceiverOptions how = options.receiver;
  how.name = address.name;
  how.from = address.sender;
  how.secret = options.secret;
  how.label = way.why_not;
  if (how.as.empty()) how.as = address.name + (way.name_is_taken ? ".relay" : "");
  for (;;) {
    AttachOptions attach = options.attach;
    attach.deadline = deadline.left();
    if (relays(how.as, sender, attach.owner))
      return {nullptr, Subscriber::attach(how.as, attach), "relay of this node"};
    try {
      how.join = deadline.left();
      auto feeder = std::make_unique<relay::Feeder>(how, relay::Watch{.note = options.log});
      Subscriber subscriber = Subscriber::attach(how.as, attach);
      return {std::move(feeder), std::move(subscriber), "relay: " + way.why_not};
    } catch (const Error& e) {
      // Two processes of this node began at once: the other one receives for both.
      if (e.code() != Errc::NameInUse || deadline.passed() || !relays(how.as, sender, attach.owner))
        throw;
    }
  }
}

}  // namespace tenon
