// fork() for tests, which have threads and sanitizers.
#pragma once

#include <dirent.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <thread>

namespace tenon::test {

/// Whether thread `id` of this process runs, or waits for a page or for its turn.
inline bool is_awake(const std::string& id) {
  std::ifstream file("/proc/self/task/" + id + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');  // the name may hold anything
  return name_end != std::string::npos && line.compare(name_end, 3, ") S") != 0;
}

/// Waits until all other threads of this process sleep; false when some still do not after
/// `timeout`, or nobody knows.
inline bool wait_for_quiet(std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  const std::string self = std::to_string(::gettid());
  for (;;) {
    ::DIR* tasks = ::opendir("/proc/self/task");
    if (tasks == nullptr) return false;
    bool quiet = true;
    while (const ::dirent* task = ::readdir(tasks)) {
      const std::string id = task->d_name;
      if (id.front() != '.' && id != self) quiet = quiet && !is_awake(id);
    }
    ::closedir(tasks);
    if (quiet || std::chrono::steady_clock::now() > end) return quiet;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

/// fork(), under a sanitizer once all other threads sleep, or after 200 ms. The allocators of GCC
/// 12's sanitizers know nothing of fork: of one that another thread was in at that instant, a lock
/// stays taken in the child, which hangs in some later allocation (7 in 1,000 forks beside a thread
/// that starts). A thread that wakes between the look and the fork can still be in it.
inline ::pid_t quiet_fork() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  (void)wait_for_quiet(std::chrono::milliseconds(200));
#endif
  return ::fork();
}

}  // namespace tenon::test
