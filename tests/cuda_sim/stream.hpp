// One stream: a queue of work and the thread that does it, in order and not at once.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "config.hpp"

namespace tenon::sim {

/// What the streams of a process have in common.
struct Pacing {
  std::chrono::microseconds max_delay{};
  std::uint64_t seed = 0;
  std::atomic<bool> hold_host_functions{false};
  std::atomic<bool> ended{false};                       // the process: nothing more runs
  std::array<std::atomic<bool>, kMaxDevices> broken{};  // by ordinal: nothing more runs there
  [[nodiscard]] bool abandoned(int ordinal) const {
    return ended || broken[static_cast<std::size_t>(ordinal)];
  }
  std::atomic<int> workers{0};
};

/// A pseudo-random sequence: xorshift64*.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_((seed * 0x9E3779B97F4A7C15U) | 1U) {}
  std::uint64_t next() {
    state_ ^= state_ >> 12U;
    state_ ^= state_ << 25U;
    state_ ^= state_ >> 27U;
    return (state_ * 0x2545F4914F6CDD1DU) >> 11U;
  }
  /// Less than `end`, or 0.
  std::uint64_t below(std::uint64_t end) { return end == 0 ? 0 : next() % end; }

 private:
  std::uint64_t state_;
};

/// Threads:  safe; work runs on the stream's own thread.
/// Lifetime: the thread keeps the stream alive until it is closed and its queue is empty.
class Stream {
 public:
  struct Options {
    int device = 0;        // ordinal
    bool blocking = true;  // ordered with the legacy default stream
    bool legacy = false;   // is that stream
    std::uint64_t number = 0;
  };
  enum class Kind { device_work, host_function };
  using Work = std::function<void()>;

  [[nodiscard]] static std::shared_ptr<Stream> start(const Options& options, Pacing& pacing);
  Stream(const Options& options, Pacing& pacing);

  [[nodiscard]] const Options& options() const noexcept { return options_; }
  /// Queues work; returns its ticket.
  std::uint64_t submit(Kind kind, Work work);
  /// The ticket of the last work queued.
  [[nodiscard]] std::uint64_t last() const;
  [[nodiscard]] bool idle() const;
  /// Until the work of `ticket` is done, or all was abandoned.
  void wait(std::uint64_t ticket);
  void hold(bool held);
  /// The queue is still worked off.
  void close();
  /// Looks again whether it was abandoned.
  void wake();

  /// Work given while it is not none is dropped. Set by one thread at a time.
  std::atomic<cudaStreamCaptureStatus> capture{cudaStreamCaptureStatusNone};

 private:
  struct Item {
    Kind kind = Kind::device_work;
    Work work;
  };

  [[nodiscard]] bool abandoned() const { return pacing_.abandoned(options_.device); }
  void run();
  void execute(const Item& item, bool was_idle);
  void pause(bool was_idle);

  const Options options_;
  Pacing& pacing_;
  Random random_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  std::uint64_t submitted_ = 0;
  std::uint64_t completed_ = 0;
  bool held_ = false;
  bool closing_ = false;
};

/// Whether this thread is running the work of a stream, and on which ordinal then.
[[nodiscard]] bool is_worker() noexcept;
[[nodiscard]] int worker_device() noexcept;

}  // namespace tenon::sim
