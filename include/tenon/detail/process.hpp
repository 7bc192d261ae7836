// Who is alive: process identity, claims by file lock, fork.
//
// A claim (a place, a publication) is an open-file-description write lock on one byte of the
// segment. It is gone the instant its holder is, however it died, and needs no word in shared
// memory. Facts, tried on Linux 6: an OFD lock is free as soon as a killed process has closed its
// files, even while it is a zombie; it is shared with a forked child, which is why the child closes
// its copies (ForkGuard), and why nothing is mapped through them (Claim).
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <tenon/detail/per_process.hpp>
#include <tenon/error.hpp>
#include <tenon/format.hpp>
#include <tuple>
#include <vector>

namespace tenon::detail {

/// Fields of /proc/<pid>/stat; zeros when it cannot be read.
struct ProcessStat {
  char state = 0;
  std::uint64_t threads = 0;
  std::uint64_t start_time = 0;  ///< clock ticks since boot
};
[[nodiscard]] inline ProcessStat stat_of(std::uint32_t pid) noexcept {
  char path[32];
  std::snprintf(path, sizeof(path), "/proc/%u/stat", pid);
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char text[1024];
  const ssize_t n = ::read(fd, text, sizeof(text) - 1);
  ::close(fd);
  if (n <= 0) return {};
  text[n] = '\0';
  const char* at =
      std::strrchr(text, ')');  // the command in parentheses may itself hold spaces and ')'
  if (at == nullptr) return {};
  ProcessStat stat;
  for (int field = 3; field <= 22; ++field) {
    at = std::strchr(at + 1, ' ');
    if (at == nullptr) return {};
    if (field == 3) stat.state = at[1];
    if (field == 20) stat.threads = std::strtoull(at + 1, nullptr, 10);
    if (field == 22) stat.start_time = std::strtoull(at + 1, nullptr, 10);
  }
  return stat;
}
[[nodiscard]] inline std::uint64_t start_time_of(std::uint32_t pid) noexcept {
  return stat_of(pid).start_time;
}

/// The pid namespace of this process; 0 where /proc does not tell.
[[nodiscard]] inline std::uint64_t this_pid_namespace() noexcept {
  struct ::stat st {};
  return ::stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

/// This process. Read anew at each call: a forked child is somebody else.
[[nodiscard]] inline format::Process this_process() noexcept {
  const auto pid = static_cast<std::uint32_t>(::getpid());
  return {pid, 0, start_time_of(pid), this_pid_namespace()};
}

// The pid is stored last, with release, and loaded first, with acquire: who finds a new one finds
// no field of an older owner beside it.
[[nodiscard]] inline format::Process load_owner(const format::OwnerWords& owner) noexcept {
  const std::uint32_t pid = owner.pid.load(std::memory_order_acquire);
  return {pid, 0, owner.start_time.load(std::memory_order_relaxed),
          owner.pid_namespace.load(std::memory_order_relaxed)};
}
inline void store_owner(format::OwnerWords& owner, const format::Process& process) noexcept {
  owner.start_time.store(process.start_time, std::memory_order_relaxed);
  owner.pid_namespace.store(process.pid_namespace, std::memory_order_relaxed);
  owner.pid.store(process.pid, std::memory_order_release);
}
[[nodiscard]] inline bool same(const format::Process& a, const format::Process& b) noexcept {
  return a.pid == b.pid && a.start_time == b.start_time && a.pid_namespace == b.pid_namespace;
}

/// Whether a pid is nobody's, or a zombie's, where there are no pidfds: an old kernel, or a
/// container whose seccomp profile refuses them. A zombie whose other threads live on has not
/// exited. What cannot be told is alive.
[[nodiscard]] inline bool has_exited_by_proc(std::uint32_t pid) noexcept {
  const auto number = static_cast<pid_t>(pid);
  if (number <= 0 || (::kill(number, 0) != 0 && errno == ESRCH)) return true;
  const ProcessStat stat = stat_of(pid);
  return (stat.state == 'Z' || stat.state == 'X') && stat.threads <= 1;
}

/// Whether this pid is nobody's, or that of a zombie.
[[nodiscard]] inline bool has_exited(std::uint32_t pid) noexcept {
  const auto pidfd = static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0U));
  // EINVAL, on newer kernels ENOENT: the number is now that of a thread.
  if (pidfd < 0 && (errno == ESRCH || errno == EINVAL || errno == ENOENT)) return true;
  if (pidfd < 0) return has_exited_by_proc(pid);
  struct ::pollfd exited {
    pidfd, POLLIN, 0
  };
  const bool is_zombie = ::poll(&exited, 1, 0) == 1;
  ::close(pidfd);
  return is_zombie;
}

/// Whether the process that recorded itself as `owner` still runs. False for a zombie.
[[nodiscard]] inline bool is_running(const format::Process& owner) noexcept {
  if (has_exited(owner.pid)) return false;
  const std::uint64_t now = owner.start_time == 0 ? 0 : start_time_of(owner.pid);
  return now == 0 || now == owner.start_time;  // another start time: the pid was reused
}

/// Takes the write lock on byte `byte`; false when another open file description has it.
[[nodiscard]] inline bool try_lock_byte(int fd, std::uint32_t byte) {
  struct ::flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  throw SystemError(errno, "locking byte " + std::to_string(byte) + " of a publication");
}

inline void unlock_byte(int fd, std::uint32_t byte) noexcept {
  struct ::flock lock {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  (void)::fcntl(fd, F_OFD_SETLK, &lock);
}

/// Whether another open file description holds byte `byte`. Looks, never takes: a look that took
/// the lock for an instant would make a claimer believe the place is taken.
[[nodiscard]] inline bool is_locked_by_other(int fd, std::uint32_t byte) noexcept {
  struct ::flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

/// Whether the recorded owner certainly runs. Pids mean nothing across pid namespaces: there, only
/// the lock can tell.
[[nodiscard]] inline bool is_known_running(const format::Process& owner) noexcept {
  return owner.pid != 0 && owner.pid_namespace == this_pid_namespace() && is_running(owner);
}

/// Whether the recorded owner has certainly exited, whoever holds its lock by now. A start time
/// that differs is no such proof: time namespaces shift it.
[[nodiscard]] inline bool is_known_gone(const format::Process& owner) noexcept {
  const std::uint64_t here = this_pid_namespace();
  return owner.pid != 0 && here != 0 && owner.pid_namespace == here && has_exited(owner.pid);
}

/// What objects of this process own, whatever became of its descriptors: (object, byte). A program
/// that was replaced by exec left its pid and start time in the rows it owned, but nothing here.
class Owned {
 public:
  Owned(int fd, std::uint32_t byte) : key_(key_of(fd, byte)) {
    Keys& keys = per_process<Keys>();
    const std::lock_guard lock(keys.mutex);
    keys.all.push_back(key_);
  }
  ~Owned() {
    Keys& keys = per_process<Keys>();
    const std::lock_guard lock(keys.mutex);
    const auto known = std::find(keys.all.begin(), keys.all.end(), key_);
    if (known != keys.all.end()) keys.all.erase(known);  // in a forked child it is not there
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  [[nodiscard]] static bool is(int fd, std::uint32_t byte) noexcept {
    Keys& keys = per_process<Keys>();
    const std::lock_guard lock(keys.mutex);
    return std::find(keys.all.begin(), keys.all.end(), key_of(fd, byte)) != keys.all.end();
  }

 private:
  using Key = std::tuple<dev_t, ino_t, std::uint32_t>;
  struct Keys {
    std::mutex mutex;
    std::vector<Key> all;
  };
  static Key key_of(int fd, std::uint32_t byte) noexcept {
    struct ::stat st {};
    return ::fstat(fd, &st) == 0 ? Key(st.st_dev, st.st_ino, byte) : Key();
  }

  Key key_;
};

/// False when the process has certainly no mapping of the object behind `fd`.
[[nodiscard]] inline bool may_have_mapped(std::uint32_t pid, int fd) noexcept {
  char path[32];
  std::snprintf(path, sizeof(path), "/proc/%u/maps", pid);
  struct ::stat st {};
  std::FILE* maps = ::fstat(fd, &st) == 0 ? std::fopen(path, "re") : nullptr;
  if (maps == nullptr) return true;  // not ours to look at
  bool found = false;
  bool empty = true;  // as that of a process whose main thread has exited: tells nothing
  char line[512];
  while (!found && std::fgets(line, sizeof(line), maps) != nullptr) {
    empty = false;
    unsigned major = 0;
    unsigned minor = 0;
    unsigned long long inode = 0;
    found = std::sscanf(line, "%*x-%*x %*s %*x %x:%x %llu", &major, &minor, &inode) == 3 &&
            makedev(major, minor) == st.st_dev && inode == st.st_ino;
  }
  std::fclose(maps);
  return found || empty;
}

/// Whether the recorded owner of a byte runs and is still the program it was. One that closed
/// descriptors it does not know, by daemonising say, has lost its lock and goes on; one that became
/// another program by exec has lost its memory too.
[[nodiscard]] inline bool still_owns(int fd, std::uint32_t byte,
                                     const format::Process& owner) noexcept {
  if (!is_known_running(owner)) return false;
  if (owner.pid == static_cast<std::uint32_t>(::getpid())) return Owned::is(fd, byte);
  return may_have_mapped(owner.pid, fd);
}

/// Dead = the lock is free and, where pids mean anything, its recorded owner does not go on
/// without.
[[nodiscard]] inline bool is_dead(int fd, std::uint32_t byte,
                                  const format::Process& owner) noexcept {
  return !is_locked_by_other(fd, byte) && !still_owns(fd, byte, owner);
}

/// Closes a claim's descriptor in forked children, so that a child that lives on (a data loader)
/// does not keep its dead parent's lock. The objects themselves notice by pid that they are in a
/// child.
class ForkGuard {
 public:
  /// As ::open(), with no instant at which a forked child could inherit the descriptor unseen.
  [[nodiscard]] static int open(const char* path, int flags) {
    ForkGuard& guard = instance();
    const std::lock_guard lock(guard.mutex_);
    guard.opened_.reserve(guard.opened_.size() + 1);
    const int fd = ::open(path, flags);
    struct ::stat st {};
    if (fd >= 0 && ::fstat(fd, &st) == 0) guard.opened_.push_back({fd, st.st_dev, st.st_ino});
    return fd;
  }
  /// Closes what open() returned.
  static void close(int fd) noexcept {
    ForkGuard& guard = instance();
    const std::lock_guard lock(guard.mutex_);
    const auto known = std::find_if(guard.opened_.begin(), guard.opened_.end(),
                                    [fd](const Opened& o) { return o.fd == fd; });
    if (known == guard.opened_.end()) return;  // a forked child, whose number this is no longer
    known->close_if_ours();
    guard.opened_.erase(known);
  }

  static ForkGuard& instance() {
    static auto* guard =
        new ForkGuard;  // never destroyed: a fork can come after static destruction
    return *guard;
  }

 private:
  /// A program may close descriptors it does not know (to daemonise), and the number may then be
  /// that of a file of its own.
  struct Opened {
    int fd;
    ::dev_t device;
    ::ino_t inode;
    void close_if_ours() const noexcept {
      struct ::stat st {};
      if (::fstat(fd, &st) == 0 && st.st_dev == device && st.st_ino == inode) ::close(fd);
    }
  };

  ForkGuard() {
    ::pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                     [] {
                       ForkGuard& guard = instance();
                       for (const Opened& opened : guard.opened_) opened.close_if_ours();
                       guard.opened_.clear();
                       guard.mutex_.unlock();
                     });
  }
  std::mutex mutex_;
  std::vector<Opened> opened_;
};

// Made before main(): a fork while another thread made it would leave the child waiting for that
// thread.
inline ForkGuard& fork_guard = ForkGuard::instance();

}  // namespace tenon::detail
