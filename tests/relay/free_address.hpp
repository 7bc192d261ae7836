// Where a test's sender listens.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <tenon/error.hpp>

namespace tenon::test {

inline std::string free_address() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ::sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::socklen_t size = sizeof(address);
  if (::bind(fd, reinterpret_cast<::sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd, reinterpret_cast<::sockaddr*>(&address), &size) != 0)
    throw SystemError(errno, "looking for a free port");
  ::close(fd);
  return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

}  // namespace tenon::test
