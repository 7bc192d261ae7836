#include "socket.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>

#include "failure.hpp"

namespace tenon::nccl_sim {
namespace {

constexpr int kSliceMs = 1;  // between looks at the abort flag

Failure gone(const char* doing) {
  return {ncclRemoteError, std::string(doing) + ": " + std::strerror(errno)};
}

int make() {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
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
  Socket socket(make());
  const ::sa_family_t chosen_by_the_kernel = AF_UNIX;
  if (::bind(socket.fd_, reinterpret_cast<const struct ::sockaddr*>(&chosen_by_the_kernel),
             sizeof chosen_by_the_kernel) != 0 ||
      ::listen(socket.fd_, 64) != 0)
    throw Failure(ncclSystemError, std::string("listen: ") + std::strerror(errno));
  return socket;
}

Address Socket::address() const {
  struct ::sockaddr_un bound {};
  ::socklen_t bytes = sizeof bound;
  if (::getsockname(fd_, reinterpret_cast<struct ::sockaddr*>(&bound), &bytes) != 0)
    throw Failure(ncclSystemError, std::string("getsockname: ") + std::strerror(errno));
  Address address;
  const std::size_t prefix = offsetof(struct ::sockaddr_un, sun_path) + 1;
  std::memcpy(address.name, bound.sun_path + 1, std::min<std::size_t>(bytes - prefix, 31));
  return address;
}

Socket Socket::connect(const Address& address) {
  Socket socket(make());
  struct ::sockaddr_un to {};
  to.sun_family = AF_UNIX;
  const std::size_t length = ::strnlen(address.name, sizeof address.name);
  std::memcpy(to.sun_path + 1, address.name, length);
  const auto bytes =
      static_cast<::socklen_t>(offsetof(struct ::sockaddr_un, sun_path) + 1 + length);
  if (::connect(socket.fd_, reinterpret_cast<const struct ::sockaddr*>(&to), bytes) != 0)
    throw gone("connecting to a rank");
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
