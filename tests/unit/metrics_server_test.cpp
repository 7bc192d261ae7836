// The server of `tenon metrics` when what it serves ends it: for AddressSanitizer.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cli/metrics.hpp>
#include <stdexcept>
#include <string>
#include <thread>

namespace tenon::cli {
namespace {

struct Socket {
  Socket() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int yes = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  ~Socket() { ::close(fd); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  // A port that nobody else is given; a server that reuses addresses may still listen there.
  std::uint16_t take_port() {
    ::socklen_t size = sizeof(address);
    ::bind(fd, reinterpret_cast<::sockaddr*>(&address), size);
    ::getsockname(fd, reinterpret_cast<::sockaddr*>(&address), &size);
    return ntohs(address.sin_port);
  }
  bool connect(std::uint16_t port) {
    address.sin_port = htons(port);
    return ::connect(fd, reinterpret_cast<::sockaddr*>(&address), sizeof(address)) == 0;
  }
  int fd;
  ::sockaddr_in address{};
};

struct NoStandardException {};

TEST(MetricsServer, EndsCleanlyWithRequestsUnderWay) {
  Socket holder;
  const std::uint16_t port = holder.take_port();
  std::thread asks([port] {
    Socket probe;
    for (int i = 0; i < 3000 && !probe.connect(port); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));  // between two looks
    Socket idle;  // still waits when the server ends
    EXPECT_TRUE(idle.connect(port));
    Socket asking;
    ASSERT_TRUE(asking.connect(port));
    const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
    EXPECT_EQ(::send(asking.fd, request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<::ssize_t>(request.size()));
    char end = 0;
    EXPECT_LE(::recv(asking.fd, &end, 1, 0), 0);
  });
  EXPECT_THROW(
      serve_metrics(std::to_string(port), []() -> std::string { throw NoStandardException(); }),
      NoStandardException);
  asks.join();
}

}  // namespace
}  // namespace tenon::cli
