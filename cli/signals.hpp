// SIGINT, SIGTERM and SIGHUP: ending early, but cleanly.
#pragma once

#include <tenon/detail/wait.hpp>

namespace tenon::cli {

/// What a signal does.
enum class OnSignal {
  exit,      ///< ends the process at once with 130: for commands that leave nothing behind
  remember,  ///< is kept for check_signals() and sleep_or_signal(): for those that clean up first
};

/// Thrown by check_signals(). Not an Error: nothing failed.
struct Interrupted {};

/// Handles SIGINT and SIGTERM also where they were inherited ignored or blocked (a script's `&`),
/// SIGHUP unless it was inherited ignored (nohup). SIGPIPE becomes an error of the write. Call
/// again after a fork and to change what a signal does; one that was remembered stays so.
void handle_signals(OnSignal what);

/// Between block_signals() and handle_signals() signals wait: none meets a half-forked family.
void block_signals();

[[nodiscard]] bool was_signalled() noexcept;
/// Throws Interrupted when a signal was remembered.
void check_signals();
/// Sleeps; returns true at once when a signal comes or has come.
[[nodiscard]] bool sleep_or_signal(Duration at_most);
/// A descriptor that is readable from the first remembered signal on, for poll().
[[nodiscard]] int signal_fd() noexcept;

}  // namespace tenon::cli
