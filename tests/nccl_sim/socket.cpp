#include "socket.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "failure.hpp"

namespace tenon::nccl_sim {
namespace {

constexpr int kSliceMs = 1;  // between looks at the abort flag

Failure gone(const char* doing) {
  return {ncclRemoteError, std::string(doing) + ": " + std::strerror(errno)};
}

/// As the kernel takes it: the abstract name of a Unix socket, or an IPv4 address and a port.
struct Endpoint {
  ::sockaddr_storage storage{};
  ::socklen_t bytes = sizeof storage;

  [[nodiscard]] ::sockaddr* get() { return reinterpret_cast<::sockaddr*>(&storage); }
  [[nodiscard]] ::sockaddr_un& local() { return reinterpret_cast<::sockaddr_un&>(storage); }
  [[nodiscard]] ::sockaddr_in& tcp() { return reinterpret_cast<::sockaddr_in&>(storage); }
};
constexpr std::size_t kNameBegins = offsetof(::sockaddr_un, sun_path) + 1;

Endpoint tcp_endpoint(const std::string& host, int port) {
  Endpoint endpoint;
  endpoint.tcp().sin_family = AF_INET;
  endpoint.tcp().sin_port = htons(static_cast<std::uint16_t>(port));
  if (::inet_pton(AF_INET, host.c_str(), &endpoint.tcp().sin_addr) != 1)
    throw Failure(ncclInvalidUsage, "TENON_NCCL_SIM_ADDRESS: '" + host + "' is no IPv4 address");
  endpoint.bytes = sizeof(::sockaddr_in);
  return endpoint;
}

/// Where this process listens; the kernel chooses the name or the port.
Endpoint own_endpoint() {
  if (const char* address = std::getenv("TENON_NCCL_SIM_ADDRESS")) return tcp_endpoint(address, 0);
  Endpoint endpoint;
  endpoint.local().sun_family = AF_UNIX;
  endpoint.bytes = sizeof(::sa_family_t);
  return endpoint;
}

Endpoint endpoint_of(const Address& address) {
  const std::string name(address.name, ::strnlen(address.name, sizeof address.name));
  const std::size_t colon = name.find(':');
  if (colon != std::string::npos)
    return tcp_endpoint(name.substr(0, colon), std::atoi(name.c_str() + colon + 1));
  Endpoint endpoint;
  endpoint.local().sun_family = AF_UNIX;
  std::memcpy(endpoint.local().sun_path + 1, name.data(), name.size());
  endpoint.bytes = static_cast<::socklen_t>(kNameBegins + name.size());
  return endpoint;
}

std::string name_of(Endpoint& endpoint) {
  if (endpoint.storage.ss_family == AF_UNIX)
    return {endpoint.local().sun_path + 1, endpoint.bytes - kNameBegins};
  char host[INET_ADDRSTRLEN] = {};
  (void)::inet_ntop(AF_INET, &endpoint.tcp().sin_addr, host, sizeof host);
  return std::string(host) + ":" + std::to_string(ntohs(endpoint.tcp().sin_port));
}

int make(::sa_family_t family) {
  const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw Failure(ncclSystemError, std::string("socket: ") + std::strerror(errno));
  return fd;
}

/// Until something may be done, or a slice of time is over.
void wait(int fd, short events, const AbortFlag& aborted) {
  if (aborted) throw Aborted{};
  struct ::pollfd ready {
    fd, events, 0
  };
  (void)::poll(&ready, 1, kSliceMs);
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Socket Socket::listen() {
  Endpoint own = own_endpoint();
  Socket socket(make(own.storage.ss_family));
  if (::bind(socket.fd_, own.get(), own.bytes) != 0 || ::listen(socket.fd_, 64) != 0)
    throw Failure(ncclSystemError, std::string("listen: ") + std::strerror(errno));
  return socket;
}

Address Socket::address() const {
  Endpoint bound;
  if (::getsockname(fd_, bound.get(), &bound.bytes) != 0)
    throw Failure(ncclSystemError, std::string("getsockname: ") + std::strerror(errno));
  const std::string name = name_of(bound);
  Address address;
  std::memcpy(address.name, name.data(), std::min(name.size(), sizeof address.name - 1));
  return address;
}

Socket Socket::connect(const Address& address) {
  Endpoint to = endpoint_of(address);
  Socket socket(make(to.storage.ss_family));
  if (::connect(socket.fd_, to.get(), to.bytes) != 0) throw gone("connecting to a rank");
  return socket;
}

Socket Socket::accept(const AbortFlag& aborted) const {
  for (;;) {
    wait(fd_, POLLIN, aborted);
    struct ::pollfd ready {
      fd_, POLLIN, 0
    };
    if (::poll(&ready, 1, 0) != 1) continue;
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0) return Socket(fd);
  }
}

void Socket::shut_down() const noexcept {
  if (fd_ >= 0) (void)::shutdown(fd_, SHUT_RDWR);
}

std::size_t Socket::send_some(const std::byte* data, std::size_t bytes) const {
  const ::ssize_t sent = ::send(fd_, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0) return static_cast<std::size_t>(sent);
  if (errno == EAGAIN || errno == EINTR) return 0;
  throw gone("sending to a rank");
}

std::size_t Socket::receive_some(std::byte* data, std::size_t bytes) const {
  const ::ssize_t received = ::recv(fd_, data, bytes, MSG_DONTWAIT);
  if (received > 0) return static_cast<std::size_t>(received);
  if (received == 0) errno = ECONNRESET;
  if (errno == EAGAIN || errno == EINTR) return 0;
  throw gone("receiving from a rank");
}

void Socket::send_all(const std::byte* data, std::size_t bytes, const AbortFlag& aborted) const {
  for (std::size_t done = 0; done < bytes; done += send_some(data + done, bytes - done))
    wait(fd_, POLLOUT, aborted);
}

void Socket::receive_all(std::byte* data, std::size_t bytes, const AbortFlag& aborted) const {
  for (std::size_t done = 0; done < bytes; done += receive_some(data + done, bytes - done))
    wait(fd_, POLLIN, aborted);
}

}  // namespace tenon::nccl_sim
