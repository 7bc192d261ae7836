// A subscriber's place in a publication, from claim to detach: the lock that is the claim, the row
// in shared memory, and the slots that are open here because of it.
//
// claim:   lock, owner, label, cursor = IDLE, state = attached; then fence, look at `closed`, open
// detach:  close what is open, cursor = IDLE, state = free, unlock
// Wrong: opening slots before the place is taken. Who closes the publication sees nobody, and frees
// memory that is being opened (attach.pml).
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/claim.hpp>
#include <tenon/detail/crash_point.hpp>
#include <tenon/detail/memory.hpp>
#include <tenon/detail/per_process.hpp>
#include <tenon/detail/stage_recorder.hpp>
#include <tenon/detail/wait.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace tenon::detail {

inline void log_reclaimed(std::uint32_t place, const format::Process& owner) noexcept {
  log(LogLevel::warn, "place ", place, " is free again: process ", owner.pid,
      ", which had it, died");
}

/// Gives a row back, for the holder of its lock: it gates nobody, then it counts for nobody.
inline void free_row(format::Place& row) noexcept {
  // release, twice: who finds the row free, or idle, finds all that its owner did before.
  row.cursor.store(format::kIdle, std::memory_order_release);
  crash_point(CrashPoint::row_idle);
  row.state.store(static_cast<std::uint32_t>(format::PlaceState::free), std::memory_order_release);
  crash_point(CrashPoint::row_free);
}

/// Whether a row says that nobody has it: it counts for nobody and gates nobody.
[[nodiscard]] inline bool is_unused(const format::Place& row) noexcept {
  // acquire: pairs with free_row() and fill_row(). The cursor only says whether to look closer.
  return row.state.load(std::memory_order_acquire) ==
             static_cast<std::uint32_t>(format::PlaceState::free) &&
         row.cursor.load(std::memory_order_relaxed) == format::kIdle;
}

/// Frees place `i`, which somebody has, when its owner is no more. Taking the lock is the claim: a
/// newcomer that has it already is left alone, and nobody else can take the place while its row is
/// reset.
inline void reclaim_place(int fd, std::uint32_t i, format::Place& row) {
  if (!try_lock_byte(fd, i)) return;
  crash_point(CrashPoint::reclaim_locked);
  const format::Process owner = owner_of(row);
  const bool dead = !is_unused(row) && !still_owns(fd, i, owner);
  if (dead) free_row(row);
  unlock_byte(fd, i);
  crash_point(CrashPoint::reclaim_unlocked);
  if (dead) log_reclaimed(i, owner);
}

/// The place of one subscriber of this process.
///
/// Errors:   ForkedChild, ProtocolError, TooManySubscribers, SystemError; opening slots: those of
///           the memory kind.
/// Threads:  no locking inside: taken and left by one thread, looked at by any in between.
/// Lifetime: leave() is its owner's to call: not in a forked child, and not while anything that
///           runs behind a stream may still touch the row or read a slot.
class OwnPlace {
 public:
  explicit OwnPlace(Segment segment)
      : segment_(std::move(segment)),
        layout_(segment_.layout()),
        claim_(Claim::on(segment_.object())),
        pid_(own_pid()),
        claimed_(segment_.object().status()) {}
  OwnPlace(const OwnPlace&) = delete;
  OwnPlace& operator=(const OwnPlace&) = delete;

  /// Takes a free place, or that of somebody dead, and opens the slots. False when the publication
  /// was closed meanwhile, its slots are gone, or another one has the name by now.
  bool take(std::string_view label) {
    if (!claim_) return false;
    lock_one();
    reclaim_former();
    log(LogLevel::debug, "place ", *number_, " of '", segment_.object().name(), "' claimed");
    fill_row(label);
    // Full fence: either the publisher's close sees this place, or this load sees the close.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (is_closed() || !open_slots()) return false;
    log(LogLevel::info, "attached to '", segment_.object().name(), "', place ", *number_,
        ", published by process ", segment_.facts().publisher.pid);
    wake(segment_.header().release);  // a publisher may be waiting for subscribers
    crash_point(CrashPoint::attach_woken);
    return true;
  }

  /// Detached means: handles closed, then the row says so.
  void leave() noexcept {
    if (!number_) return;
    log(LogLevel::info, "detached from '", segment_.object().name(), "', place ", *number_);
    slots_.clear();
    crash_point(CrashPoint::detach_slots);
    free_row(row());
    owned_.reset();
    unlock_byte(claim_->fd(), *number_);
    crash_point(CrashPoint::detach_unlocked);
    wake(segment_.header().release);
    crash_point(CrashPoint::detach_woken);
  }

  /// False in a forked child, where nothing shared may be touched.
  [[nodiscard]] bool is_owner() const noexcept { return own_pid() == pid_; }
  /// Throws in a forked child, and when this process has lost its descriptors (and with them its
  /// claim): their number may be that of another file by now.
  void check_owned() const {
    if (!is_owner()) {
      throw Error(Errc::ForkedChild, "this subscription was made by process " +
                                         std::to_string(pid_) + "; a forked child attaches anew");
    }
    struct ::stat st {};
    if (::fstat(claim_->fd(), &st) != 0 || st.st_dev != claimed_.st_dev ||
        st.st_ino != claimed_.st_ino) {
      throw Error(Errc::ProtocolError,
                  "this process closed the descriptor that holds its place in '" +
                      segment_.object().name() + "' (daemonised?); attach again");
    }
  }

  [[nodiscard]] const Segment& segment() const noexcept { return segment_; }
  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] std::uint32_t number() const noexcept { return *number_; }
  /// Where its time goes, in its own block.
  [[nodiscard]] StageRecorder& stages() const noexcept { return stages_; }
  [[nodiscard]] format::Place& row() const noexcept { return segment_.place(*number_); }
  [[nodiscard]] const std::byte* slot(std::uint64_t i) const noexcept { return slots_[i].get(); }
  /// The ordinal here of the GPU under which the slots are open; 0 for host memory.
  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] bool is_closed() const noexcept {
    // acquire: behind `closed` lies why. What take() needs besides is its own fence.
    return segment_.header().state.load(std::memory_order_acquire) !=
           static_cast<std::uint32_t>(format::State::ready);
  }

 private:
  void lock_one() {
    const int fd = claim_->fd();
    for (std::uint32_t i = 0; i < format::kPlaces && !number_; ++i) {
      if (!try_lock_byte(fd, i)) continue;
      if (is_abandoned(fd, i)) {
        number_ = i;
        if (const format::Place& row = segment_.place(i); !is_unused(row))
          log_reclaimed(i, owner_of(row));
      } else {
        unlock_byte(fd, i);  // its owner lives but lost its lock; its cursor is still honoured
      }
    }
    if (!number_) {
      throw Error(Errc::TooManySubscribers, "all " + std::to_string(format::kPlaces) +
                                                " places of '" + segment_.object().name() +
                                                "' are taken ('tenon inspect' lists them)");
    }
    owned_.emplace(fd, *number_);
    crash_point(CrashPoint::attach_locked);
  }

  /// For a row whose lock was free: free too, whatever its cursor, or its owner is no more.
  [[nodiscard]] bool is_abandoned(int fd, std::uint32_t i) const noexcept {
    const format::Place& row = segment_.place(i);
    // acquire: pairs with free_row(); the lock that is held here orders the rest.
    return row.state.load(std::memory_order_acquire) ==
               static_cast<std::uint32_t>(format::PlaceState::free) ||
           !still_owns(fd, i, owner_of(row));
  }

  /// Of the program that this process was before an exec. To others they look like its own.
  void reclaim_former() {
    for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
      format::Place& row = segment_.place(i);
      const bool mine = owner_of(row).pid == static_cast<std::uint32_t>(own_pid());
      if (mine && i != *number_) reclaim_place(claim_->fd(), i, row);
    }
  }

  void fill_row(std::string_view label) {
    format::Place& mine = row();
    const format::Process me = this_process();
    store_owner(mine.owner, me);  // others look at `attached` first, stored last with release
    crash_point(CrashPoint::attach_owner);
    std::memset(mine.label, 0, sizeof(mine.label));
    std::memcpy(mine.label, label.data(), std::min(label.size(), sizeof(mine.label) - 1));
    mine.loaded_version.store(0, std::memory_order_relaxed);
    const std::string& object = segment_.object().name();
    stages_.open(segment_.stages(*number_), me,
                 object.substr(object.find('.', 6) + 1) + " " +
                     (label.empty() ? "subscriber" : std::string(label)));
    crash_point(CrashPoint::attach_label);
    mine.cursor.store(format::kIdle, std::memory_order_release);
    crash_point(CrashPoint::attach_cursor);
    mine.state.store(static_cast<std::uint32_t>(format::PlaceState::attached),
                     std::memory_order_release);
    crash_point(CrashPoint::attach_state);
  }

  bool open_slots() {
    const Facts& facts = segment_.facts();
    std::uint64_t largest = 0;
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b)
      largest = std::max(largest, layout_.bucket_bytes(b));
    for (std::uint64_t i = 0; i < facts.slots; ++i) {
      const bool streaming = facts.mode == Mode::streaming;
      const format::Slot slot =
          segment_.slot(i, streaming ? largest : layout_.bucket_bytes(i % facts.buckets));
      SlotTable::Mapped mapped = open_slot(slot);
      if (!mapped.memory) return false;
      log(LogLevel::debug, "slot ", i, " of '", segment_.object().name(), "' opened: ", slot.bytes,
          " bytes");
      slots_.push_back(std::move(mapped.memory));
      device_ = mapped.device;
      crash_point(CrashPoint::attach_slot);
    }
    return true;
  }

  /// A publisher that dies loses its device memory before its lock and its pid: a driver was seen
  /// to take up to 300 ms to clean up behind it. A handle that does not open is looked at again.
  SlotTable::Mapped open_slot(const format::Slot& slot) const {
    try {
      return per_process<SlotTable>().open(segment_.facts(), slot);
    } catch (const Error& e) {
      const Deadline deadline(std::chrono::milliseconds(e.code() == Errc::Cuda ? 1000 : 0));
      do {
        if (is_closed() || segment_.publisher_dead()) return {};
        std::this_thread::sleep_for(
            std::min<Duration>(deadline.left(), std::chrono::milliseconds(5)));
      } while (!deadline.passed());
      throw;
    }
  }

  Segment segment_;
  Layout layout_;
  std::optional<Claim> claim_;  ///< of the place; empty when the name leads elsewhere
  pid_t pid_;
  struct ::stat claimed_;  ///< of the object whose byte is locked
  std::optional<std::uint32_t> number_;
  std::optional<Owned> owned_;  ///< the place
  mutable StageRecorder stages_;
  std::vector<SlotPointer> slots_;
  int device_ = 0;
};

}  // namespace tenon::detail
