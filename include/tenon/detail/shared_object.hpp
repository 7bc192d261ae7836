// One POSIX shared-memory object, opened and mapped. The only header that sees Boost.
//
// Boost.Interprocess supplies shared_memory_object and mapped_region and nothing else: its managed
// segments, mutexes and conditions hide locks in shared memory that a killed process never gives
// back (design invariant 4).
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/permissions.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <tenon/error.hpp>
#include <utility>

namespace tenon::detail {

/// Advice that makes pages resident, and reports a full /dev/shm as an error where a touch would
/// raise SIGBUS (Linux 5.14; MADV_POPULATE_WRITE, which older headers lack).
inline constexpr int kPopulateWrite = 23;

[[noreturn]] inline void throw_not_regular(const std::string& name) {
  throw Error(Errc::NotYours, "/dev/shm/" + name + " is not a regular file");
}

/// Throws Error(NotYours) when there is something else than a regular file under `name`: opening a
/// device does things, and a link may lead anywhere.
inline void check_regular(const std::string& name) {
  struct ::stat st {};
  if (::lstat(("/dev/shm/" + name).c_str(), &st) == 0 && !S_ISREG(st.st_mode))
    throw_not_regular(name);
}

/// "0640"
[[nodiscard]] inline std::string mode_text(::mode_t mode) {
  char text[8];
  std::snprintf(text, sizeof(text), "%04o", mode & 07777U);
  return text;
}

/// A file descriptor, as mapped_region takes what it maps.
class MappableFile {
 public:
  explicit MappableFile(int fd) noexcept : fd_(fd) {}
  MappableFile(MappableFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  MappableFile& operator=(MappableFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~MappableFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] boost::interprocess::mapping_handle_t get_mapping_handle() const noexcept {
    return {fd_, false};
  }

 private:
  int fd_;
};

/// An open file description of a shared-memory object, with at most one mapping of it.
///
/// Units:    sizes are bytes.
/// Errors:   SystemError, but a name that is (or is not) there is a value.
/// Threads:  no locking inside.
/// Lifetime: data() until this object dies or is moved from. File locks taken through fd() are
/// released
///           with it: each object opens the file anew, so two of them in one process conflict.
class SharedObject {
 public:
  enum class Access { read_only, read_write };

  /// Nothing when there is no such object. Throws Error(NotYours) for anything but a regular file.
  [[nodiscard]] static std::optional<SharedObject> open(const std::string& name, Access access) {
    check_regular(name);
    // Not by shm_open(): whoever may write to /dev/shm can put a pipe here after the look above,
    // and opening that for reading waits for its other end.
    const int how = access == Access::read_only ? O_RDONLY : O_RDWR;
    const std::string path = "/dev/shm/" + name;
    MappableFile file(::open(path.c_str(), how | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (file.fd() < 0 && errno == ENOENT) return std::nullopt;
    if (file.fd() < 0 && (errno == ELOOP || errno == ENXIO)) throw_not_regular(name);
    if (file.fd() < 0) throw SystemError(errno, "opening " + path);
    SharedObject object(std::move(file), access, name);
    if (!S_ISREG(object.status().st_mode)) throw_not_regular(name);
    return object;
  }

  /// Nothing when the name is taken. `permissions` are file mode bits, not subject to the umask.
  [[nodiscard]] static std::optional<SharedObject> create(const std::string& name,
                                                          int permissions) {
    try {
      const boost::interprocess::shared_memory_object made(
          boost::interprocess::create_only, name.c_str(), boost::interprocess::read_write,
          boost::interprocess::permissions(permissions));
      MappableFile file(::fcntl(made.get_mapping_handle().handle, F_DUPFD_CLOEXEC, 0));
      if (file.fd() >= 0) return SharedObject(std::move(file), Access::read_write, name);
      const int error = errno;
      unlink(name);
      throw SystemError(error, "opening /dev/shm/" + name);
    } catch (const boost::interprocess::interprocess_exception& e) {
      if (e.get_native_error() == EEXIST) return std::nullopt;
      throw SystemError(e.get_native_error(), "opening /dev/shm/" + name);
    }
  }

  static bool unlink(const std::string& name) noexcept {
    return boost::interprocess::shared_memory_object::remove(name.c_str());
  }

  /// Maps the first `bytes` bytes (which must exist: check size() first) as the object was opened.
  void map(std::uint64_t bytes) {
    try {
      region_ = boost::interprocess::mapped_region(file_,
                                                   access_ == Access::read_only
                                                       ? boost::interprocess::read_only
                                                       : boost::interprocess::read_write,
                                                   0, bytes);
    } catch (const boost::interprocess::interprocess_exception& e) {
      throw SystemError(e.get_native_error(),
                        "mapping " + std::to_string(bytes) + " bytes of /dev/shm/" + name_);
    }
  }

  [[nodiscard]] int fd() const noexcept { return file_.fd(); }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::byte* data() const noexcept {
    return static_cast<std::byte*>(region_.get_address());
  }
  [[nodiscard]] std::uint64_t mapped_bytes() const noexcept { return region_.get_size(); }

  [[nodiscard]] struct ::stat status() const {
    struct ::stat st {};
    if (::fstat(fd(), &st) != 0) throw SystemError(errno, "looking at /dev/shm/" + name_);
    return st;
  }

  /// Whether the name still leads to this very object, and not to a successor (or to nothing).
  [[nodiscard]] bool still_named() const {
    struct ::stat here {};
    struct ::stat there {};
    const std::string path = "/dev/shm/" + name_;
    return ::fstat(fd(), &here) == 0 && ::lstat(path.c_str(), &there) == 0 &&
           here.st_dev == there.st_dev && here.st_ino == there.st_ino;
  }

 private:
  SharedObject(MappableFile file, Access access, std::string name)
      : file_(std::move(file)), access_(access), name_(std::move(name)) {}

  MappableFile file_;
  Access access_;
  boost::interprocess::mapped_region region_;
  std::string name_;
};

}  // namespace tenon::detail
