// Preloaded into a command: a machine that takes long over a call, as many milliseconds as the
// variable named after it says, and does one at a time.
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string>

namespace {

constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE

void take_long(const char* variable) {
  static std::mutex one_at_a_time;
  const char* const text = std::getenv(variable);
  if (text == nullptr) return;
  const long milliseconds = std::strtol(text, nullptr, 10);
  const std::timespec time{milliseconds / 1000, milliseconds % 1000 * 1'000'000};
  const std::lock_guard lock(one_at_a_time);
  ::nanosleep(&time, nullptr);
}

}  // namespace

// <sys/mman.h> and <sys/statfs.h> would have more to say of theirs.
extern "C" {

int fsync(int fd) {
  take_long("TENON_SLOW_FSYNC");
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

ssize_t pread(int fd, void* to, size_t bytes, off_t offset) {
  take_long("TENON_SLOW_PREAD");
  return ::syscall(SYS_pread64, fd, to, bytes, offset);
}

ssize_t pwrite(int fd, const void* from, size_t bytes, off_t offset) {
  take_long("TENON_SLOW_PWRITE");
  return ::syscall(SYS_pwrite64, fd, from, bytes, offset);
}

int madvise(void* at, size_t bytes, int advice) {
  if (advice == kPopulateWrite) take_long("TENON_SLOW_MADVISE");
  return static_cast<int>(::syscall(SYS_madvise, at, bytes, advice));
}

int statfs(const char* path, void* to) {
  take_long("TENON_SLOW_STATFS");
  return static_cast<int>(::syscall(SYS_statfs, path, to));
}

int shm_unlink(const char* name) {
  take_long("TENON_SLOW_SHM_UNLINK");
  return ::unlink((std::string("/dev/shm/") + name).c_str());
}

}  // extern "C"
