// The pin: how a reader holds a version, and the cursor that says so.
//
// pin:  1 c = current   2 cursor = c   3 full fence   4 if oldest > c: cursor = IDLE, not now
//       5 only now read the log, open, touch
// The publisher does the mirror image (oldest, full fence, read every cursor), so of a pin and a
// retirement at least one sees the other. Wrong: checking `oldest` before storing the cursor. The
// publisher may retire and scan in between, see IDLE and rewrite what the reader then reads
// (line.pml: M_PINLATE, M_NOSF).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <tenon/detail/place.hpp>
#include <utility>
#include <vector>

namespace tenon {

/// Which version a reader asks for. Versions count from 1.
struct VersionRequest {
  std::uint64_t above = 0;    ///< only versions above this one
  std::uint64_t exactly = 0;  ///< only this one; 0: any
};
[[nodiscard]] constexpr VersionRequest newer_than(std::uint64_t version) noexcept {
  return {version, 0};
}
[[nodiscard]] constexpr VersionRequest exactly(std::uint64_t version) noexcept {
  return {0, version};
}
[[nodiscard]] constexpr VersionRequest newest() noexcept { return {}; }

namespace detail {

/// What one place holds. Its cursor is the lowest record that any live lease still needs; when
/// streaming there are no leases, and it is moved by hand.
///
/// Threads:  any; also host functions, which is why no device call is made while the mutex is held.
/// Lifetime: within that of the place, which is taken before the first hold.
class Pins {
 public:
  /// A version this place holds, by parity: a publisher never completes v+2 while v is held.
  struct Held {
    std::uint64_t start = 0;  ///< its first record
    std::uint64_t since = 0;  ///< when it was taken, as monotonic_ns()
    std::uint64_t asked = 0;  ///< when its end behind a stream was last asked for
    std::uint32_t leases = 0;
    std::uint32_t ending = 0;  ///< of them: released, and end by themselves behind a stream
    std::vector<const std::byte*> bucket;   ///< where each bucket's bytes are
    std::vector<std::uint32_t> slot;        ///< the slot that is
    std::vector<std::uint64_t> written_in;  ///< the version whose publish wrote them
  };

  explicit Pins(const OwnPlace& place) : place_(place) {
    for (Held& h : held_) {
      h.bucket.resize(place.layout().bucket_count());
      h.slot.resize(place.layout().bucket_count());
      h.written_in.resize(place.layout().bucket_count());
    }
  }
  Pins(const Pins&) = delete;
  Pins& operator=(const Pins&) = delete;

  [[nodiscard]] const Held& held(unsigned parity) const noexcept { return held_[parity]; }
  [[nodiscard]] std::uint64_t oldest() const noexcept {
    // acquire: pairs with retire(). Whoever pins needs more, the fence in pin().
    return header().oldest.load(std::memory_order_acquire);
  }
  /// The sticky CUDA error after which nothing ends behind a stream; null while all is well.
  [[nodiscard]] const char* failure() const noexcept {
    // acquire: the text behind the pointer, and in fail() the leases that ended with it.
    return failure_.load(std::memory_order_acquire);
  }
  /// Whether nothing here can be read any more: the CUDA context broke.
  [[nodiscard]] bool is_lost() const noexcept {
    return failure() != nullptr && facts().memory != MemoryKind::host;
  }

  /// Holds the newest complete version if it is what is asked for; its parity, or nothing for "not
  /// now". Never blocks, never allocates. Throws NotRetained when `want.exactly` is past.
  std::optional<unsigned> acquire(const VersionRequest& want) {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      // Under the mutex: another thread must not take a newer version between this load and the
      // hold.
      const std::lock_guard lock(mutex_);
      const std::uint64_t c = place_.segment().current();
      if (!satisfies(c, want)) return std::nullopt;
      if (const auto parity = hold(c)) return parity;
      // Being retired. Unless a newer version took its place already, the answer is "not now".
      if (header().current.load(std::memory_order_acquire) == c) return std::nullopt;
    }
    return std::nullopt;
  }

  /// `count` more leases on what is held already, each to end behind a stream.
  void add_ending(unsigned parity, std::uint32_t count) noexcept {
    const std::lock_guard lock(mutex_);
    if (count > 0) held_[parity].asked = monotonic_ns();
    held_[parity].leases += count;
    held_[parity].ending += count;
  }

  /// Ends one lease; `of_ending`: one of those.
  void end(unsigned parity, bool of_ending = false) noexcept {
    const std::uint64_t asked = monotonic_ns();
    Ended ended;
    bool moved = false;
    {
      const std::lock_guard lock(mutex_);
      Held& mine = held_[parity];
      if (of_ending && mine.ending == 0) return;  // fail() ended it
      if (of_ending) --mine.ending;
      if (--mine.leases > 0) return;
      ended = {mine.start, mine.since, of_ending ? mine.asked : asked};
      const Held& other = held_[1 - parity];
      moved = other.leases == 0 || other.start >= mine.start;
      if (moved) {
        set_cursor_to_lowest();
        crash_point(CrashPoint::release_cursor);
      }
    }
    const std::uint64_t now = monotonic_ns();
    if (moved) {
      wake(header().release);
      crash_point(CrashPoint::release_woken);
    }
    const std::uint64_t version = format::version_of(ended.start, facts().buckets);
    place_.stages().record(format::Stage::hold, version, ended.since, now);
    place_.stages().record(format::Stage::release, version, ended.asked, now);
  }

  /// What was to end behind streams never does, so it ends here. GPU memory cannot be read any more
  /// either: there everything ends.
  void fail(const char* error) noexcept {
    const std::lock_guard lock(mutex_);  // behind it nobody stores another cursor
    failure_.store(error, std::memory_order_release);
    for (Held& held : held_) held.leases -= std::exchange(held.ending, 0);
    if (facts().mode != Mode::streaming || is_lost()) set_cursor_to_lowest();
    crash_point(CrashPoint::fail_cursor);
  }

  /// Streaming: the record that is read next, or IDLE, or 0, which gates everything.
  void move_cursor(std::uint64_t record) noexcept {
    const std::lock_guard lock(mutex_);
    set_cursor(record, monotonic_ns());
  }

  /// Whether the publisher waits for a version that is held here, and that somebody has yet to
  /// release.
  [[nodiscard]] bool any_wanted() {
    const std::uint64_t line = oldest();
    const std::lock_guard lock(mutex_);
    return (held_[0].leases > held_[0].ending && line > held_[0].start) ||
           (held_[1].leases > held_[1].ending && line > held_[1].start);
  }

  void note_version(std::uint64_t version) noexcept {
    // relaxed: a number for inspect, which nobody decides by.
    place_.row().loaded_version.store(version, std::memory_order_relaxed);
    crash_point(CrashPoint::version_noted);
  }

 private:
  static constexpr int kAttempts = 8;
  struct Ended {
    std::uint64_t start = 0;
    std::uint64_t since = 0;
    std::uint64_t asked = 0;
  };

  [[nodiscard]] const Facts& facts() const noexcept { return place_.segment().facts(); }
  [[nodiscard]] format::Header& header() const noexcept { return place_.segment().header(); }

  // All that follows is called under the mutex.

  void set_cursor(std::uint64_t record, std::uint64_t since) noexcept {
    format::Place& row = place_.row();
    // Before the cursor: nobody who sees that takes the time of an earlier hold for this one's.
    row.pinned_at.store(since, std::memory_order_relaxed);
    // release: everything this process read before is done before the publisher sees the new
    // cursor.
    row.cursor.store(is_lost() ? format::kIdle : record, std::memory_order_release);
  }
  void set_cursor_to_lowest() noexcept {
    const Held* lowest = nullptr;
    for (const Held& held : held_)
      if (held.leases > 0 && (lowest == nullptr || held.start < lowest->start)) lowest = &held;
    if (lowest == nullptr) return set_idle();
    set_cursor(lowest->start, lowest->since);
  }
  void set_idle() noexcept { set_cursor(format::kIdle, monotonic_ns()); }

  [[nodiscard]] bool satisfies(std::uint64_t c, const VersionRequest& want) const {
    const std::uint64_t buckets = facts().buckets;
    const std::uint64_t version = format::version_of(c, buckets);
    // In place nothing is current while a version is written; the line tells which one that is.
    const std::uint64_t line = format::version_of(oldest(), buckets);
    if (want.exactly != 0 && (version > want.exactly || line > want.exactly + 1)) {
      throw Error(Errc::NotRetained, "version " + std::to_string(want.exactly) +
                                         " is past; the publication is at " +
                                         std::to_string(std::max(version, line - 1)));
    }
    return c != 0 && version > want.above && (want.exactly == 0 || version == want.exactly);
  }

  /// One more lease on the version that starts at c.
  std::optional<unsigned> hold(std::uint64_t c) {
    const std::uint64_t version = format::version_of(c, facts().buckets);
    const auto parity = static_cast<unsigned>(version % 2);
    Held& mine = held_[parity];
    const Held& other = held_[1 - parity];
    if (mine.leases > 0 && mine.start == c) {
      ++mine.leases;
      return parity;
    }
    if (mine.leases > 0 || (other.leases > 0 && other.start > c)) {
      throw Error(Errc::ProtocolError,
                  "the publisher completed record " + std::to_string(c) +
                      " although this process holds a version it must not pass");
    }
    // Under an older pin nothing at or above it is rewritten: no cursor to move, nothing to
    // re-check.
    const bool fresh = other.leases == 0;
    const std::uint64_t since = monotonic_ns();
    if (fresh && !pin(c, since)) return std::nullopt;
    try {
      read_records(mine, c);
    } catch (...) {
      if (fresh) set_idle();
      throw;
    }
    mine.start = c;
    mine.since = since;
    mine.leases = 1;
    note_version(version);
    crash_point(CrashPoint::hold_records);
    return parity;
  }

  bool pin(std::uint64_t c, std::uint64_t since) noexcept {
    // release: this may be the store through which the publisher learns of an earlier lease's end.
    set_cursor(c, since);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    crash_point(CrashPoint::pin_cursor);
    if (oldest() > c || is_lost()) {
      set_idle();
      crash_point(CrashPoint::pin_refused);
      wake(header().release);  // the publisher may have seen the pin and be waiting for it
      return false;
    }
    crash_point(CrashPoint::pin_checked);
    return true;
  }

  void read_records(Held& into, std::uint64_t c) const {
    for (std::size_t b = 0; b < into.slot.size(); ++b) {
      const Record r = place_.segment().record(c + b);
      into.bucket[b] = place_.slot(r.slot);
      into.slot[b] = r.slot;
      into.written_in[b] = r.written_in;
    }
  }

  const OwnPlace& place_;
  std::mutex mutex_;  ///< guards held_ and the cursor
  Held held_[2];
  std::atomic<const char*> failure_{nullptr};
};

}  // namespace detail
}  // namespace tenon
