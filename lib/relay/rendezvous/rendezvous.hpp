// How relays find and know each other: one listener (the sender's), one connection per receiver,
// small messages both ways. The weights do not pass here (engine.hpp). The connection is also how a
// peer's end is noticed: at once when its process dies, within Limits::silence when it hangs.
//
// On the wire: docs/relay.md. Every frame is bounded, every step of joining has a deadline, and a
// peer proves that it knows the secret before anything it says is looked at.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <relay/engine.hpp>
#include <string>
#include <tenon/detail/wait.hpp>
#include <vector>

namespace tenon::relay {

/// One message: JSON for people and programs, and bytes that JSON would blow up (a layout).
struct Message {
  std::string type;    ///< up to 32 bytes, [a-z_]
  std::string fields;  ///< text of a JSON object; checked to be one when received
  std::string blob{};
};

struct Limits {
  std::size_t frame_bytes = 1U << 20;  ///< of JSON, once joined; 16 KiB before
  std::size_t blob_bytes = std::size_t{1} << 30;
  std::size_t strangers = 16;  ///< connections that have not proved the secret yet
  std::size_t peers = 64;
  /// Unsent, per peer, or received and not fetched by next(): a peer that exceeds it is closed.
  std::size_t queue_bytes = std::size_t{2} << 30;
  Duration join = std::chrono::seconds(5);  ///< from TCP connection to proof
  Duration heartbeat = std::chrono::milliseconds(500);
  Duration silence = std::chrono::seconds(3);  ///< a peer that says nothing for so long is lost
};

struct RendezvousOptions {
  std::string secret{};  ///< of both ends; may be empty only where the listener is on loopback
  Limits limits{};
};

using PeerId = std::uint64_t;  ///< never used twice by a listener

/// What happened, in order. `joined`: `message` is the peer's hello. `left`: `reason` says why, and
/// nothing of that peer follows.
struct Event {
  enum class Kind : std::uint8_t { joined, message, left } kind;
  PeerId peer = 0;        ///< of a connection: 0
  std::string address{};  ///< joined: the peer's, without the port
  Message message{};
  std::string reason{};
  std::string local{};  ///< joined: this node's address, as the peer reaches it
};

/// Sees every event in the rendezvous' own thread before next() does; must not block. This is where
/// an engine in the middle of an operation is aborted. A connection's watcher sees messages and
/// `left`; that it has joined is what its constructor returns for.
using Watcher = std::function<void(const Event&)>;

/// A store of one group: kept by the listener, told to all that are joined then. A key has one
/// writer. Asking for a higher group's store forgets this one, at that end: its get()s throw
/// Aborted.
class GroupStore : public Store {
 public:
  /// All get()s in progress and later ones throw Aborted. Any thread.
  virtual void cancel() noexcept = 0;
};

/// The sender's end.
///
/// Errors:   constructor: InvalidArgument (an address that is none; no secret off loopback), System
///           (port in use, address not of this node), WrongSecret never: who fails is not joined.
/// Threads:  any, next() one at a time.
/// Lifetime: the destructor tells all peers, waits until they have taken it, for Limits::silence at
///           most, and joins the thread. Stores may stay; they then throw PeerGone. Not to be used
///           in a forked child, where the destructor does nothing.
class Listener {
 public:
  /// `address` is HOST:PORT, [V6]:PORT; port 0 takes a free one. `welcome` answers each peer that
  /// has proved itself.
  Listener(const std::string& address, const Message& welcome, const RendezvousOptions& options,
           Watcher watcher = {});
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  [[nodiscard]] std::string address() const;  ///< with the port taken
  /// The next event; nothing when there is none by then.
  [[nodiscard]] std::optional<Event> next(const detail::Deadline& deadline);
  /// Queued; never waits. To a peer that has left it does nothing.
  void send(PeerId peer, const Message& message);
  /// Tells the peer why and closes.
  void close(PeerId peer, const std::string& reason);
  /// The store of group `group`, which the members' connections ask for by the same number.
  [[nodiscard]] std::shared_ptr<GroupStore> store(std::uint64_t group);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A receiver's end.
///
/// Errors:   constructor: InvalidArgument, DeadlinePassed (nobody listens, no route, no answer: the
///           message says which), WrongSecret, WrongVersion (of the protocol; both are named),
///           PeerGone (closed, with the listener's reason when it gave one). next and send:
///           PeerGone once it is lost.
/// Threads, Lifetime: as of Listener.
class Connection {
 public:
  /// Tries again until `deadline` while nobody listens.
  Connection(const std::string& address, const Message& hello, const RendezvousOptions& options,
             const detail::Deadline& deadline, Watcher watcher = {});
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  [[nodiscard]] const Message& welcome() const noexcept;
  [[nodiscard]] std::string local_address() const;  ///< of this node, as the listener reaches it
  [[nodiscard]] std::optional<Message> next(const detail::Deadline& deadline);
  void send(const Message& message);
  [[nodiscard]] std::shared_ptr<GroupStore> store(std::uint64_t group);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenon::relay
