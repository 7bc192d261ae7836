// Reading a publication: the one header an inference engine includes.
//
//   auto sub = tenon::Subscriber::attach("policy", {.deadline = 10s, .label = "engine-0"});
//   auto lease = sub.wait(tenon::newer_than(step), 30s);
//   tenon::View w = lease["model.norm.weight"];          // dtype, shape, data(): no copy
//   ...
//   lease.release();                                     // the trainer may write the next version
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/keep.hpp>
#include <tenon/lease.hpp>
#include <tenon/load_plan.hpp>
#include <thread>
#include <utility>

namespace tenon {

struct AttachOptions {
  Duration deadline =
      std::chrono::seconds(10);  ///< how long to wait for a live publication of that name
  std::string label{};           ///< shown to the publisher and by `tenon inspect`; up to 63 bytes
  Duration spin = detail::kDefaultSpin;  ///< busy waiting before sleeping; 0 to sleep at once
  std::optional<Uid> owner{};  ///< whose publication; default: this process's effective user
};

/// What a streaming subscriber does behind the version it loads.
enum class AfterLoad {
  stay,   ///< remains joined: misses nothing, and gates the publisher
  leave,  ///< as pause(), with no instant in between at which the publisher counts on it
};

/// One place in a publication.
///
/// Units:    versions count from 1; record numbers never show.
/// Errors:   attach: InvalidName, NotFound, NotYours, WrongVersion, BadFormat, PublisherGone,
/// Closed,
///           DeadlinePassed, TooManySubscribers, NoMemoryKind. wait and load: PublisherGone,
///           Closed, DeadlinePassed, ReleaseWanted, NotRetained, StreamingOnly. All: ForkedChild.
/// Threads:  wait, try_acquire and the leases may be used from several threads; load from one at a
/// time. Lifetime: move-only handle; leases keep the place and the mappings alive after it is gone.
class Subscriber {
 public:
  /// Waits until `name` can be attached to, then takes a place.
  [[nodiscard]] static Subscriber attach(std::string_view name, const AttachOptions& options = {});
  /// What stands under `name` now. Takes no place, never waits.
  [[nodiscard]] static Attach probe(std::string_view name, std::optional<Uid> owner = {}) {
    return detail::find_publication(name, owner.value_or(::geteuid()),
                                    detail::SharedObject::Access::read_only)
        .state;
  }

  Subscriber(Subscriber&&) noexcept = default;
  Subscriber& operator=(Subscriber&&) noexcept = default;

  [[nodiscard]] const Layout& layout() const noexcept { return attachment_->layout(); }
  [[nodiscard]] Mode mode() const noexcept { return facts().mode; }
  [[nodiscard]] MemoryKind memory() const noexcept { return facts().memory; }
  /// GPU memory: the ordinal here of the device under which the slots are open. Host memory: 0.
  [[nodiscard]] int device() const noexcept { return attachment_->device(); }
  /// Random, of this one publication: its successor under the same name has another.
  [[nodiscard]] const std::array<std::uint8_t, 16>& instance() const noexcept {
    return facts().instance;
  }
  /// This subscriber's row, 0 to 63, as `tenon inspect` shows it.
  [[nodiscard]] std::uint32_t place() const noexcept { return attachment_->place(); }
  /// Where the time of this place goes; a relay adds what it sends.
  [[nodiscard]] detail::StageRecorder& stages() const noexcept { return attachment_->stages(); }
  /// Newest complete version now; 0 when there is none.
  [[nodiscard]] std::uint64_t current_version() const noexcept {
    return format::version_of(header().current.load(std::memory_order_acquire), facts().buckets);
  }

  /// The newest complete version that `request` allows; waits for one at most `timeout`.
  [[nodiscard]] Lease wait(const VersionRequest& request, Duration timeout);
  /// The same without waiting: nothing when there is none right now.
  [[nodiscard]] std::optional<Lease> try_acquire(const VersionRequest& request = {});

  /// Waits for the next version above plan.version() and copies it to the plan's destinations;
  /// returns it once every copy has been made. Works in every mode, and is the only way when
  /// streaming: there the place stays joined between loads and stalls the publisher unless it loads
  /// again soon (or pauses). On an error plan.state() tells whether the destination is still whole;
  /// when copies are under way then, it comes up to 2 s later, behind them. When not even their end
  /// could be enqueued, what they read stays held until the process ends, and every later load() of
  /// this subscriber throws Error(Cuda) at once: attach again.
  /// GPU memory is copied in the order of `stream` (default: one of Tenon's own, which waits for no
  /// other), which is one of the device that was current when this process first attached.
  std::uint64_t load(LoadPlan& plan, Stream stream, Duration timeout,
                     AfterLoad after = AfterLoad::stay);
  std::uint64_t load(LoadPlan& plan, Duration timeout, AfterLoad after = AfterLoad::stay) {
    return load(plan, detail::ops_for(memory()).own_stream(attachment_->device()), timeout, after);
  }
  /// Streaming: stop gating the publisher until the next load(), which joins anew.
  void pause();
  /// Streaming: joins now, so that every version from the next on is seen (load() does it by
  /// itself). Returns the version that load() delivers next, unless it is aborted; 0 in other
  /// modes.
  std::uint64_t join();

 private:
  Subscriber(std::shared_ptr<detail::Attachment> attachment, Duration spin) noexcept
      : attachment_(std::move(attachment)), spin_(spin) {}

  [[nodiscard]] const detail::Facts& facts() const noexcept {
    return attachment_->segment().facts();
  }
  [[nodiscard]] format::Header& header() const noexcept { return attachment_->segment().header(); }
  void check_not_streaming() const;
  void check_publisher() const;
  void check_peers() const {
    check_publisher();
    attachment_->check_device();
  }
  std::uint64_t load_kept(LoadPlan& plan, Stream stream, const detail::Deadline& deadline);
  std::uint64_t load_streaming(LoadPlan& plan, Stream stream, const detail::Deadline& deadline,
                               AfterLoad after);
  bool load_streamed_version(LoadPlan& plan, Stream stream, const detail::Deadline& deadline,
                             AfterLoad after);
  void wait_for_copies(const detail::Deadline& deadline);
  bool interrupt(LoadPlan& plan, Stream stream) noexcept;
  void release_behind_copies(Lease lease, Stream stream) noexcept;
  void move_to(std::uint64_t record) noexcept;
  void leave() noexcept;

  std::shared_ptr<detail::Attachment> attachment_;
  Duration spin_;
  std::uint64_t next_ =
      0;  ///< streaming: the record to read next, which the cursor holds; 0: not joined
  bool overdue_ = false;  ///< streaming: a load was given up with copies still under way
};

inline Subscriber Subscriber::attach(std::string_view name, const AttachOptions& options) {
  check_label(options.label);
  const detail::Deadline deadline(options.deadline);
  const Uid owner = options.owner.value_or(::geteuid());
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    detail::Found found =
        detail::find_publication(name, owner, detail::SharedObject::Access::read_write);
    if (found.state == Attach::ready) {
      if (auto attachment = detail::Attachment::claim(std::move(*found.segment), options.label)) {
        return {std::move(attachment), detail::effective_spin(options.spin)};
      }
      found.state = Attach::stale;
      found.why += ", which closed it or died in this very moment";
    }
    const std::string what = "attaching to '" + std::string(name) + "': " + found.why;
    if (found.state == Attach::wrong_version) throw Error(Errc::WrongVersion, what);
    if (found.state == Attach::not_yours) throw Error(Errc::NotYours, what);
    if (deadline.passed()) {
      if (found.state == Attach::absent)
        throw Error(Errc::NotFound, what + " ('tenon ls' lists what is published)");
      if (found.state == Attach::starting)
        throw Error(Errc::DeadlinePassed, what + " and did not become ready in time");
      throw Error(Errc::PublisherGone,
                  what + "; start the publisher again, or remove it with 'tenon gc'");
    }
    std::this_thread::sleep_for(std::min<Duration>(pause, deadline.left()));
    pause = std::min(pause * 2, std::chrono::milliseconds(20));
  }
}

inline void Subscriber::check_not_streaming() const {
  if (mode() != Mode::streaming) return;
  throw Error(Errc::StreamingOnly, "'" + attachment_->segment().object().name() +
                                       "' streams: whole versions are not kept, use load()");
}

inline void Subscriber::check_publisher() const {
  const std::string publisher = "process " + std::to_string(facts().publisher.pid) +
                                ", publisher of '" + attachment_->segment().object().name() + "',";
  if (attachment_->is_closed()) {
    // relaxed: stored before `closed`, which is_closed() has loaded with acquire.
    const bool device_error = header().closed_reason.load(std::memory_order_relaxed) ==
                              static_cast<std::uint32_t>(format::ClosedReason::device_error);
    throw Error(Errc::Closed, publisher + " closed the publication" +
                                  (device_error ? " after an error of its GPU" : "") +
                                  "; attach again for a successor");
  }
  if (attachment_->segment().publisher_dead())
    throw Error(Errc::PublisherGone, publisher + " died; attach again for a successor");
}

inline std::optional<Lease> Subscriber::try_acquire(const VersionRequest& request) {
  check_not_streaming();
  attachment_->check_usable();
  const auto parity = attachment_->pins().acquire(request);
  if (!parity) return std::nullopt;
  return Lease(attachment_, *parity);
}

inline Lease Subscriber::wait(const VersionRequest& request, Duration timeout) {
  check_not_streaming();
  attachment_->check_usable();
  const detail::Deadline deadline(timeout);
  detail::StageTimer timer(stages(), format::Stage::wait_for_ready);
  std::optional<unsigned> parity;
  bool wanted = false;
  const auto ready = [&] {
    parity = attachment_->pins().acquire(request);
    // A publisher that waits for this process's own lease will never complete what is waited for
    // here.
    wanted = !parity && attachment_->pins().any_wanted();
    return parity || wanted || attachment_->is_closed();
  };
  const bool in_time =
      detail::wait_until(header().wake, deadline, spin_, ready, [this] { check_peers(); });
  if (parity) {
    Lease lease(attachment_, *parity);
    timer.done(lease.version());
    return lease;
  }
  if (wanted) {
    throw Error(Errc::ReleaseWanted,
                "waiting for a version of '" + attachment_->segment().object().name() +
                    "' while holding a lease that its publisher waits for; release it, then wait");
  }
  check_publisher();
  const std::string name = "'" + attachment_->segment().object().name() + "'";
  if (in_time) throw Error(Errc::Closed, name + " was closed; attach again for a successor");
  throw Error(
      Errc::DeadlinePassed,
      "waiting for " + name + ": " +
          (request.exactly != 0 ? "no version " + std::to_string(request.exactly)
                                : "no version newer than " + std::to_string(request.above)) +
          " within " +
          std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(timeout).count()) +
          " ms; it is at " + std::to_string(current_version()) +
          ": wait longer, or see what holds its publisher up ('tenon inspect')");
}

inline std::uint64_t Subscriber::load(LoadPlan& plan, Stream stream, Duration timeout,
                                      AfterLoad after) {
  attachment_->check_usable();
  const detail::Deadline deadline(timeout);
  wait_for_copies(deadline);                    // of an earlier load that was given up
  if (std::exchange(overdue_, false)) leave();  // joins anew: a pin left is not taken up again
  detail::ops_for(memory()).check_stream(stream, attachment_->device());
  plan.bind(facts().instance, layout(), {memory(), attachment_->device()});
  return mode() == Mode::streaming ? load_streaming(plan, stream, deadline, after)
                                   : load_kept(plan, stream, deadline);
}

inline void Subscriber::wait_for_copies(const detail::Deadline& deadline) {
  if (attachment_->wait_for_copies(deadline)) return;
  throw Error(Errc::DeadlinePassed,
              "the copies enqueued on the stream were not made in time: does "
              "something before them on that stream wait?");
}

// After an error. True when every copy enqueued so far was made: then it is known what arrived, and
// nothing reads the slots any more.
inline bool Subscriber::interrupt(LoadPlan& plan, Stream stream) noexcept {
  bool finished = false;
  try {
    attachment_->finish_behind(stream);
    finished = attachment_->wait_for_copies(detail::Deadline(std::chrono::seconds(2)));
  } catch (const std::exception&) {  // a broken context, say: they are not made
  }
  plan.interrupt(!finished);
  return finished;
}

inline void Subscriber::release_behind_copies(Lease lease, Stream stream) noexcept {
  try {
    lease.release(stream);
  } catch (const std::exception& e) {
    if (attachment_->pins().is_lost()) return;  // no copy is made any more
    // Better held for ever than rewritten under a copy.
    detail::report({"a version stays held until this process ends: ", e.what()});
    detail::keep_for_ever(std::move(lease));
  }
}

inline std::uint64_t Subscriber::load_kept(LoadPlan& plan, Stream stream,
                                           const detail::Deadline& deadline) {
  Lease lease = wait(newer_than(plan.version()), deadline.left());
  detail::StageTimer timer(stages(), format::Stage::load);
  try {
    for (std::size_t b = 0; b < layout().bucket_count(); ++b) {
      plan.load_bucket(b, lease.version(), lease.written_in(b), lease.bucket(b), stream);
      detail::crash_point(detail::CrashPoint::load_bucket);
    }
    attachment_->finish_behind(stream);
    wait_for_copies(deadline);
  } catch (...) {
    if (!interrupt(plan, stream)) release_behind_copies(std::move(lease), stream);
    throw;
  }
  timer.done(lease.version(), plan.copied_);
  plan.complete(lease.version());
  return lease.version();
}

// Streaming. The cursor stays put between versions: after the last record of v it holds the start
// of v+1, so nothing is missed. IDLE only before joining and while paused.

inline void Subscriber::move_to(std::uint64_t record) noexcept {
  next_ = record;
  attachment_->pins().move_cursor(record);
  detail::crash_point(detail::CrashPoint::move_cursor);
  detail::wake(header().release);
}

inline void Subscriber::leave() noexcept {
  move_to(format::kIdle);
  next_ = 0;
}

inline std::uint64_t Subscriber::join() {
  attachment_->check_usable();
  if (mode() != Mode::streaming) return 0;
  if (next_ == 0) {
    // 0 gates everything, so the line cannot move past what is read next. Hence no re-check and no
    // retry (stream.pml: M_JOINMID, M_NOSF).
    attachment_->pins().move_cursor(0);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    detail::crash_point(detail::CrashPoint::join_gate);
    const std::uint64_t line = attachment_->pins().oldest();
    if (line > format::kMaxRecord) leave();
    detail::check_field(line <= format::kMaxRecord, "oldest", line, "at most 2^62");
    move_to(format::next_start(line, facts().buckets));
  }
  return format::version_of(next_, facts().buckets);
}

inline void Subscriber::pause() {
  attachment_->check_usable();
  if (mode() != Mode::streaming) return;
  wait_for_copies(detail::Deadline(std::chrono::seconds(2)));
  overdue_ = false;
  leave();
}

inline std::uint64_t Subscriber::load_streaming(LoadPlan& plan, Stream stream,
                                                const detail::Deadline& deadline, AfterLoad after) {
  const std::uint64_t buckets = facts().buckets;
  for (;;) {
    const std::uint64_t version = join();
    bool whole = false;
    try {
      whole = load_streamed_version(plan, stream, deadline, after);
    } catch (...) {
      // A version left half-way is not resumed: what is loaded next begins at a version's start.
      // Not while copies are under way, whose host functions move the cursor too.
      overdue_ = !interrupt(plan, stream);
      if (!overdue_)
        after == AfterLoad::leave ? leave() : move_to(format::next_start(next_, buckets));
      throw;
    }
    if (whole) {
      plan.complete(version);
      attachment_->pins().note_version(version);
      return version;
    }
    overdue_ = !interrupt(plan, stream);
    if (overdue_) wait_for_copies(deadline);
    overdue_ = false;
    move_to(format::start_of(version + 1, buckets));  // aborted by its publisher
    if (!deadline.passed()) continue;
    // Also where a line that nobody drew, but any subscriber may write, aborts all versions.
    if (after == AfterLoad::leave) leave();
    throw Error(Errc::DeadlinePassed,
                "version " + std::to_string(version) + " was aborted, and no other came in time");
  }
}

// Reads the records from next_ (a version's start) to the version's end; the cursor follows behind
// the copies. False: the version was aborted.
inline bool Subscriber::load_streamed_version(LoadPlan& plan, Stream stream,
                                              const detail::Deadline& deadline, AfterLoad after) {
  const std::uint64_t buckets = facts().buckets;
  const std::uint64_t version = format::version_of(next_, buckets);
  const std::uint64_t end = next_ + buckets;
  attachment_->begin_copies(next_, after == AfterLoad::leave ? end : 0);
  std::optional<detail::StageTimer> timer(std::in_place, stages(), format::Stage::wait_for_ready);
  for (; next_ < end; ++next_) {
    bool there = false;
    bool aborted = false;
    const auto ready = [&] {
      // oldest first, then completed: the other way round a completed record looks aborted
      // (stream.pml: M_ORDER).
      const std::uint64_t line = attachment_->pins().oldest();
      there = header().completed.load(std::memory_order_acquire) >= next_;
      aborted = !there && line >= end;
      return there || aborted || attachment_->is_closed();
    };
    const bool in_time =
        detail::wait_until(header().wake, deadline, spin_, ready, [this] { check_peers(); });
    if (aborted) return false;
    if (!there) {
      check_publisher();
      const std::string name = "'" + attachment_->segment().object().name() + "'";
      if (in_time) throw Error(Errc::Closed, name + " was closed; attach again for a successor");
      throw Error(Errc::DeadlinePassed, "version " + std::to_string(version) + " of " + name +
                                            " did not arrive in time; bucket " +
                                            std::to_string((next_ - 1) % buckets) + " of " +
                                            std::to_string(buckets) +
                                            " is missing: is its publisher still writing it?");
    }
    if (next_ == format::start_of(version, buckets)) {  // the first one is there
      timer->done(version);
      timer.emplace(stages(), format::Stage::load);
    }
    const detail::Record record = attachment_->segment().record(next_);
    plan.load_bucket(record.bucket, version, record.written_in, attachment_->slot(record.slot),
                     stream);
    detail::crash_point(detail::CrashPoint::load_bucket);
    attachment_->advance_behind(stream);
  }
  wait_for_copies(deadline);
  timer->done(version, plan.copied_);
  if (after == AfterLoad::leave) next_ = 0;
  return true;
}

}  // namespace tenon
