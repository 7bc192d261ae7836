#include "sharing.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <iostream>
#include <tenon/detail/process.hpp>
#include <tenon/error.hpp>
#include <thread>

#include "../common.hpp"
#include "../signals.hpp"
#include "child.hpp"

namespace tenon::cli::doctor {
namespace {

constexpr std::size_t kBytes = 4096;
constexpr std::uint32_t kOurs = 1;    // what the first process writes
constexpr std::uint32_t kTheirs = 2;  // what the other one answers
constexpr std::uint32_t kFirstByte = 0;
constexpr std::uint32_t kSecondByte = 1;

struct Board {
  format::Word32 question;
  format::Word32 answer;
};
static_assert(sizeof(Board) <= kBytes);

class Mapped {
 public:
  Mapped(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (fd_ < 0) throw SystemError(errno, "opening " + path);
    if (const int error = (flags & O_CREAT) != 0 ? ::posix_fallocate(fd_, 0, kBytes) : 0;
        error != 0)
      failed(error, "making " + path);
    memory_ = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (memory_ == MAP_FAILED) failed(errno, "mapping " + path);
  }
  ~Mapped() {
    ::munmap(memory_, kBytes);
    ::close(fd_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] Board& board() const noexcept { return *static_cast<Board*>(memory_); }

 private:
  [[noreturn]] void failed(int error, const std::string& doing) const {
    ::close(fd_);
    throw SystemError(error, doing);
  }
  int fd_;
  void* memory_ = nullptr;
};

// False also where the kernel has no such locks.
bool locks(int fd, std::uint32_t byte) {
  try {
    return detail::try_lock_byte(fd, byte);
  } catch (const SystemError&) {
    return false;
  }
}

// Taking a descriptor of the process that started this one, which is no descendant of this one, as
// a trainer is none of its engine: 0, or the error.
int take_descriptor() {
  const auto pidfd = static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0U));
  if (pidfd < 0) return errno;
  const auto fd = static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, STDERR_FILENO, 0U));
  const int error = fd < 0 ? errno : 0;
  if (fd >= 0) ::close(fd);
  ::close(pidfd);
  return error == EBADF ? 0 : error;  // rights are asked for first: it has none of that number
}

struct Unlink {
  std::string path;
  ~Unlink() { ::unlink(path.c_str()); }
};

}  // namespace

Sharing try_sharing(const std::string& folder, Duration timeout) {
  Sharing sharing;
  const std::string path =
      folder + "/tenon-doctor." + std::to_string(::geteuid()) + "." + std::to_string(::getpid());
  try {
    const Unlink unlink{path};
    const Mapped file(path, O_RDWR | O_CREAT | O_EXCL);
    file.board().question.store(kOurs, std::memory_order_release);
    const bool locked = locks(file.fd(), kFirstByte);
    const detail::Deadline deadline(timeout);
    Child other({"doctor", "--as", "sharer", "--file", path});
    // The other one wakes until somebody was asleep, and then changes the word.
    while (file.board().answer.load(std::memory_order_acquire) == 0 && !other.has_ended() &&
           !deadline.passed() && !was_signalled())
      detail::futex_wait(file.board().answer, 0, detail::kSlice);
    const auto line = other.line(deadline);
    if (!line) {
      sharing.trouble = "the other one " + other.ending().what;
      return sharing;
    }
    const Json told = Json::parse(*line);
    sharing.seen = told.at("seen").get<bool>() &&
                   file.board().answer.load(std::memory_order_acquire) == kTheirs;
    sharing.woken = told.at("woke").get<bool>();
    sharing.locked = locked && told.at("locked").get<bool>() &&
                     detail::is_locked_by_other(file.fd(), kSecondByte);
    sharing.getfd = told.at("getfd").get<int>();
    sharing.freed = other.kill() && locks(file.fd(), kSecondByte);
  } catch (const std::exception& error) {  // of the system, or of reading the answer
    sharing.trouble = detail::message_of(error);
  }
  return sharing;
}

void share_back(const std::string& path) {
  const Mapped file(path, O_RDWR);
  const bool seen = file.board().question.load(std::memory_order_acquire) == kOurs;
  const bool locked =
      detail::is_locked_by_other(file.fd(), kFirstByte) && locks(file.fd(), kSecondByte);
  bool woke = false;
  for (const detail::Deadline deadline(std::chrono::seconds(1)); !woke && !deadline.passed();) {
    woke = ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&file.board().answer), FUTEX_WAKE,
                     INT_MAX, nullptr, nullptr, 0) > 0;
    if (!woke) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  file.board().answer.store(kTheirs, std::memory_order_release);
  print(Json{{"seen", seen}, {"locked", locked}, {"woke", woke}, {"getfd", take_descriptor()}}
            .dump() +
        "\n");
  std::string ignored;
  while (std::getline(std::cin, ignored)) continue;  // holds its lock until it is killed
}

}  // namespace tenon::cli::doctor
