// Addresses and TCP sockets. All are close-on-exec from their first instant, which is why they are
// made by system calls: Boost.Asio makes them without.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/wait.hpp>

namespace tenon::relay {

using Tcp = boost::asio::ip::tcp;

/// HOST:PORT as a person writes it; HOST is a name or an address, that of IPv6 in brackets.
struct Address {
  std::string host{};
  std::uint16_t port = 0;
};
/// InvalidArgument when `text` is no such thing.
[[nodiscard]] Address parse_address(const std::string& text);
[[nodiscard]] std::string text_of(const Tcp::endpoint& endpoint);

/// An address of IPv4 that a socket of IPv6 shows as ::ffff:A.B.C.D, as A.B.C.D.
[[nodiscard]] boost::asio::ip::address plain_address(const boost::asio::ip::address& address);
/// Whether what is sent there stays on this node.
[[nodiscard]] bool is_loopback(const boost::asio::ip::address& address);

/// Listens on `address`. InvalidArgument: no such host, or it is off loopback and `has_secret` is
/// not; System: the port is in use, the address is not of this node.
[[nodiscard]] Tcp::acceptor listen_on(boost::asio::io_context& io, const Address& address,
                                      bool has_secret);

/// Connects to `address`, again and again until somebody listens there. A name is looked up by the
/// system's resolver, whose own timeouts hold as well. InvalidArgument as above; DeadlinePassed
/// says what every attempt ended with.
[[nodiscard]] Tcp::socket connect_to(boost::asio::io_context& io, const Address& address,
                                     bool has_secret, const detail::Deadline& deadline);

/// The next connection in the queue; nothing when there is none (any more), or no descriptor is
/// left for it: then `error` is set.
[[nodiscard]] std::optional<Tcp::socket> accept_from(Tcp::acceptor& acceptor, int& error);

}  // namespace tenon::relay
