// The locks of one holder on a publication.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <tenon/detail/process.hpp>
#include <tenon/detail/shared_object.hpp>
#include <tenon/error.hpp>
#include <utility>

namespace tenon::detail {

/// An open file description for a process's locks, and for nothing else.
///
/// A lock belongs to its description, and that lives as long as any descriptor or *mapping* of it
/// in any process (tried on Linux 6): a mapping that a forked child inherits would keep its dead
/// parent's locks. Nothing is ever mapped through this one, and a forked child closes it at once.
///
/// Errors:   SystemError.
/// Lifetime: the locks end with this object, or with the process, however it dies.
class Claim {
 public:
  /// Nothing when the name of `object` no longer leads to it.
  [[nodiscard]] static std::optional<Claim> on(const SharedObject& object) {
    const std::string path = "/dev/shm/" + object.name();
    // For writing alone: that is all a lock needs, and all that the mode allows during creation.
    Claim claim(ForkGuard::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
    if (claim.fd_ < 0 && errno == ENOENT) return std::nullopt;
    if (claim.fd_ < 0) throw SystemError(errno, "opening " + path + " to claim it");
    const struct ::stat theirs = object.status();
    struct ::stat mine {};
    const bool same = ::fstat(claim.fd_, &mine) == 0 && mine.st_dev == theirs.st_dev &&
                      mine.st_ino == theirs.st_ino;
    if (!same) return std::nullopt;
    return claim;
  }

  Claim(Claim&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Claim& operator=(Claim&&) = delete;
  ~Claim() {
    if (fd_ >= 0) ForkGuard::close(fd_);
  }

  [[nodiscard]] int fd() const noexcept { return fd_; }

 private:
  explicit Claim(int fd) noexcept : fd_(fd) {}
  int fd_;
};

}  // namespace tenon::detail
