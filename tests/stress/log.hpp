// The log of a run: one line per event, by all processes, each written with one call.
#pragma once

#include <unistd.h>

#include <string>

#include "board.hpp"

namespace tenon::stress {

inline constexpr const char* kProblem = "!!";  ///< such lines are repeated at the end

class Log {
 public:
  Log(int descriptor, const Board& board, std::string who)
      : descriptor_(descriptor), board_(board), who_(std::move(who)) {}

  void operator()(const std::string& event) const {
    const std::uint64_t us = (now_ns() - board_.started_at) / 1000;
    char head[64];
    std::snprintf(head, sizeof(head), "%5llu.%06llu %6d ",
                  static_cast<unsigned long long>(us / 1'000'000),
                  static_cast<unsigned long long>(us % 1'000'000), ::getpid());
    const std::string line = head + who_ + ": " + event + "\n";
    if (::write(descriptor_, line.data(), line.size()) < 0) std::perror("chaos: writing the log");
  }
  /// Of what must never happen.
  void problem(const std::string& event) const { (*this)(std::string(kProblem) + " " + event); }

 private:
  int descriptor_;
  const Board& board_;
  std::string who_;
};

}  // namespace tenon::stress
