// Where a test's sender listens.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>

namespace tenon::test {

/// A port that nobody listens on: below those that the kernel gives to connections, so that none of
/// another test takes it meanwhile.
inline std::string free_address() {
  static std::uint16_t next = static_cast<std::uint16_t>(10000 + ::getpid() % 2000 * 10);
  for (;;) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ::sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(next++);
    const bool is_free = ::bind(fd, reinterpret_cast<::sockaddr*>(&address), sizeof(address)) == 0;
    ::close(fd);
    if (is_free) return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
}

}  // namespace tenon::test
