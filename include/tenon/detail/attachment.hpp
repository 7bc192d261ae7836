// A subscriber at work: its place, what it holds there, and what of that ends behind CUDA streams.
//
// Host functions are what ends things in stream order. They hold no ownership, as the last owner
// closes handles, which is a CUDA call; so they are counted, and waited for before the place is
// left. After a sticky error they never run: whoever waits asks the device, and ends what they were
// to end. Wrong: leaving when the last lease was released. A release on a stream may still be under
// way, and the kernel before it reading a slot whose handle is closed.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/keep.hpp>
#include <tenon/detail/pins.hpp>
#include <utility>

namespace tenon::detail {

class Attachment {
 public:
  /// Claims a place. Empty when the publication was closed meanwhile or its slots are gone.
  static std::shared_ptr<Attachment> claim(Segment segment, std::string_view label) {
    std::shared_ptr<Attachment> self(new Attachment(std::move(segment)), destroy);
    if (!self->place_.take(label)) return nullptr;
    if (self->in_device_memory()) self->watched_ = self->device();
    return self;
  }

  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  [[nodiscard]] bool is_owner() const noexcept { return place_.is_owner(); }
  [[nodiscard]] const Segment& segment() const noexcept { return place_.segment(); }
  [[nodiscard]] const Layout& layout() const noexcept { return place_.layout(); }
  [[nodiscard]] std::uint32_t place() const noexcept { return place_.number(); }
  [[nodiscard]] StageRecorder& stages() const noexcept { return place_.stages(); }
  [[nodiscard]] int device() const noexcept { return place_.device(); }
  [[nodiscard]] const std::byte* slot(std::uint64_t i) const noexcept { return place_.slot(i); }
  [[nodiscard]] bool is_closed() const noexcept { return place_.is_closed(); }
  [[nodiscard]] const Pins& pins() const noexcept { return pins_; }
  [[nodiscard]] Pins& pins() noexcept { return pins_; }

  /// Throws in a forked child, when this process has lost its claim, and when its CUDA context
  /// broke.
  void check_usable() {
    place_.check_owned();
    check_device();
  }

  /// Notices that host functions of this place will never run: it gates nothing with what they
  /// were to end. Throws unless what it reads is in host memory, which is still good.
  void check_device() {
    if (pins_.failure() == nullptr && pending_.load(std::memory_order_acquire) > 0)
      fail_if_broken();
    if (pins_.is_lost())
      throw Error(Errc::Cuda, std::string("the CUDA context of this process is broken (") +
                                  pins_.failure() +
                                  "): what it reads is not to be trusted, start it again");
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
    pins_.add_ending(parity, static_cast<std::uint32_t>(count));  // one for each stream
    for (std::size_t i = 0; i < count; ++i) {
      try {
        behind(streams[i], ops.device_of(streams[i]), end_passed, &endings_[parity]);
      } catch (...) {
        for (; i < count; ++i) pins_.end(parity, true);  // the caller's own is still held
        throw;
      }
    }
    pins_.end(parity);
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
      a.pins_.move_cursor(c.next == c.leave_at ? format::kIdle : c.next);
      crash_point(CrashPoint::advance_cursor);
      wake(a.segment().header().release);
      crash_point(CrashPoint::advance_woken);
      a.copies_passed();
    });
  }
  /// Marks the end of the copies enqueued on `stream`.
  void finish_behind(Stream stream) {
    enqueue_copies_end(stream, [](void* self) { static_cast<Attachment*>(self)->copies_passed(); });
  }
  /// Waits until all copies so marked have been made; false at the deadline. Throws Error(Cuda) at
  /// once when some could not be marked: nobody will ever know.
  [[nodiscard]] bool wait_for_copies(const Deadline& deadline) {
    if (copies_.end_unknown) {
      throw Error(
          Errc::Cuda,
          "the end of an earlier load could not be marked on its stream, so nothing tells "
          "when its copies are made: what they read stays held until this process ends, and "
          "this subscriber loads nothing more; attach again");
    }
    return poll_until_zero(copies_.outstanding, deadline, [this] { check_device(); });
  }

 private:
  static constexpr Duration kDrain = std::chrono::seconds(2);
  static constexpr int kNoDevice = -1;
  static constexpr int kSeveralDevices = -2;

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

  explicit Attachment(Segment segment) : place_(std::move(segment)), pins_(place_) {}
  ~Attachment() = default;

  // In a forked child nothing is touched: the claim, the mappings and the descriptors are the
  // parent's.
  static void destroy(Attachment* a) noexcept {
    if (!a->is_owner()) return;
    const bool drained = a->drain(Deadline(kDrain));
    if (drained && !a->copies_.end_unknown) {
      a->place_.leave();
      delete a;
      return;
    }
    keep_for_ever(a);                     // should a host function run all the same
    if (a->pins_.failure() != nullptr) {  // they never do
      a->place_.leave();
    } else {
      report(
          {"'", a->segment().object().name(),
           "': a lease was released, or a load given up, behind work that is still running after "
           "2 s; its place stays taken until this process ends"});
    }
  }

  /// Waits until every host function has passed. False at the deadline, and when they never run.
  bool drain(const Deadline& deadline) noexcept {
    struct NeverRun {};
    try {
      return poll_until_zero(pending_, deadline, [this] {
        fail_if_broken();
        if (pins_.failure() != nullptr) throw NeverRun{};
      });
    } catch (...) {  // also for want of memory: then nothing is known of them
      return false;
    }
  }

  [[nodiscard]] bool in_device_memory() const noexcept {
    return segment().facts().memory != MemoryKind::host;
  }

  /// Calls function(argument) behind what is enqueued on `stream`; the function ends with
  /// passed().
  void behind(Stream stream, int device, void (*function)(void*), void* argument) {
    // relaxed, as are all that count up: the thread that waits for 0 is the one that counts.
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
  /// The last thing a host function does here: behind it the object may be gone. release: pairs
  /// with the acquire of poll_until_zero().
  void passed() noexcept { pending_.fetch_sub(1, std::memory_order_release); }
  static void end_passed(void* ending) {
    const Ending& e = *static_cast<Ending*>(ending);
    crash_point(CrashPoint::ending_begun);
    e.attachment->pins_.end(e.parity, true);
    e.attachment->passed();
    crash_point(CrashPoint::ending_passed);
  }
  void copies_passed() noexcept {
    copies_.outstanding.fetch_sub(1, std::memory_order_release);
    passed();
  }
  /// Host memory is copied on the spot, so its end is now.
  void enqueue_copies_end(Stream stream, void (*function)(void*)) {
    copies_.outstanding.fetch_add(1, std::memory_order_relaxed);
    if (!in_device_memory()) {
      pending_.fetch_add(1, std::memory_order_relaxed);
      function(this);
      return;
    }
    try {
      behind(stream, device(), function, this);
      copies_.end_unknown = false;  // it is behind all before it
    } catch (...) {
      copies_.outstanding.fetch_sub(1, std::memory_order_relaxed);
      copies_.end_unknown = true;
      throw;
    }
  }

  /// GPU memory is read on its own device, and by what is enqueued there. Of host memory it is
  /// where leases are released; on several devices none can be taken for all.
  void watch(int device) noexcept {
    if (in_device_memory()) return;
    // relaxed: the ordinal is all there is to it.
    int none = kNoDevice;
    if (!watched_.compare_exchange_strong(none, device) && none != device)
      watched_.store(kSeveralDevices, std::memory_order_relaxed);
  }
  void fail_if_broken() {
    const int device = watched_.load(std::memory_order_relaxed);
    if (device < 0) return;
    if (const char* error = require_stream_ops().broken(device)) fail(error);
  }
  void fail(const char* error) noexcept {
    pins_.fail(error);
    if (pins_.is_lost()) {
      place_.row().state.store(static_cast<std::uint32_t>(format::PlaceState::failed),
                               std::memory_order_release);
      crash_point(CrashPoint::fail_state);
    }
    wake(segment().header().release);
    crash_point(CrashPoint::fail_woken);
  }

  OwnPlace place_;
  Pins pins_;
  Ending endings_[2]{{this, 0}, {this, 1}};
  Copies copies_;
  std::atomic<std::uint32_t> pending_{0};  ///< host functions that have not passed
  std::atomic<int> watched_{kNoDevice};    ///< the one whose errors end what ends behind streams
};

}  // namespace tenon::detail
