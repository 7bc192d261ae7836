// What the unit and contract tests use beyond support/support.hpp.
#pragma once

#include <string>
#include <support/support.hpp>
#include <tenon/detail/shared_object.hpp>
#include <type_traits>
#include <utility>

namespace tenon::test {

/// A shared-memory object of `bytes` zeroed bytes that goes with the test, whatever becomes of it.
class ScratchObject {
 public:
  explicit ScratchObject(std::uint64_t bytes, std::string name = unique_name("scratch"))
      : name_(std::move(name)), pid_(::getpid()) {
    auto object = detail::SharedObject::create(name_, 0600);
    if (!object) throw Error(Errc::NameInUse, "/dev/shm/" + name_ + " exists already");
    if (::ftruncate(object->fd(), static_cast<off_t>(bytes)) != 0)
      throw SystemError(errno, "sizing /dev/shm/" + name_);
  }
  ScratchObject(const ScratchObject&) = delete;
  ScratchObject& operator=(const ScratchObject&) = delete;
  ~ScratchObject() {
    if (::getpid() == pid_) detail::SharedObject::unlink(name_);
  }

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// A new open file description of it.
  [[nodiscard]] detail::SharedObject open() const {
    auto object = detail::SharedObject::open(name_, detail::SharedObject::Access::read_write);
    if (!object) throw Error(Errc::NotFound, "/dev/shm/" + name_ + " is gone");
    return std::move(*object);
  }

 private:
  std::string name_;
  pid_t pid_;
};

/// Values from one process to another, made before fork. take() gives up as Signal::wait() does.
class Pipe {
 public:
  Pipe() {
    if (::pipe(fds_) != 0) throw SystemError(errno, "making a pipe");
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    ::close(fds_[0]);
    ::close(fds_[1]);
  }

  template <class T>
  void put(const T& value) const {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 4096);  // one write, one read
    if (::write(fds_[1], &value, sizeof(T)) != static_cast<ssize_t>(sizeof(T)))
      throw SystemError(errno, "writing to a pipe");
  }
  template <class T>
  [[nodiscard]] T take() const {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 4096);
    struct ::pollfd readable {
      fds_[0], POLLIN, 0
    };
    const std::chrono::milliseconds patience = kPatience;
    if (::poll(&readable, 1, static_cast<int>(patience.count())) != 1)
      throw Error(Errc::DeadlinePassed, "nothing came through a pipe");
    T value{};
    if (::read(fds_[0], &value, sizeof(T)) != static_cast<ssize_t>(sizeof(T)))
      throw SystemError(errno, "reading from a pipe");
    return value;
  }

 private:
  int fds_[2] = {-1, -1};
};

}  // namespace tenon::test
