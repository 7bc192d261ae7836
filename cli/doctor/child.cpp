#include "child.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <tenon/error.hpp>
#include <thread>

#include "../signals.hpp"

namespace tenon::cli::doctor {
namespace {

struct Pipe {
  Pipe() {
    if (::pipe2(ends, O_CLOEXEC) != 0) throw SystemError(errno, "making a pipe");
  }
  ~Pipe() {
    for (const int end : ends)
      if (end >= 0) ::close(end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int take(int which) noexcept { return std::exchange(ends[which], -1); }
  int ends[2] = {-1, -1};
};

class Actions {
 public:
  Actions() { (void)::posix_spawn_file_actions_init(&actions_); }
  ~Actions() { (void)::posix_spawn_file_actions_destroy(&actions_); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
  void become(int fd, int wanted) {
    if (const int error = ::posix_spawn_file_actions_adddup2(&actions_, fd, wanted); error != 0)
      throw SystemError(error, "starting a process");
  }
  [[nodiscard]] const posix_spawn_file_actions_t* get() const noexcept { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

}  // namespace

Child::Child(const std::vector<std::string>& arguments) {
  Pipe to;
  Pipe from;
  Actions actions;
  actions.become(to.ends[0], STDIN_FILENO);
  actions.become(from.ends[1], STDOUT_FILENO);
  std::vector<std::string> words{"tenon"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  const int error =
      ::posix_spawn(&pid_, "/proc/self/exe", actions.get(), nullptr, pointers.data(), ::environ);
  if (error != 0) throw SystemError(error, "starting a second process of this program");
  to_ = to.take(1);
  from_ = from.take(0);
}

Child::~Child() {
  (void)kill();
  if (to_ >= 0) ::close(to_);
  ::close(from_);
}

std::optional<std::string> Child::line(const detail::Deadline& deadline) {
  for (;;) {
    if (const std::size_t end = seen_.find('\n'); end != std::string::npos) {
      std::string line = seen_.substr(0, end);
      seen_.erase(0, end + 1);
      return line;
    }
    check_signals();
    struct ::pollfd ready {
      from_, POLLIN, 0
    };
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline.left()).count();
    const int found = ::poll(&ready, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000)));
    if (found == 0 && deadline.passed()) return std::nullopt;
    if (found <= 0) continue;
    char more[4096];
    const ssize_t n = ::read(from_, more, sizeof(more));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    seen_.append(more, static_cast<std::size_t>(n));
  }
}

void Child::send(const std::string& text) noexcept {
  const char* at = text.data();
  std::size_t left = text.size();
  while (left > 0) {
    const ssize_t n = ::write(to_, at, left);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    at += n;
    left -= static_cast<std::size_t>(n);
  }
}

bool Child::has_ended() {
  if (!ended_) {
    const pid_t found = ::waitpid(pid_, &status_, WNOHANG);
    ended_ = found == pid_ || (found < 0 && errno == ECHILD);  // somebody else has reaped it
  }
  return ended_;
}

bool Child::wait_for_end(const detail::Deadline& deadline) {
  while (!has_ended()) {
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // between two looks
  }
  return true;
}

void Child::finish(const detail::Deadline& deadline) {
  if (to_ >= 0) ::close(std::exchange(to_, -1));
  (void)wait_for_end(deadline);
}

bool Child::kill() {
  if (has_ended()) return true;
  ::kill(pid_, SIGKILL);
  return wait_for_end(detail::Deadline(std::chrono::seconds(1)));
}

Trouble Child::ending() {
  // Its pipe may close a moment before it has ended.
  if (!wait_for_end(detail::Deadline(std::chrono::milliseconds(100))))
    return {Trouble::Kind::silent, "did not answer"};
  if (WIFSIGNALED(status_))
    return {Trouble::Kind::crashed, "was ended by signal " + std::to_string(WTERMSIG(status_))};
  return {Trouble::Kind::odd, "ended with exit code " + std::to_string(WEXITSTATUS(status_))};
}

}  // namespace tenon::cli::doctor
