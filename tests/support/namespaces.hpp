// Namespaces of a test program's own, where they may be made. A /dev/shm of its own: what it leaves
// behind can be counted, and gc() finds nobody else's publications.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace tenon::test {

/// Whether TENON_REQUIRE_NAMESPACES=1 says that they may be made: then nothing is skipped for want
/// of them.
inline bool namespaces_are_required() {
  const char* required = std::getenv("TENON_REQUIRE_NAMESPACES");
  return required != nullptr && std::string_view(required) == "1";
}
#define SKIP_FOR_WANT_OF_NAMESPACES(why)                                             \
  do {                                                                               \
    if (namespaces_are_required()) FAIL() << why << " (TENON_REQUIRE_NAMESPACES=1)"; \
    GTEST_SKIP() << why;                                                             \
  } while (false)

/// For this process and those it makes from here on; false where the system permits it not. Call
/// it while there is one thread.
inline bool take_private_shm() {
  const auto write_file = [](const char* path, const std::string& text) {
    const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
    const bool written =
        fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::close(fd);
    return written;
  };
  if (::unshare(CLONE_NEWNS) != 0) {  // not root: as root of a user namespace, if there may be one
    const std::string uid = std::to_string(::geteuid());
    const std::string gid = std::to_string(::getegid());
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 ||
        !write_file("/proc/self/setgroups", "deny") ||
        !write_file("/proc/self/uid_map", uid + " " + uid + " 1") ||
        !write_file("/proc/self/gid_map", gid + " " + gid + " 1"))
      return false;
  }
  return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tenon-test", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, nullptr) == 0;
}

}  // namespace tenon::test
