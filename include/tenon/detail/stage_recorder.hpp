// Where the time goes, told by whoever spends it: sums and the last 64 events in this process's own
// block of the segment, one line an event in TENON_TRACE. In a forked child nothing is told: the
// block and the file are its parent's.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <tenon/detail/per_process.hpp>
#include <tenon/detail/process.hpp>
#include <tenon/detail/trace_file.hpp>
#include <tenon/detail/wait.hpp>
#include <tenon/format.hpp>

namespace tenon::detail {

/// The writer of one block. What it counts it keeps itself and never reads back: others can write
/// to the segment too. Killed at any point it leaves an event whose number does not fit, which
/// readers skip.
///
/// Threads:  any, host functions among them: no device call is made.
/// Lifetime: within that of the mapping.
class StageRecorder {
 public:
  StageRecorder() = default;
  StageRecorder(const StageRecorder&) = delete;
  StageRecorder& operator=(const StageRecorder&) = delete;

  /// Starts at zero, as `me`. `block`: null when the publication has no statistics.
  void open(format::StageBlock* block, const format::Process& me, const std::string& who) noexcept {
    pid_ = own_pid();
    block_ = block;
    if (block_ != nullptr) clear(me);
    trace_.open(who, me);
  }

  /// In the middle of `stage` since then, for who looks.
  void enter(format::Stage stage, std::uint64_t since) noexcept {
    if (block_ == nullptr || !is_mine()) return;
    block_->since.store(since, std::memory_order_relaxed);
    block_->now.store(static_cast<std::uint32_t>(stage) + 1, std::memory_order_release);
  }
  void leave() noexcept {
    if (block_ != nullptr && is_mine())
      block_->now.store(format::kNoStage, std::memory_order_relaxed);
  }

  /// One stage of one version; times as monotonic_ns().
  void record(format::Stage stage, std::uint64_t version, std::uint64_t start, std::uint64_t end,
              std::uint64_t bytes = 0) noexcept {
    if (!is_mine()) return;
    const std::uint64_t ns = end > start ? end - start : 0;
    if (block_ != nullptr) {
      const std::lock_guard lock(mutex_);
      add_to_sums(static_cast<std::size_t>(stage), ns, bytes);
      add_to_ring(stage, version, start, ns, bytes);
    }
    trace_.add(stage, version, start, ns, bytes);  // not under the mutex: a disk can hang
  }

  /// Whether every event is also written to a file.
  [[nodiscard]] bool is_traced() const noexcept { return is_mine() && trace_.is_open(); }

 private:
  [[nodiscard]] bool is_mine() const noexcept { return own_pid() == pid_; }

  struct Sum {
    std::uint64_t count = 0;
    std::uint64_t nanoseconds = 0;
    std::uint64_t longest = 0;
    std::uint64_t bytes = 0;
  };

  // No owner, then the rest, then the owner: nobody finds the rest under the wrong one.
  void clear(const format::Process& me) noexcept {
    block_->owner.pid.store(0, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);  // before any of the rest
    block_->written.store(0, std::memory_order_relaxed);
    block_->now.store(format::kNoStage, std::memory_order_relaxed);
    for (format::StageEvent& event : block_->ring) event.number.store(0, std::memory_order_relaxed);
    for (format::StageSum& sum : block_->sums)
      for (format::Word64* word :
           {&sum.count, &sum.nanoseconds, &sum.longest, &sum.last, &sum.bytes})
        word->store(0, std::memory_order_relaxed);
    store_owner(block_->owner, me);  // with release: behind all of the rest
  }
  void add_to_sums(std::size_t stage, std::uint64_t ns, std::uint64_t bytes) noexcept {
    Sum& mine = sums_[stage];
    format::StageSum& shown = block_->sums[stage];
    shown.count.store(++mine.count, std::memory_order_relaxed);
    shown.nanoseconds.store(mine.nanoseconds += ns, std::memory_order_relaxed);
    shown.longest.store(mine.longest = std::max(mine.longest, ns), std::memory_order_relaxed);
    shown.last.store(ns, std::memory_order_relaxed);
    shown.bytes.store(mine.bytes += bytes, std::memory_order_relaxed);
  }
  void add_to_ring(format::Stage stage, std::uint64_t version, std::uint64_t start,
                   std::uint64_t ns, std::uint64_t bytes) noexcept {
    format::StageEvent& event = block_->ring[written_ % format::kStageRing];
    event.number.store(0, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);  // before any of the fields below
    event.version.store(version, std::memory_order_relaxed);
    event.start.store(start, std::memory_order_relaxed);
    event.nanoseconds.store(ns, std::memory_order_relaxed);
    event.bytes.store(bytes, std::memory_order_relaxed);
    event.stage.store(static_cast<std::uint32_t>(stage), std::memory_order_relaxed);
    // release: whoever reads this number reads the fields that belong to it.
    event.number.store(++written_, std::memory_order_release);
    block_->written.store(written_, std::memory_order_release);
  }

  pid_t pid_ = 0;
  format::StageBlock* block_ = nullptr;
  TraceFile trace_;
  std::mutex mutex_;  ///< guards what follows, and the block
  std::array<Sum, format::kStages> sums_{};
  std::uint64_t written_ = 0;
};

/// Measures one stage from its making to done(). Without done() nothing is counted.
class StageTimer {
 public:
  StageTimer(StageRecorder& recorder, format::Stage stage) noexcept
      : recorder_(recorder), stage_(stage) {
    recorder_.enter(stage, start_);
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;
  ~StageTimer() {
    if (!done_) recorder_.leave();
  }
  void done(std::uint64_t version, std::uint64_t bytes = 0) noexcept {
    done_ = true;
    recorder_.leave();
    recorder_.record(stage_, version, start_, monotonic_ns(), bytes);
  }

 private:
  StageRecorder& recorder_;
  format::Stage stage_;
  bool done_ = false;
  std::uint64_t start_ = monotonic_ns();
};

}  // namespace tenon::detail
