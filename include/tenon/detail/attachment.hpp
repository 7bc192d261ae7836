// A subscriber's place in a publication, and the pin: how a reader holds a version.
//
// pin:  1 c = current   2 cursor = c   3 full fence   4 if oldest > c: cursor = IDLE, not now
//       5 only now read the log, open, touch
// The publisher does the mirror image (oldest, full fence, read every cursor), so of a pin and a
// retirement at least one sees the other. Wrong: checking `oldest` before storing the cursor. The
// publisher may retire and scan in between, see IDLE and rewrite what the reader then reads
// (line.pml: M_PINLATE, M_NOSF).
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tenon/detail/claim.hpp>
#include <tenon/detail/crash_point.hpp>
#include <tenon/detail/memory.hpp>
#include <tenon/detail/wait.hpp>
#include <thread>
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

class Attachment {
 public:
  /// A version this place holds, by parity: a publisher never completes v+2 while v is held.
  struct Held {
    std::uint64_t start = 0;  ///< its first record
    std::uint64_t since = 0;  ///< when it was taken, as monotonic_ns()
    std::uint32_t leases = 0;
    std::uint32_t ending = 0;  ///< of them: released, and end by themselves behind a stream
    std::vector<const std::byte*> bucket;   ///< where each bucket's bytes are
    std::vector<std::uint32_t> slot;        ///< the slot that is
    std::vector<std::uint64_t> written_in;  ///< the version whose publish wrote them
  };

  /// Claims a place. Empty when the publication was closed meanwhile or its slots are gone.
  static std::shared_ptr<Attachment> claim(Segment segment, std::string_view label) {
    std::shared_ptr<Attachment> self(new Attachment(std::move(segment)), destroy);
    if (!self->claim_) return nullptr;  // another publication has the name by now
    self->take_place(label);
    // Full fence: either the publisher's close sees this place, or this load sees the close.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (self->is_closed() || !self->open_slots()) return nullptr;
    wake(self->segment_.header().release);  // a publisher may be waiting for subscribers
    crash_point(CrashPoint::attach_woken);
    return self;
  }

  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  /// False in a forked child, where nothing shared may be touched.
  [[nodiscard]] bool is_owner() const noexcept { return ::getpid() == pid_; }
  [[nodiscard]] const Segment& segment() const noexcept { return segment_; }
  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] std::uint32_t place() const noexcept { return *place_; }
  /// The ordinal here of the GPU under which the slots are open; 0 for host memory.
  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] const Held& held(unsigned parity) const noexcept { return held_[parity]; }
  [[nodiscard]] const std::byte* slot(std::uint64_t i) const noexcept { return slots_[i].get(); }
  /// Whether nothing here can be read any more: the CUDA context broke.
  [[nodiscard]] bool is_lost() const noexcept {
    return failure() != nullptr && segment_.facts().memory != MemoryKind::host;
  }
  [[nodiscard]] bool is_closed() const noexcept {
    return segment_.header().state.load(std::memory_order_acquire) !=
           static_cast<std::uint32_t>(format::State::ready);
  }
  [[nodiscard]] std::uint64_t oldest() const noexcept {
    return segment_.header().oldest.load(std::memory_order_acquire);
  }

  /// Throws in a forked child, when this process has lost its descriptors (and with them its
  /// claim), and when its CUDA context broke.
  void check_usable() {
    if (!is_owner()) {
      throw Error(Errc::ForkedChild, "this subscription was made by process " +
                                         std::to_string(pid_) + "; a forked child attaches anew");
    }
    struct ::stat st {};
    if (::fstat(claim_->fd(), &st) != 0 || st.st_ino != inode_) {
      throw Error(Errc::ProtocolError,
                  "this process closed the descriptor that holds its place in '" +
                      segment_.object().name() + "' (daemonised?); attach again");
    }
    check_device();
  }

  /// Notices that host functions of this place will never run: it gates nothing with what they
  /// were to end. Throws unless what it reads is in host memory, which is still good.
  void check_device() {
    if (failure() == nullptr && pending_.load(std::memory_order_acquire) > 0) fail_if_broken();
    if (is_lost())
      throw Error(Errc::Cuda, std::string("the CUDA context of this process is broken (") +
                                  failure() +
                                  "): what it reads is not to be trusted, start it again");
  }

  /// Holds the newest complete version if it is what is asked for; its parity, or nothing for "not
  /// now". Never blocks, never allocates. Throws NotRetained when `want.exactly` is past.
  std::optional<unsigned> acquire(const VersionRequest& want) {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      // Under the mutex: another thread must not take a newer version between this load and the
      // hold.
      const std::lock_guard lock(mutex_);
      const std::uint64_t c = segment_.current();
      if (!satisfies(c, want)) return std::nullopt;
      if (const auto parity = hold(c)) return parity;
      // Being retired. Unless a newer version took its place already, the answer is "not now".
      if (segment_.header().current.load(std::memory_order_acquire) == c) return std::nullopt;
    }
    return std::nullopt;
  }

  /// Ends one lease. The cursor is the lowest record that any live lease still needs.
  void end(unsigned parity, std::uint32_t of_ending = 0) noexcept {
    {
      const std::lock_guard lock(mutex_);
      Held& mine = held_[parity];
      if (mine.ending < of_ending) return;  // fail() ended it
      mine.ending -= of_ending;
      if (--mine.leases > 0) return;
      const Held& other = held_[1 - parity];
      if (other.leases > 0 && other.start < mine.start) return;
      set_cursor_to_lowest();
      crash_point(CrashPoint::release_cursor);
    }
    wake(segment_.header().release);
    crash_point(CrashPoint::release_woken);
  }

  /// Ends one lease when everything enqueued so far on each of the streams has passed. Throws
  /// Error(Capturing) with the lease still held, Error(Cuda) with the lease held unless the context
  /// is broken.
  void end_behind(unsigned parity, const Stream* streams, std::size_t count) {
    const StreamOps& ops = require_stream_ops();
    try {
      for (std::size_t i = 0; i < count; ++i)
        ops.check_not_capturing(streams[i], ops.device_of(streams[i]));
    } catch (...) {
      fail_if_broken();
      throw;
    }
    {
      const std::lock_guard lock(mutex_);
      held_[parity].leases += static_cast<std::uint32_t>(count);  // one to end behind each stream
      held_[parity].ending += static_cast<std::uint32_t>(count);
    }
    for (std::size_t i = 0; i < count; ++i) {
      try {
        behind(streams[i], ops.device_of(streams[i]), end_passed, &endings_[parity]);
      } catch (...) {
        for (; i < count; ++i) end(parity, 1);  // the caller's own is still held
        throw;
      }
    }
    end(parity);
  }

  /// Streaming: the record that is read next, and where to stop gating the publisher (0: nowhere).
  void begin_copies(std::uint64_t record, std::uint64_t leave_at) noexcept {
    copies_.next = record;
    copies_.leave_at = leave_at;
  }
  /// Streaming: moves the cursor to the next record, behind the copies enqueued on `stream`.
  void advance_behind(Stream stream) {
    enqueue_copies_end(stream, [](void* self) {
      auto& a = *static_cast<Attachment*>(self);
      Copies& c = a.copies_;
      ++c.next;
      {
        const std::lock_guard lock(a.mutex_);
        a.set_cursor(c.next == c.leave_at ? format::kIdle : c.next);
      }
      crash_point(CrashPoint::advance_cursor);
      wake(a.segment_.header().release);
      crash_point(CrashPoint::advance_woken);
      a.copies_passed();
    });
  }
  /// Marks the end of the copies enqueued on `stream`.
  void finish_behind(Stream stream) {
    enqueue_copies_end(stream, [](void* self) { static_cast<Attachment*>(self)->copies_passed(); });
  }
  /// Waits until all copies so marked have been made; false at the deadline, and when some could
  /// not be marked.
  [[nodiscard]] bool wait_for_copies(const Deadline& deadline) {
    if (copies_.end_unknown) return false;
    return poll_until_zero(copies_.outstanding, deadline, [this] { check_device(); });
  }

  /// Whether the publisher waits for a version that is held here, and that somebody has yet to
  /// release.
  [[nodiscard]] bool any_wanted() {
    const std::uint64_t line = oldest();
    const std::lock_guard lock(mutex_);
    return (held_[0].leases > held_[0].ending && line > held_[0].start) ||
           (held_[1].leases > held_[1].ending && line > held_[1].start);
  }

  /// `since`: when what the cursor stands at was taken.
  void set_cursor(std::uint64_t record, std::uint64_t since = monotonic_ns()) noexcept {
    format::Place& row = segment_.place(*place_);
    // Before the cursor: nobody who sees that takes the time of an earlier hold for this one's.
    row.pinned_at.store(since, std::memory_order_relaxed);
    // release: everything this process read before is done before the publisher sees the new
    // cursor.
    row.cursor.store(is_lost() ? format::kIdle : record, std::memory_order_release);
  }
  void note_version(std::uint64_t version) noexcept {
    segment_.place(*place_).loaded_version.store(version, std::memory_order_relaxed);
  }

 private:
  [[nodiscard]] const char* failure() const noexcept {
    return failure_.load(std::memory_order_acquire);
  }
  /// Under mutex_.
  void set_cursor_to_lowest() noexcept {
    const Held* lowest = nullptr;
    for (const Held& held : held_)
      if (held.leases > 0 && (lowest == nullptr || held.start < lowest->start)) lowest = &held;
    if (lowest == nullptr) return set_cursor(format::kIdle);
    set_cursor(lowest->start, lowest->since);
  }
  static constexpr int kAttempts = 8;
  static constexpr Duration kDrain = std::chrono::seconds(2);

  /// What a host function gets to end a lease.
  struct Ending {
    Attachment* attachment;
    unsigned parity;
  };
  /// Loading: touched by host functions, one after another in the order of their stream.
  struct Copies {
    std::uint64_t next = 0;
    std::uint64_t leave_at = 0;
    std::atomic<std::uint32_t> outstanding{0};
    bool end_unknown = false;  ///< some were enqueued behind which nothing could be
  };

  // Host functions hold no ownership: the last owner closes handles, which is a CUDA call. So they
  // are waited for here. In a forked child nothing is touched: the claim, the mappings and the
  // descriptors are the parent's.
  static void destroy(Attachment* a) noexcept {
    if (!a->is_owner()) return;
    const Deadline deadline(kDrain);
    const bool drained = a->drain(deadline);
    if (drained && !a->copies_.end_unknown) {
      a->detach();
      delete a;
      return;
    }
    keep_for_ever(std::shared_ptr<const void>(a, [](const void*) {}));
    if (a->failure() != nullptr) {  // they never run; the object stays, should one all the same
      a->detach();
    } else {
      report("'" + a->segment_.object().name() +
             "': a lease was released, or a load given up, behind work that is still running after "
             "2 s; its place stays taken until this process ends");
    }
  }

  /// Waits until every host function has passed. False at the deadline, and when they never run.
  bool drain(const Deadline& deadline) noexcept {
    try {
      return poll_until_zero(pending_, deadline, [this] {
        fail_if_broken();
        if (failure() != nullptr) throw Error(Errc::Cuda, failure());
      });
    } catch (const Error&) {
      return false;
    }
  }

  void detach() noexcept {
    if (!place_) return;
    slots_.clear();  // detached means: handles closed, then the row says so
    crash_point(CrashPoint::detach_slots);
    format::Place& row = segment_.place(*place_);
    row.cursor.store(format::kIdle, std::memory_order_release);
    crash_point(CrashPoint::detach_cursor);
    row.state.store(static_cast<std::uint32_t>(format::PlaceState::free),
                    std::memory_order_release);
    crash_point(CrashPoint::detach_state);
    owned_.reset();
    unlock_byte(claim_->fd(), *place_);
    crash_point(CrashPoint::detach_unlocked);
    wake(segment_.header().release);
  }

  ~Attachment() = default;

  /// Calls function(argument) behind what is enqueued on `stream`; the function ends with
  /// passed().
  void behind(Stream stream, int device, void (*function)(void*), void* argument) {
    pending_.fetch_add(1, std::memory_order_relaxed);
    watch(device);
    try {
      require_stream_ops().after(stream, device, function, argument);
    } catch (...) {
      passed();
      fail_if_broken();
      throw;
    }
  }
  /// The last thing a host function does here: behind it the object may be gone.
  void passed() noexcept { pending_.fetch_sub(1, std::memory_order_release); }
  static void end_passed(void* ending) {
    const Ending& e = *static_cast<Ending*>(ending);
    e.attachment->end(e.parity, 1);
    e.attachment->passed();
  }
  void copies_passed() noexcept {
    copies_.outstanding.fetch_sub(1, std::memory_order_release);
    passed();
  }
  /// Host memory is copied on the spot, so its end is now.
  void enqueue_copies_end(Stream stream, void (*function)(void*)) {
    copies_.outstanding.fetch_add(1, std::memory_order_relaxed);
    if (segment_.facts().memory == MemoryKind::host) {
      pending_.fetch_add(1, std::memory_order_relaxed);
      function(this);
      return;
    }
    try {
      behind(stream, device_, function, this);
      copies_.end_unknown = false;  // it is behind all before it
    } catch (...) {
      copies_.outstanding.fetch_sub(1, std::memory_order_relaxed);
      copies_.end_unknown = true;
      throw;
    }
  }

  void fail_if_broken() {
    const int device = watched_.load(std::memory_order_relaxed);
    if (device < 0) return;
    if (const char* error = require_stream_ops().broken(device)) fail(error);
  }
  /// GPU memory is read on its own device, and by what is enqueued there. Of host memory it is
  /// where leases are released; on several devices none can be taken for all.
  void watch(int device) noexcept {
    if (segment_.facts().memory != MemoryKind::host) return;
    int none = kNoDevice;
    if (!watched_.compare_exchange_strong(none, device) && none != device)
      watched_.store(kSeveralDevices, std::memory_order_relaxed);
  }
  /// After a sticky CUDA error: what was to end leases never runs, so they end here. GPU memory
  /// cannot be read any more either, so there everything ends.
  void fail(const char* error) noexcept {
    {
      const std::lock_guard lock(mutex_);  // behind it nobody stores another cursor
      failure_.store(error, std::memory_order_release);
      for (Held& held : held_) held.leases -= std::exchange(held.ending, 0);
      if (segment_.facts().mode != Mode::streaming || is_lost()) set_cursor_to_lowest();
    }
    if (is_lost())
      segment_.place(*place_).state.store(static_cast<std::uint32_t>(format::PlaceState::failed),
                                          std::memory_order_release);
    wake(segment_.header().release);
  }

  explicit Attachment(Segment segment)
      : segment_(std::move(segment)),
        layout_(segment_.layout()),
        claim_(Claim::on(segment_.object())),
        pid_(::getpid()),
        inode_(segment_.object().status().st_ino) {
    for (Held& h : held_) {
      h.bucket.resize(layout_.bucket_count());
      h.slot.resize(layout_.bucket_count());
      h.written_in.resize(layout_.bucket_count());
    }
  }

  void take_place(std::string_view label) {
    const int fd = claim_->fd();
    for (std::uint32_t i = 0; i < format::kPlaces && !place_; ++i) {
      if (!try_lock_byte(fd, i)) continue;
      if (is_abandoned(fd, i)) {
        place_ = i;
      } else {
        unlock_byte(fd, i);  // its owner lives but lost its lock; its cursor is still honoured
      }
    }
    if (!place_) {
      throw Error(Errc::TooManySubscribers, "all " + std::to_string(format::kPlaces) +
                                                " places of '" + segment_.object().name() +
                                                "' are taken ('tenon inspect' lists them)");
    }
    owned_.emplace(fd, *place_);
    crash_point(CrashPoint::attach_locked);
    free_former_places();
    format::Place& row = segment_.place(*place_);
    const format::Process me = this_process();
    row.owner.pid.store(me.pid, std::memory_order_relaxed);
    row.owner.start_time.store(me.start_time, std::memory_order_relaxed);
    row.owner.pid_namespace.store(me.pid_namespace, std::memory_order_relaxed);
    crash_point(CrashPoint::attach_owner);
    std::memset(row.label, 0, sizeof(row.label));
    std::memcpy(row.label, label.data(), std::min(label.size(), sizeof(row.label) - 1));
    row.loaded_version.store(0, std::memory_order_relaxed);
    crash_point(CrashPoint::attach_label);
    row.cursor.store(format::kIdle, std::memory_order_release);
    crash_point(CrashPoint::attach_cursor);
    row.state.store(static_cast<std::uint32_t>(format::PlaceState::attached),
                    std::memory_order_release);
    crash_point(CrashPoint::attach_state);
  }

  /// Those of the program that this process was before an exec. To others they look like its own.
  void free_former_places() {
    const int fd = claim_->fd();
    for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
      format::Place& row = segment_.place(i);
      const bool mine = owner_of(row).pid == static_cast<std::uint32_t>(::getpid());
      if (i == *place_ || !mine || !try_lock_byte(fd, i)) continue;
      if (is_abandoned(fd, i)) {
        row.cursor.store(format::kIdle, std::memory_order_release);
        row.state.store(static_cast<std::uint32_t>(format::PlaceState::free),
                        std::memory_order_release);
      }
      unlock_byte(fd, i);
    }
  }

  /// For a row whose lock was free: free too, or its owner is no more.
  [[nodiscard]] bool is_abandoned(int fd, std::uint32_t i) const noexcept {
    const format::Place& row = segment_.place(i);
    return row.state.load(std::memory_order_acquire) ==
               static_cast<std::uint32_t>(format::PlaceState::free) ||
           !still_owns(fd, i, owner_of(row));
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
      slots_.push_back(std::move(mapped.memory));
      device_ = mapped.device;
      if (facts.memory != MemoryKind::host) watched_.store(device_, std::memory_order_relaxed);
      crash_point(CrashPoint::attach_slot);
    }
    return true;
  }

  /// A publisher that dies loses its device memory some instants before its lock: a handle that
  /// does not open is looked at again.
  SlotTable::Mapped open_slot(const format::Slot& slot) const {
    try {
      return per_process<SlotTable>().open(segment_.facts(), slot);
    } catch (const Error& e) {
      const Deadline deadline(std::chrono::milliseconds(e.code() == Errc::Cuda ? 200 : 0));
      do {
        if (is_closed() || segment_.publisher_dead()) return {};
        std::this_thread::sleep_for(
            std::min<Duration>(deadline.left(), std::chrono::milliseconds(5)));
      } while (!deadline.passed());
      throw;
    }
  }

  [[nodiscard]] bool satisfies(std::uint64_t c, const VersionRequest& want) const {
    const std::uint64_t buckets = layout_.bucket_count();
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

  /// Under mutex_: one more lease on the version that starts at c.
  std::optional<unsigned> hold(std::uint64_t c) {
    const auto parity = static_cast<unsigned>(format::version_of(c, layout_.bucket_count()) % 2);
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
      if (fresh) set_cursor(format::kIdle);
      throw;
    }
    mine.start = c;
    mine.since = since;
    mine.leases = 1;
    note_version(format::version_of(c, layout_.bucket_count()));
    crash_point(CrashPoint::hold_records);
    return parity;
  }

  bool pin(std::uint64_t c, std::uint64_t since) noexcept {
    // release: this may be the store through which the publisher learns of an earlier lease's end.
    set_cursor(c, since);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    crash_point(CrashPoint::pin_cursor);
    if (oldest() > c || is_lost()) {
      set_cursor(format::kIdle);
      crash_point(CrashPoint::pin_refused);
      wake(segment_.header().release);  // the publisher may have seen the pin and be waiting for it
      return false;
    }
    crash_point(CrashPoint::pin_checked);
    return true;
  }

  void read_records(Held& into, std::uint64_t c) const {
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b) {
      const Record r = segment_.record(c + b);
      into.bucket[b] = slots_[r.slot].get();
      into.slot[b] = r.slot;
      into.written_in[b] = r.written_in;
    }
  }

  Segment segment_;
  Layout layout_;
  std::optional<Claim> claim_;  ///< of the place; empty when the name leads elsewhere
  pid_t pid_;
  ino_t inode_;
  std::optional<std::uint32_t> place_;
  std::optional<Owned> owned_;  ///< the place
  std::vector<SlotPointer> slots_;
  int device_ = 0;
  static constexpr int kNoDevice = -1;
  static constexpr int kSeveralDevices = -2;
  std::atomic<int> watched_{kNoDevice};  ///< the one whose errors end what ends behind streams
  std::mutex mutex_;  ///< guards held_ and the cursor; no device call is made while it is held
  Held held_[2];
  Ending endings_[2]{{this, 0}, {this, 1}};
  Copies copies_;
  std::atomic<std::uint32_t> pending_{0};      ///< host functions that have not passed
  std::atomic<const char*> failure_{nullptr};  ///< the sticky CUDA error; null while all is well
};

}  // namespace detail
}  // namespace tenon
