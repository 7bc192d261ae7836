// Writing to sockets whose other end may be gone, by a library that does not ask for MSG_NOSIGNAL.
#pragma once

#include <signal.h>

namespace tenon::relay {

/// While it lives, SIGPIPE neither ends the process nor runs a handler because of what this thread
/// writes; threads that it starts are born with the signal blocked. The signals of others, and what
/// the program does with them, stay as they were.
class NoSigpipe {
 public:
  NoSigpipe() noexcept {
    ::sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::sigset_t pipe = only_sigpipe();
    ::pthread_sigmask(SIG_BLOCK, &pipe, &before_);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;
  ~NoSigpipe() {
    const ::sigset_t pipe = only_sigpipe();
    const ::timespec now{};
    if (!was_pending_) (void)::sigtimedwait(&pipe, nullptr, &now);  // ours, if there is one
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  static ::sigset_t only_sigpipe() noexcept {
    ::sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGPIPE);
    return set;
  }
  ::sigset_t before_{};
  bool was_pending_ = false;
};

}  // namespace tenon::relay
