// Another process of this program, for what takes two and for what may hang. Nobody waits for it
// beyond a deadline, not even at its end: one that hangs in a driver cannot be killed.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <tenon/detail/wait.hpp>
#include <vector>

#include "evidence.hpp"

namespace tenon::cli::doctor {

class Child {
 public:
  /// Starts this program with `arguments`. Throws SystemError.
  explicit Child(const std::vector<std::string>& arguments);
  /// Kills it, unless it has ended.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// The next line of its standard output; nothing when it ended or the deadline passed. Throws
  /// Interrupted once a signal was remembered (signals.hpp).
  [[nodiscard]] std::optional<std::string> line(const detail::Deadline& deadline);
  /// A line on its standard input. One that is gone is found by the next line().
  void send(const std::string& text) noexcept;
  /// Closes its standard input, and waits for its end until the deadline.
  void finish(const detail::Deadline& deadline);
  [[nodiscard]] bool has_ended();
  /// Returns when it is dead; false when it was not within a second.
  bool kill();
  /// Why line() had nothing: "did not answer", "was ended by signal 11", "ended with exit code 1".
  [[nodiscard]] Trouble ending();

 private:
  bool wait_for_end(const detail::Deadline& deadline);

  pid_t pid_ = -1;
  int to_ = -1;
  int from_ = -1;
  bool ended_ = false;
  int status_ = 0;
  std::string seen_;
};

}  // namespace tenon::cli::doctor
