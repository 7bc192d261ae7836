#include "signals.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <tenon/error.hpp>

namespace tenon::cli {
namespace {

constexpr int kExitInterrupted = 130;

// Written by the handler, which may run in any thread at any instant.
std::atomic<bool> exit_at_once{false};
std::atomic<bool> signalled{false};
std::atomic<int> wake_fd{-1};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

int read_fd = -1;
pid_t pipe_owner = 0;

extern "C" void on_signal(int) {
  if (exit_at_once) ::_exit(kExitInterrupted);
  const int saved = errno;
  signalled = true;
  const char byte = 0;
  [[maybe_unused]] const auto ignored = ::write(wake_fd, &byte, 1);  // full: readable already
  errno = saved;
}

// A pipe of this very process: the one inherited over a fork would wake the parent.
void make_pipe() {
  if (pipe_owner == ::getpid()) return;
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) throw SystemError{errno, "making a pipe"};
  read_fd = fds[0];
  wake_fd = fds[1];
  signalled = false;
  pipe_owner = ::getpid();
}

::sigset_t handled_signals() {
  ::sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, signal);
  return set;
}

}  // namespace

void handle_signals(OnSignal what) {
  make_pipe();
  exit_at_once = what == OnSignal::exit;
  if (exit_at_once && signalled) ::_exit(kExitInterrupted);
  struct ::sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  struct ::sigaction hangup {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (signal == SIGHUP && hangup.sa_handler == SIG_IGN) continue;
    ::sigaction(signal, &action, nullptr);
  }
  ::signal(SIGPIPE, SIG_IGN);
  const ::sigset_t set = handled_signals();
  ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
}

void block_signals() {
  const ::sigset_t set = handled_signals();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

bool was_signalled() noexcept { return signalled; }

void check_signals() {
  if (signalled) throw Interrupted{};
}

bool sleep_or_signal(Duration at_most) {
  const detail::Deadline deadline(at_most);
  while (!signalled && !deadline.passed()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.left()).count();
    struct ::pollfd waiting {
      read_fd, POLLIN, 0
    };
    (void)::poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left, 1'000'000)));
  }
  return signalled;
}

int signal_fd() noexcept { return read_fd; }

}  // namespace tenon::cli
