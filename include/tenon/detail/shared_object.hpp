// One POSIX shared-memory object, opened and mapped. The only header that sees Boost.
//
// Boost.Interprocess supplies shared_memory_object and mapped_region and nothing else: its managed
// segments, mutexes and conditions hide locks in shared memory that a killed process never gives
// back (design invariant 4).
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/permissions.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tenon/error.hpp>
#include <utility>

namespace tenon::detail {

/// Advice that makes pages resident, and reports a full /dev/shm as an error where a touch would
/// raise SIGBUS (Linux 5.14; MADV_POPULATE_WRITE, which older headers lack).
inline constexpr int kPopulateWrite = 23;

/// Throws Error(NotYours) when there is something else than a regular file under `name`: opening a
/// pipe would wait for its other end, and a link may lead anywhere.
inline void check_regular(const std::string& name) {
  struct ::stat st {};
  if (::lstat(("/dev/shm/" + name).c_str(), &st) != 0 || S_ISREG(st.st_mode)) return;
  throw Error(Errc::NotYours, "/dev/shm/" + name + " is not a regular file");
}

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
    const auto mode = access == Access::read_only ? boost::interprocess::read_only
                                                  : boost::interprocess::read_write;
    return attempt(name, ENOENT, [&] {
      return boost::interprocess::shared_memory_object(boost::interprocess::open_only, name.c_str(),
                                                       mode);
    });
  }

  /// Nothing when the name is taken. `permissions` are file mode bits, not subject to the umask.
  [[nodiscard]] static std::optional<SharedObject> create(const std::string& name,
                                                          int permissions) {
    return attempt(name, EEXIST, [&] {
      return boost::interprocess::shared_memory_object(
          boost::interprocess::create_only, name.c_str(), boost::interprocess::read_write,
          boost::interprocess::permissions(permissions));
    });
  }

  static bool unlink(const std::string& name) noexcept {
    return boost::interprocess::shared_memory_object::remove(name.c_str());
  }

  /// Maps the first `bytes` bytes (which must exist: check size() first) as the object was opened.
  void map(std::uint64_t bytes) {
    try {
      region_ = boost::interprocess::mapped_region(object_, object_.get_mode(), 0, bytes);
    } catch (const boost::interprocess::interprocess_exception& e) {
      throw SystemError(e.get_native_error(),
                        "mapping " + std::to_string(bytes) + " bytes of /dev/shm/" + name_);
    }
  }

  [[nodiscard]] int fd() const noexcept { return object_.get_mapping_handle().handle; }
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
  SharedObject(boost::interprocess::shared_memory_object object, std::string name)
      : object_(std::move(object)), name_(std::move(name)) {}

  template <class Make>
  static std::optional<SharedObject> attempt(const std::string& name, int expected, Make make) {
    try {
      return SharedObject(make(), name);
    } catch (const boost::interprocess::interprocess_exception& e) {
      if (e.get_native_error() == expected) return std::nullopt;
      throw SystemError(e.get_native_error(), "opening /dev/shm/" + name);
    }
  }

  boost::interprocess::shared_memory_object object_;
  boost::interprocess::mapped_region region_;
  std::string name_;
};

}  // namespace tenon::detail
