// The publisher's end of the log: records, the retire line, and the words that readers wait for.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tenon/detail/claim.hpp>
#include <tenon/detail/segment.hpp>
#include <tenon/detail/stage_recorder.hpp>
#include <tenon/detail/wait.hpp>
#include <tenon/inspect.hpp>
#include <vector>

namespace tenon::ipc {

/// How long to wait for subscribers, and what to call at least every 100 ms meanwhile (may be
/// empty; what it throws ends the wait).
struct Patience {
  const detail::Deadline& deadline;
  const std::function<void()>& check;
};

/// How long the bytes of a version took to get in place, as monotonic_ns().
struct Filled {
  format::Stage stage;
  std::uint64_t begin;
  std::uint64_t end;
  std::uint64_t bytes;
};

/// One writer per word: everything here is written by the publisher alone, except the wake words.
///
/// retire and wait:  1 oldest = L   2 full fence   3 read the cursor of ALL places, no cached count
///                   4 wait until each is IDLE, or >= L, or its owner is dead   5 rewrite what L
///                   passed
/// Wrong: reading the cursors before storing `oldest` (line.pml: M_LATE): a reader pins in between,
/// finds nothing retired, and reads what step 5 overwrites.
class LogWriter {
 public:
  /// `claim` holds the publisher's lock on the segment.
  LogWriter(detail::Segment segment, detail::Claim claim)
      : segment_(std::move(segment)),
        claim_(std::move(claim)),
        owned_(claim_.fd(), format::kPublisherByte) {
    const std::string& object = segment_.object().name();
    stages_.open(segment_.stages(format::kPublisherByte), segment_.facts().publisher,
                 object.substr(object.find('.', 6) + 1) + " publisher");
  }

  [[nodiscard]] const detail::Segment& segment() const noexcept { return segment_; }
  [[nodiscard]] std::uint64_t buckets() const noexcept { return segment_.facts().buckets; }
  /// What this publisher last stored. Never read back: subscribers can write to the segment too.
  /// relaxed: a number; who reads by it is a subscriber and loads the header's.
  [[nodiscard]] std::uint64_t current() const noexcept {
    return current_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t oldest() const noexcept {
    return oldest_.load(std::memory_order_relaxed);
  }

  /// Where the publisher's time goes.
  [[nodiscard]] detail::StageRecorder& stages() noexcept { return stages_; }

  /// Moves the line: from here on nothing below it can be newly pinned. `withdraw_current`: nothing
  /// at all.
  void retire(std::uint64_t line, bool withdraw_current) noexcept;
  /// Takes a retirement back: nothing was written, so the earlier version is as good as before.
  void unretire(std::uint64_t oldest, std::uint64_t current) noexcept;
  /// Waits until nobody is behind the line; false at the deadline. `limit`: no cursor may be above
  /// it. Throws Error(ProtocolError) naming a subscriber whose cursor is.
  [[nodiscard]] bool wait_for_readers(std::uint64_t line, std::uint64_t limit,
                                      const Patience& patience);
  /// Waits until `count` live places are attached (`cursor` 0) or stand at `cursor`; false at the
  /// deadline.
  [[nodiscard]] bool wait_for_attached(std::uint32_t count, std::uint64_t cursor,
                                       const Patience& patience);
  /// Who is behind the line, as text: "pid 12 (engine-0) holds version 3 for 2.1 s".
  [[nodiscard]] std::string holders(std::uint64_t line) const;

  void write_record(std::uint64_t n, const detail::Record& record) noexcept;
  /// Checksums of the parameters [first, last) of a bucket in `slot`: sums[first] and so on.
  void write_checksums(std::uint32_t slot, std::size_t first, std::size_t last,
                       const std::uint64_t* sums) noexcept;
  /// The version that starts at `start` is complete: all records written, all bytes in place.
  /// `filled`: for the statistics.
  void complete_version(std::uint64_t start, const Filled& filled) noexcept;
  /// Streaming: every record up to n has its bytes in place.
  void complete_record(std::uint64_t n) noexcept;
  /// Streaming: the version before `next_start` will never be complete.
  void burn(std::uint64_t next_start) noexcept;
  /// Subscribers get Closed from here on; the name goes.
  void close(format::ClosedReason reason) noexcept;
  /// After close(): waits until every place of another process is detached or its owner dead; false
  /// at the deadline.
  [[nodiscard]] bool wait_for_detached(const detail::Deadline& deadline);
  /// Who is still attached, as text.
  [[nodiscard]] std::string attached() const;

  /// What was enqueued up to `ticket` has run. Called by host functions, in order.
  void finish(std::uint64_t ticket) noexcept;
  /// Waits until that is true of `ticket`; false at the deadline.
  [[nodiscard]] bool wait_for_finished(std::uint64_t ticket, const Patience& patience);

 private:
  [[nodiscard]] format::Header& header() const noexcept { return segment_.header(); }
  [[nodiscard]] bool nobody_behind(std::uint64_t line, std::uint64_t limit) const;
  void reclaim_dead() noexcept;
  void attend(const Patience& patience);
  [[nodiscard]] bool is_elsewhere(std::uint32_t place) const;

  detail::Segment segment_;
  detail::Claim claim_;
  detail::Owned owned_;  ///< the publisher's byte
  detail::StageRecorder stages_;
  std::atomic<std::uint64_t> oldest_{
      1};  ///< as create_segment stored it; atomic for version() from any thread
  std::atomic<std::uint64_t> current_{0};
  std::atomic<std::uint64_t> finished_{0};
};

}  // namespace tenon::ipc
