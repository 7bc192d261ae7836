// Unix sockets of the abstract namespace, which leave no file behind; every wait ends with an
// abort. They reach no other network namespace: where TENON_NCCL_SIM_ADDRESS is set, to an IPv4
// address of this node, it is TCP from there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

namespace tenon::nccl_sim {

/// A socket's name; the kernel chose it, or its port.
struct Address {
  char name[32] = {};  // without the NUL that an abstract name begins with; or ADDRESS:PORT
};

using AbortFlag = std::atomic<bool>;

/// Errors:   Failure(ncclRemoteError) when the other end is gone, Aborted.
/// Threads:  one at a time; shut_down() from any.
class Socket {
 public:
  Socket() = default;
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();

  [[nodiscard]] static Socket listen();
  [[nodiscard]] static Socket connect(const Address& address);
  [[nodiscard]] Address address() const;
  [[nodiscard]] Socket accept(const AbortFlag& aborted) const;

  [[nodiscard]] int fd() const noexcept { return fd_; }
  /// The other end sees its peer gone.
  void shut_down() const noexcept;

  /// As many bytes as can be moved at once, perhaps none.
  [[nodiscard]] std::size_t send_some(const std::byte* data, std::size_t bytes) const;
  [[nodiscard]] std::size_t receive_some(std::byte* data, std::size_t bytes) const;

  template <class T>
  void send(const T& value, const AbortFlag& aborted) const {
    static_assert(std::is_trivially_copyable_v<T>);
    send_all(reinterpret_cast<const std::byte*>(&value), sizeof value, aborted);
  }
  template <class T>
  [[nodiscard]] T receive(const AbortFlag& aborted) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    receive_all(reinterpret_cast<std::byte*>(&value), sizeof value, aborted);
    return value;
  }

 private:
  explicit Socket(int fd) : fd_(fd) {}
  void send_all(const std::byte* data, std::size_t bytes, const AbortFlag& aborted) const;
  void receive_all(std::byte* data, std::size_t bytes, const AbortFlag& aborted) const;

  int fd_ = -1;
};

}  // namespace tenon::nccl_sim
