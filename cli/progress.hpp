// A line on the terminal that says what takes long, and how far it has come.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace tenon::cli {

/// Silent unless standard error is a terminal and the operation has taken more than a second. The
/// line is wiped when all is done.
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

/// The same for what cannot say how far it is: "waiting for 'policy' (3 s)", each second.
/// It has a thread, but where it is silent.
class Waiting {
 public:
  Waiting(std::string what, bool wanted);
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting() { end(); }
  /// Wipes the line, for good. Threads: any.
  void end();
  /// complain(), above the line. Threads: any.
  void complain_above(std::string_view text);

 private:
  void show();

  std::string what_;
  std::mutex mutex_;
  std::condition_variable over_;
  bool is_over_ = false;
  bool shown_ = false;
  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace tenon::cli
