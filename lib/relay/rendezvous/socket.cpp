#include "socket.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>
#include <tenon/error.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace tenon::relay {
namespace {

namespace asio = boost::asio;

constexpr Duration kAgain = std::chrono::milliseconds(100);  // between attempts to connect
constexpr Duration kAttempt = std::chrono::seconds(5);       // one of several addresses may be dead

std::string text_of(const Address& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

std::vector<Tcp::endpoint> resolve(asio::io_context& io, const Address& address,
                                   const std::string& doing) {
  boost::system::error_code error;
  Tcp::resolver resolver(io);
  const auto found = resolver.resolve(address.host, std::to_string(address.port),
                                      Tcp::resolver::numeric_service, error);
  if (error)
    throw Error(Errc::InvalidArgument,
                doing + ": there is no host \"" + address.host + "\" (" + error.message() + ")");
  std::vector<Tcp::endpoint> endpoints;
  for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  return endpoints;
}

void require_secret(const Tcp::endpoint& endpoint, bool has_secret, const std::string& doing) {
  if (has_secret || is_loopback(endpoint.address())) return;
  throw Error(Errc::InvalidArgument,
              doing + ": " + endpoint.address().to_string() +
                  " can be reached from other nodes, which needs a secret that both ends know");
}

// `socket` owns `fd` from here on.
template <class Socket>
void adopt(Socket& socket, const Tcp& protocol, int fd) {
  boost::system::error_code error;
  socket.assign(protocol, fd, error);
  if (!error) return;
  ::close(fd);
  throw SystemError{error.value(), "watching a socket"};
}

// Non-blocking, close-on-exec.
template <class Socket>
Socket make_socket(asio::io_context& io, const Tcp& protocol) {
  const int fd = ::socket(protocol.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) throw SystemError{errno, "making a socket"};
  Socket socket(io);
  adopt(socket, protocol, fd);
  return socket;
}

void send_at_once(Tcp::socket& socket) {
  boost::system::error_code ignored;  // slower without
  socket.set_option(Tcp::no_delay(true), ignored);
}

// One attempt: 0, or what it ended with.
int try_connect(Tcp::socket& socket, const Tcp::endpoint& to, Duration at_most) {
  const int fd = socket.native_handle();
  if (::connect(fd, to.data(), static_cast<socklen_t>(to.size())) != 0 && errno != EINPROGRESS)
    return errno;
  const detail::Deadline end(at_most);
  struct ::pollfd waiting {
    fd, POLLOUT, 0
  };
  int ready = 0;
  do {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end.left()).count();
    ready = ::poll(&waiting, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof(error);
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  if (error != 0) return error;
  // While nobody listens on a port that the kernel also hands out, a socket may get that very port
  // and meet itself.
  boost::system::error_code gone;
  return socket.local_endpoint(gone) == to ? ECONNREFUSED : 0;
}

std::string explain(int error) {
  std::string name = std::strerror(error);
  switch (error) {
    case ECONNREFUSED:
      return "nobody listens there (" + name + "); check that the sender runs, and the port";
    case ENETUNREACH:
    case EHOSTUNREACH:
      return "there is no way there (" + name + "); check the address and the routes";
    case ETIMEDOUT:
      return "nothing answers there (" + name + "); check the address and firewalls";
    default:
      return name;
  }
}

}  // namespace

Address parse_address(const std::string& text) {
  const auto bad = [&](const char* why) {
    throw Error(Errc::InvalidArgument, "\"" + detail::plain(text) + "\" is no address: " + why +
                                           "; HOST:PORT or [IPV6]:PORT is wanted");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) bad("it has no port");
  Address address{text.substr(0, colon), 0};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, address.port);
  if (error != std::errc{} || stop != end) bad("its port is no number of 0 to 65535");
  std::string& host = address.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    bad("that of IPv6 stands in brackets");
  }
  if (host.empty() || host.find_first_of("[]") != std::string::npos || host.find('\0') != host.npos)
    bad("it has no host");
  return address;
}

std::string text_of(const Tcp::endpoint& endpoint) {
  return text_of(Address{endpoint.address().to_string(), endpoint.port()});
}

asio::ip::address plain_address(const asio::ip::address& address) {
  if (address.is_v4() || !address.to_v6().is_v4_mapped()) return address;
  return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
}

bool is_loopback(const asio::ip::address& address) { return plain_address(address).is_loopback(); }

Tcp::acceptor listen_on(asio::io_context& io, const Address& address, bool has_secret) {
  const std::string doing = "listening on " + text_of(address);
  const Tcp::endpoint endpoint = resolve(io, address, doing).at(0);
  require_secret(endpoint, has_secret, doing);
  auto acceptor = make_socket<Tcp::acceptor>(io, endpoint.protocol());
  boost::system::error_code error;
  acceptor.set_option(
      Tcp::acceptor::reuse_address(true));  // of connections that linger, not of listeners
  acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) return acceptor;
  const char* const check = error.value() == EADDRINUSE ? " (another process listens on this port)"
                            : error.value() == EADDRNOTAVAIL ? " (no interface of this node has it)"
                                                             : "";
  throw SystemError{error.value(), doing + check};
}

Tcp::socket connect_to(asio::io_context& io, const Address& address, bool has_secret,
                       const detail::Deadline& deadline) {
  const std::string doing = "connecting to " + text_of(address);
  const std::vector<Tcp::endpoint> endpoints = resolve(io, address, doing);
  for (const Tcp::endpoint& endpoint : endpoints) require_secret(endpoint, has_secret, doing);
  for (int error = 0;;) {
    for (const Tcp::endpoint& endpoint : endpoints) {
      auto socket = make_socket<Tcp::socket>(io, endpoint.protocol());
      error = try_connect(socket, endpoint, std::min(deadline.left(), kAttempt));
      if (error != 0) continue;
      send_at_once(socket);
      return socket;
    }
    if (deadline.passed())
      throw Error(Errc::DeadlinePassed, doing + " until the deadline: " + explain(error));
    std::this_thread::sleep_for(std::clamp(deadline.left(), Duration(0), kAgain));
  }
}

std::optional<Tcp::socket> accept_from(Tcp::acceptor& acceptor, int& error) {
  const int fd =
      ::accept4(acceptor.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  // Whatever a connection died of while it was queued is no affair of the listener.
  const bool none_left =
      fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM);
  error = none_left ? errno : 0;
  if (fd < 0) return std::nullopt;
  Tcp::socket socket(acceptor.get_executor());
  adopt(socket, acceptor.local_endpoint().protocol(), fd);
  send_at_once(socket);
  return socket;
}

}  // namespace tenon::relay
