#include "log_writer.hpp"

#include <atomic>
#include <cstdio>
#include <tenon/detail/crash_point.hpp>
#include <tenon/detail/place.hpp>
#include <utility>

#include "reclaim.hpp"

namespace tenon::ipc {

using detail::crash_point;
using detail::CrashPoint;
using detail::wake;

void LogWriter::retire(std::uint64_t line, bool withdraw_current) noexcept {
  oldest_.store(line, std::memory_order_relaxed);
  header().oldest.store(line, std::memory_order_release);
  // Full fence, the publisher's half: `oldest` is visible before any cursor below is read (model
  // M_NOPF).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  crash_point(CrashPoint::retire_oldest);
  if (withdraw_current) {
    current_.store(0, std::memory_order_relaxed);
    header().current.store(0, std::memory_order_release);
    crash_point(CrashPoint::retire_current);
  }
  wake(header().wake);  // holders learn that their lease is wanted
  crash_point(CrashPoint::retire_woken);
}

void LogWriter::unretire(std::uint64_t oldest, std::uint64_t current) noexcept {
  oldest_.store(oldest, std::memory_order_relaxed);
  current_.store(current, std::memory_order_relaxed);
  header().oldest.store(oldest, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  crash_point(CrashPoint::unretire_oldest);
  header().current.store(current, std::memory_order_release);
  crash_point(CrashPoint::unretire_current);
  wake(header().wake);
  crash_point(CrashPoint::unretire_woken);
}

bool LogWriter::nobody_behind(std::uint64_t line, std::uint64_t limit) const {
  for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
    // acquire: what a reader did before it moved its cursor is over before the slot is rewritten.
    const std::uint64_t cursor = segment_.place(i).cursor.load(std::memory_order_acquire);
    if (cursor == format::kIdle) continue;
    if (cursor > limit) {
      // A dead process's nonsense is not held against anybody: the row is reclaimed while we wait.
      if (detail::is_dead(segment_.object().fd(), i, detail::owner_of(segment_.place(i))))
        return false;
      const format::Place& row = segment_.place(i);
      throw Error(Errc::ProtocolError, "place " + std::to_string(i) + " (pid " +
                                           std::to_string(detail::owner_of(row).pid) + ", '" +
                                           detail::clean_text(row.label) + "') has cursor " +
                                           std::to_string(cursor) + ", beyond " +
                                           std::to_string(limit) + "; stop that process");
    }
    if (cursor < line) return false;
  }
  return true;
}

// Frees the places of dead subscribers.
void LogWriter::reclaim_dead() noexcept {
  const int fd = claim_.fd();
  for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
    format::Place& row = segment_.place(i);
    if (detail::is_unused(row) || !detail::is_dead(fd, i, detail::owner_of(row))) continue;
    try {
      detail::reclaim_place(fd, i, row);
    } catch (const std::exception& e) {
      detail::report({e.what()});
    }
  }
}

bool LogWriter::wait_for_readers(std::uint64_t line, std::uint64_t limit,
                                 const Patience& patience) {
  const auto clear = [&] { return nobody_behind(line, limit); };
  if (detail::wait_until(header().release, patience.deadline,
                         detail::effective_spin(detail::kDefaultSpin), clear,
                         [&] { attend(patience); }))
    return true;
  reclaim_dead();  // a deadline may be shorter than a slice; it names the living
  return clear();
}

// What a waiting publisher does at least every 100 ms.
void LogWriter::attend(const Patience& patience) {
  reclaim_dead();
  if (patience.check) patience.check();
}

bool LogWriter::wait_for_attached(std::uint32_t count, std::uint64_t cursor,
                                  const Patience& patience) {
  const auto enough = [&] {
    std::uint32_t found = 0;
    for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
      const format::Place& row = segment_.place(i);
      // acquire: a subscriber that is counted has done all of its attaching, or joining.
      const bool attached = row.state.load(std::memory_order_acquire) ==
                            static_cast<std::uint32_t>(format::PlaceState::attached);
      found += attached && (cursor == 0 || row.cursor.load(std::memory_order_acquire) == cursor)
                   ? 1U
                   : 0U;
    }
    return found >= count;
  };
  if (count == 0) return true;
  reclaim_dead();
  return detail::wait_until(header().release, patience.deadline, Duration::zero(), enough,
                            [&] { attend(patience); });
}

std::string LogWriter::holders(std::uint64_t line) const {
  const bool streaming = segment_.facts().mode == Mode::streaming;
  std::string text;
  for (const SubscriberInfo& s : detail::read_places(segment_)) {
    // relaxed: text for people.
    const std::uint64_t cursor = segment_.place(s.place).cursor.load(std::memory_order_relaxed);
    if (cursor == format::kIdle || cursor >= line) continue;
    char held_for[32];
    std::snprintf(held_for, sizeof(held_for), " for %.1f s",
                  std::chrono::duration<double>(s.held_for).count());
    text += (text.empty() ? "place " : ", place ") + std::to_string(s.place) + ", pid " +
            std::to_string(s.pid) + " (" + s.label + ") holds version " +
            std::to_string(format::version_of(cursor, buckets()));
    if (streaming && cursor > 0)
      text += " from bucket " + std::to_string((cursor - 1) % buckets()) + " on";
    text += held_for;
    // Any subscriber can write another's row. Whoever acts on the pid should know.
    if (!detail::is_locked_by_other(segment_.object().fd(), s.place))
      text += " but not the lock of its place: it lost it, or another process wrote this pid";
  }
  return text;
}

void LogWriter::write_record(std::uint64_t n, const detail::Record& record) noexcept {
  format::Entry& entry = segment_.entry(n);
  entry.number.store(0, std::memory_order_relaxed);
  std::atomic_thread_fence(
      std::memory_order_release);  // the fields below are not seen under the old number
  crash_point(CrashPoint::publish_record_opened);
  entry.version.store(record.version, std::memory_order_relaxed);
  entry.bucket.store(record.bucket, std::memory_order_relaxed);
  entry.slot.store(record.slot, std::memory_order_relaxed);
  entry.written_in.store(record.written_in, std::memory_order_relaxed);
  entry.number.store(n, std::memory_order_release);
  crash_point(CrashPoint::publish_record);
}

void LogWriter::write_checksums(std::uint32_t slot, std::size_t first, std::size_t last,
                                const std::uint64_t* sums) noexcept {
  const std::uint64_t sets = segment_.facts().slots / buckets();
  const std::uint64_t parameters = segment_.facts().checksum_bytes / sizeof(*sums) / sets;
  for (std::size_t i = first; i < last; ++i)
    segment_.checksum(format::checksum_index(slot, buckets(), parameters, i))
        .store(sums[i], std::memory_order_relaxed);  // released with `current`
  crash_point(CrashPoint::publish_checksums);
}

void LogWriter::complete_version(std::uint64_t start, const Filled& filled) noexcept {
  const std::uint64_t published_at = detail::monotonic_ns();
  header().published_at.store(published_at, std::memory_order_relaxed);
  // release: the records and every byte of the version are visible to whoever reads this start.
  current_.store(start, std::memory_order_relaxed);
  header().current.store(start, std::memory_order_release);
  crash_point(CrashPoint::complete_current);
  wake(header().wake);
  crash_point(CrashPoint::complete_woken);
  const std::uint64_t woken = detail::monotonic_ns();
  const std::uint64_t version = format::version_of(start, buckets());
  stages_.leave();
  stages_.record(filled.stage, version, filled.begin, filled.end, filled.bytes);
  stages_.record(format::Stage::publish, version, filled.end, published_at);
  stages_.record(format::Stage::wake, version, published_at, woken);
}

void LogWriter::complete_record(std::uint64_t n) noexcept {
  // release: the record and the bucket's bytes are visible to whoever reads this number.
  header().completed.store(n, std::memory_order_release);
  crash_point(CrashPoint::complete_record);
  wake(header().wake);
  crash_point(CrashPoint::complete_woken);
}

void LogWriter::burn(std::uint64_t next_start) noexcept {
  oldest_.store(next_start, std::memory_order_relaxed);
  header().oldest.store(next_start, std::memory_order_release);
  crash_point(CrashPoint::abort_line);
  // Full fence, as in retire(): the line of the next record is this one, so nothing is retired
  // before the cursors are read (stream.pml: M_BURN).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  wake(header().wake);
  crash_point(CrashPoint::abort_woken);
}

void LogWriter::finish(std::uint64_t ticket) noexcept {
  // release: whoever sees the ticket sees what was stored before it.
  finished_.store(ticket, std::memory_order_release);
  wake(header().wake);
}

bool LogWriter::wait_for_finished(std::uint64_t ticket, const Patience& patience) {
  const auto finished = [&] { return finished_.load(std::memory_order_acquire) >= ticket; };
  return finished() || detail::wait_until(header().wake, patience.deadline,
                                          detail::effective_spin(detail::kDefaultSpin), finished,
                                          [&] { attend(patience); });
}

// A subscriber of this very process shares the publisher's pointer, and with it the ownership.
bool LogWriter::is_elsewhere(std::uint32_t place) const {
  const format::Place& row = segment_.place(place);
  const format::Process owner = detail::owner_of(row);
  const format::Process me = detail::this_process();
  return row.state.load(std::memory_order_acquire) !=
             static_cast<std::uint32_t>(format::PlaceState::free) &&
         (owner.pid != me.pid || owner.start_time != me.start_time ||
          owner.pid_namespace != me.pid_namespace);
}

bool LogWriter::wait_for_detached(const detail::Deadline& deadline) {
  const auto detached = [&] {
    for (std::uint32_t i = 0; i < format::kPlaces; ++i)
      if (is_elsewhere(i)) return false;
    return true;
  };
  reclaim_dead();
  return detail::wait_until(header().release, deadline, Duration::zero(), detached,
                            [&] { reclaim_dead(); });
}

std::string LogWriter::attached() const {
  std::string text;
  for (const SubscriberInfo& s : detail::read_places(segment_)) {
    if (!is_elsewhere(s.place)) continue;
    text += (text.empty() ? "pid " : ", pid ") + std::to_string(s.pid) + " (" + s.label + ")";
  }
  return text;
}

void LogWriter::close(format::ClosedReason reason) noexcept {
  header().closed_reason.store(static_cast<std::uint32_t>(reason), std::memory_order_relaxed);
  crash_point(CrashPoint::close_reason);
  header().state.store(static_cast<std::uint32_t>(format::State::closed),
                       std::memory_order_release);
  // Full fence: either a claimer's row is seen from here on, or it sees `closed` (protocol section
  // 7).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  crash_point(CrashPoint::close_state);
  wake(header().wake);
  crash_point(CrashPoint::close_woken);
  unlink_if_named(segment_.object());
  crash_point(CrashPoint::close_name);
}

}  // namespace tenon::ipc
