// Reading where the time goes: copies of what publishers and subscribers told of themselves.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <optional>
#include <tenon/detail/process.hpp>
#include <tenon/detail/trace_file.hpp>
#include <tenon/detail/wait.hpp>
#include <tenon/format.hpp>
#include <vector>

namespace tenon {

using format::Stage;

/// All there was of one stage.
struct StageSum {
  std::uint64_t count = 0;
  Duration total{};
  Duration longest{};
  Duration last{};
  std::uint64_t bytes = 0;
};

/// One stage of one version.
struct StageEvent {
  Stage stage{};
  std::uint64_t version = 0;
  std::uint64_t start = 0;  ///< CLOCK_MONOTONIC, nanoseconds
  Duration duration{};
  std::uint64_t bytes = 0;
};

/// What one publisher or subscriber told of itself. Untrusted: anybody who may subscribe can have
/// written it. Only for people; no value here makes a reader do more than show it.
struct Stages {
  std::array<StageSum, format::kStages> sums{};
  std::optional<Stage> now{};  ///< what it was in the middle of
  Duration now_for{};
  [[nodiscard]] const StageSum& operator[](Stage stage) const noexcept {
    return sums[static_cast<std::size_t>(stage)];
  }
};

namespace detail {

/// Nanoseconds that somebody else wrote; at most 292 years.
[[nodiscard]] inline Duration told_duration(std::uint64_t ns) noexcept {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  return Duration(static_cast<std::int64_t>(std::min(ns, kMost)));
}

/// Whether all that is in the block is `owner`'s: asked before it is read, and after.
[[nodiscard]] inline bool belongs_to(const format::StageBlock& block,
                                     const format::Process& owner) noexcept {
  // What was read before is not read after this; load_owner() acquires what is read behind it.
  std::atomic_thread_fence(std::memory_order_acquire);
  return same(load_owner(block.owner), owner);
}

/// Nothing when the block is not `owner`'s, or changes hands meanwhile.
[[nodiscard]] inline std::optional<Stages> read_stages(const format::StageBlock& block,
                                                       const format::Process& owner) noexcept {
  if (!belongs_to(block, owner)) return std::nullopt;
  Stages read;
  for (std::size_t i = 0; i < read.sums.size(); ++i) {
    const format::StageSum& sum = block.sums[i];
    read.sums[i] = {sum.count.load(std::memory_order_relaxed),
                    told_duration(sum.nanoseconds.load(std::memory_order_relaxed)),
                    told_duration(sum.longest.load(std::memory_order_relaxed)),
                    told_duration(sum.last.load(std::memory_order_relaxed)),
                    sum.bytes.load(std::memory_order_relaxed)};
  }
  const std::uint32_t now = block.now.load(std::memory_order_acquire);
  if (now != format::kNoStage && now <= format::kStages) {
    read.now = static_cast<Stage>(now - 1);
    const std::uint64_t since = block.since.load(std::memory_order_relaxed);
    const std::uint64_t clock = monotonic_ns();
    read.now_for = told_duration(clock > since ? clock - since : 0);
  }
  if (!belongs_to(block, owner)) return std::nullopt;
  return read;
}

/// Follows what one owner of a block puts into its ring.
class StageReader {
 public:
  explicit StageReader(const format::Process& owner) : owner_(owner) {}
  /// Appends what came since the last call; at most 64 events, whatever the block says, and none
  /// that the next owner of the block wrote.
  void read(const format::StageBlock& block, std::vector<StageEvent>& into) {
    if (!belongs_to(block, owner_)) return;
    const std::size_t had = into.size();
    const std::uint64_t written = block.written.load(std::memory_order_acquire);
    // A process that attaches again can take the same place, and begins at zero.
    const std::uint64_t next = written < next_ ? 0 : next_;
    const std::uint64_t first =
        std::max(next, written > format::kStageRing ? written - format::kStageRing : 0);
    std::uint64_t lost = started_ ? first - next : 0;
    for (std::uint64_t i = first; i < written; ++i) {
      const format::StageEvent& event = block.ring[i % format::kStageRing];
      const std::uint64_t before = event.number.load(std::memory_order_acquire);
      StageEvent copy{static_cast<Stage>(event.stage.load(std::memory_order_relaxed)),
                      event.version.load(std::memory_order_relaxed),
                      event.start.load(std::memory_order_relaxed),
                      told_duration(event.nanoseconds.load(std::memory_order_relaxed)),
                      event.bytes.load(std::memory_order_relaxed)};
      std::atomic_thread_fence(std::memory_order_acquire);  // the fields, then the number again
      const std::uint64_t after = event.number.load(std::memory_order_relaxed);
      const bool whole = before == i + 1 && after == i + 1 &&
                         static_cast<std::size_t>(copy.stage) < format::kStages;
      if (whole)
        into.push_back(copy);
      else
        ++lost;
    }
    if (!belongs_to(block, owner_)) return into.resize(had);
    next_ = written;
    lost_ += lost;
    started_ = true;
  }
  /// Events that were overwritten before they were read, or are torn.
  [[nodiscard]] std::uint64_t lost() const noexcept { return lost_; }

 private:
  format::Process owner_;
  std::uint64_t next_ = 0;
  std::uint64_t lost_ = 0;
  bool started_ = false;
};

}  // namespace detail
}  // namespace tenon
