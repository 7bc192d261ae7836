// A line on the terminal that says how far a long operation has come.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace tenon::cli {

/// Silent unless standard error is a terminal and the operation has taken more than a second.
/// Threads: any may call update().
class Progress {
 public:
  /// `what`: "reading"; `wanted`: false for --quiet.
  Progress(std::string what, bool wanted);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();
  void update(std::uint64_t done, std::uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool enabled_;
  std::mutex mutex_;
  Clock::time_point next_ = Clock::now() + std::chrono::seconds(1);
  bool shown_ = false;
};

}  // namespace tenon::cli
