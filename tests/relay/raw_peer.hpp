// What the tests of the rendezvous share: peers that do not behave.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <relay/rendezvous/rendezvous.hpp>
#include <relay/rendezvous/session.hpp>
#include <string>
#include <support/support.hpp>

namespace tenon::relay {

using namespace std::chrono_literals;
using detail::Deadline;

inline const std::string kSecret = "a secret of many bytes";
inline const std::string kAnyPort = "127.0.0.1:0";

/// Quick, but patient with the silent, whom a busy machine or ThreadSanitizer makes of anybody.
inline RendezvousOptions quick() {
  RendezvousOptions options{kSecret, {}};
  options.limits.join = 1s;
  options.limits.heartbeat = 50ms;
  options.limits.silence = 20s;
  return options;
}

inline Deadline soon() { return Deadline(test::kPatience); }

/// A blocking socket that does what a test says and nothing else.
class RawPeer {
 public:
  explicit RawPeer(int fd) : fd_(fd) {}
  explicit RawPeer(const std::string& address) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    struct ::sockaddr_in to {};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    if (::connect(fd_, reinterpret_cast<::sockaddr*>(&to), sizeof(to)) != 0)
      throw SystemError{errno, "connecting a raw peer"};
  }
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;
  RawPeer(RawPeer&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~RawPeer() { ::close(fd_); }

  /// False when the connection is broken.
  bool send(std::string_view bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  /// What came; nothing at the stream's end, or when nothing came in time.
  [[nodiscard]] std::string receive(std::chrono::milliseconds timeout = test::kPatience) const {
    struct ::pollfd waiting {
      fd_, POLLIN, 0
    };
    if (::poll(&waiting, 1, static_cast<int>(timeout.count())) != 1) return {};
    std::string bytes(std::size_t{64} << 10, '\0');
    const ssize_t got = ::recv(fd_, bytes.data(), bytes.size(), 0);
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return bytes;
  }
  /// Reads until the other end closes; all that came. Fails the test when it does not.
  [[nodiscard]] std::string until_closed(
      std::chrono::milliseconds timeout = test::kPatience) const {
    const Deadline deadline(timeout);
    std::string all;
    for (std::string some; !(some = receive(timeout)).empty();) all += some;
    EXPECT_FALSE(deadline.passed()) << "it was not closed";
    return all;
  }
  /// Joins as it should be done, up to the welcome.
  void join() const {
    Limits limits;
    Session session(
        {Role::receiver, kSecret, make_nonce(), encode(Message{"hello", "{}"}, limits), limits});
    (void)send(*session.first());
    for (bool joined = false; !joined;) {
      const std::string bytes = receive();
      if (bytes.empty()) throw Error(Errc::PeerGone, "a raw peer was not let in");
      for (const Action& action : session.receive(bytes)) {
        if (const auto* out = std::get_if<Send>(&action)) (void)send(*out->frame);
        joined |= std::holds_alternative<Joined>(action);
      }
    }
  }

 private:
  int fd_;
};

/// Listens and hands out who connects.
class RawListener {
 public:
  RawListener() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    struct ::sockaddr_in at {};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(at);
    if (::bind(fd_, reinterpret_cast<::sockaddr*>(&at), size) != 0 || ::listen(fd_, 8) != 0 ||
        ::getsockname(fd_, reinterpret_cast<::sockaddr*>(&at), &size) != 0)
      throw SystemError{errno, "making a raw listener"};
    address_ = "127.0.0.1:" + std::to_string(ntohs(at.sin_port));
  }
  RawListener(const RawListener&) = delete;
  RawListener& operator=(const RawListener&) = delete;
  ~RawListener() { ::close(fd_); }
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] RawPeer accept() const { return RawPeer(::accept(fd_, nullptr, nullptr)); }

 private:
  int fd_;
  std::string address_;
};

/// The next event of that kind; fails the test when there is none.
inline Event next_of(Listener& listener, Event::Kind kind) {
  const Deadline deadline(test::kPatience);
  while (auto event = listener.next(deadline))
    if (event->kind == kind) return *std::move(event);
  ADD_FAILURE() << "no such event";
  return {};
}

}  // namespace tenon::relay
