#include "publisher_impl.hpp"

#include <algorithm>
#include <tenon/detail/crash_point.hpp>
#include <thread>
#include <utility>

#include "create.hpp"
#include "no_cuda.hpp"

namespace tenon {

using detail::crash_point;
using detail::CrashPoint;

namespace {

unsigned thread_count(unsigned wanted) {
  return wanted > 0 ? wanted : std::clamp(std::thread::hardware_concurrency(), 1U, 8U);
}

// The two places where the library depends on what it was built with.
std::unique_ptr<ipc::SlotMemory> make_slots(const PublisherOptions& options,
                                            const std::vector<OwnSlot>& own) {
  if (options.memory.kind == MemoryKind::host)
    return ipc::make_host_slots({thread_count(options.threads), options.group ? 0640 : 0600});
#if TENON_WITH_CUDA
  return ipc::make_cuda_slots(options.memory.device, own);
#else
  (void)own;
  throw Error(Errc::NoMemoryKind, kNoCuda);
#endif
}

std::unique_ptr<Gather> make_gather(const Layout& layout, const PublisherOptions& options) {
#if TENON_WITH_CUDA
  if (options.memory.kind == MemoryKind::cuda)
    return make_cuda_gather(layout, options.memory.device, options.gather);
#endif
  return make_host_gather(layout, thread_count(options.threads));
}

Mode effective_mode(const Layout& layout, const PublisherOptions& options,
                    std::vector<std::string>& notes) {
  if (options.mode != Mode::streaming || layout.bucket_count() >= 3) return options.mode;
  notes.push_back("streaming needs at least 3 buckets and the layout has " +
                  std::to_string(layout.bucket_count()) +
                  ": published in place (a smaller bucket_bytes makes more buckets)");
  return Mode::in_place;
}

std::uint64_t slot_count(const Layout& layout, Mode mode, std::uint32_t wanted) {
  const std::uint64_t buckets = layout.bucket_count();
  if (mode == Mode::in_place) return buckets;
  if (mode == Mode::double_buffered) return 2 * buckets;
  if (wanted == 0) return std::min<std::uint64_t>(4, buckets - 1);
  if (wanted >= 2 && wanted < buckets) return wanted;
  throw Error(Errc::InvalidArgument, "streaming with " + std::to_string(wanted) +
                                         " slots: it takes 2 to " + std::to_string(buckets - 1) +
                                         " for " + std::to_string(buckets) + " buckets");
}

}  // namespace

Publisher::Impl::Impl(std::string_view name, const Layout& layout, const PublisherOptions& options,
                      std::vector<OwnSlot> own)
    : name_(name),
      layout_(layout),
      mode_(effective_mode(layout, options, notes_)),
      pid_(detail::own_pid()),
      filling_(options.received ? format::Stage::receive : format::Stage::gather),
      own_(std::move(own)),
      slots_(make_slots(options, own_)),
      gather_(make_gather(layout_, options)),
      buckets_(layout.bucket_count()),
      payload_(layout.bucket_count()),
      checksums_(options.checksums) {
  expected_.reserve(layout_.size());
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    expected_.push_back({layout_[i].bytes, layout_[i].dtype, layout_.tied_to(i).has_value()});
    if (!layout_.tied_to(i)) payload_[layout_[i].bucket] += layout_[i].bytes;
  }
  if (checksums_ && mode_ == Mode::streaming)
    throw Error(Errc::InvalidArgument,
                "checksums are of whole versions, which streaming does not keep");
  const ipc::SegmentRequest request{name_,
                                    layout_,
                                    mode_,
                                    slot_count(layout_, mode_, options.slots),
                                    options.label,
                                    checksums_,
                                    options.group ? 0660 : 0600,
                                    options.deadline};
  log_ = ipc::create_segment(request, *slots_, options.progress, notes_);
  for (std::uint64_t s = 0; s < log_->segment().facts().slots; ++s)
    slot_bytes_ += slots_->describe(s).bytes;
  detail::log(LogLevel::info, "published '", name_, "': ", layout_.size(), " parameters in ",
              buckets_.size(), " buckets, ", slot_bytes_, " bytes of slots, mode ", name_of(mode_));
}

void Publisher::Impl::check_owner() const {
  if (!is_owner()) {
    throw Error(Errc::ForkedChild, "publication '" + name_ + "' was created by process " +
                                       std::to_string(pid_) + "; a forked child creates its own");
  }
  if (closed_) throw Error(Errc::Closed, "publication '" + name_ + "' is closed");
}

Publisher::Impl::Attempt& Publisher::Impl::attempt() {
  check_owner();
  if (!attempt_)
    throw Error(Errc::InvalidArgument,
                "no version of '" + name_ + "' is being written; call begin() first");
  return *attempt_;
}

std::uint64_t Publisher::Impl::publish(std::span<const Source> sources,
                                       std::optional<Stream> stream,
                                       const PublishOptions& options) {
  check_owner();
  if (sources.size() != layout_.size()) {
    throw Error(Errc::InvalidArgument,
                "publishing '" + name_ + "': " + std::to_string(sources.size()) + " sources for " +
                    std::to_string(layout_.size()) + " parameters");
  }
  const auto of_bucket = [&](std::size_t b) {
    const auto [first, last] = layout_.bucket_parameters(b);
    return sources.subspan(first, last - first);
  };
  std::vector<bool> unchanged(buckets_.size());
  bool all_unchanged = mode_ != Mode::streaming;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {  // all, before anything is retired
    unchanged[b] = check_sources(b, of_bucket(b));
    all_unchanged = all_unchanged && unchanged[b];
  }
  begin(stream, options, all_unchanged);
  try {
    for (std::size_t b = 0; b < buckets_.size(); ++b) put_checked(b, of_bucket(b), unchanged[b]);
    return commit();
  } catch (...) {
    abort();
    throw;
  }
}

std::uint64_t Publisher::Impl::number_for(const PublishOptions& options) const {
  if (options.version == 0 || options.version == next_version_) return next_version_;
  // Beyond this the numbers of records would not fit 64 bits.
  const std::uint64_t most = format::kMaxRecord / buckets_.size() - 1;
  if (options.version > next_version_ && options.version <= most) return options.version;
  throw Error(Errc::InvalidArgument,
              "publishing '" + name_ + "' as version " + std::to_string(options.version) +
                  ": it takes " + std::to_string(next_version_) + " to " + std::to_string(most));
}

// Protocol sections 3 and 4. The line is the start of the version to be written when its bytes go
// where the current version's are (or there is no current one): everybody out. Otherwise it is
// `current`: the slots to be written are free as soon as nobody is behind that.
void Publisher::Impl::begin(std::optional<Stream> stream, const PublishOptions& options,
                            bool all_unchanged) {
  check_owner();
  if (attempt_)
    throw Error(Errc::InvalidArgument, "version " + std::to_string(attempt_->version) + " of '" +
                                           name_ + "' is still being written");
  Attempt a{.version = number_for(options),
            .stream = gather_->begin(stream),
            .deadline = detail::Deadline(options.deadline),
            .check = options.check,
            .at_commit = options.at_commit};
  detail::StageTimer waiting(log_->stages(), format::Stage::wait_for_slots);
  // Complete means finished: until the last completion has been stored, `current` is not known, and
  // a slot may still be written by another stream than this version's.
  if (!await_enqueued({a.deadline, a.check})) {
    throw Error(Errc::DeadlinePassed, "publishing version " + std::to_string(a.version) + " of '" +
                                          name_ +
                                          "': the stream of the version before has not come to "
                                          "its copies yet");
  }
  // Again: the completion that was waited for has left that stage.
  log_->stages().enter(format::Stage::wait_for_slots, detail::monotonic_ns());
  a.saved_oldest = log_->oldest();
  a.saved_current = log_->current();
  a.progress.assign(buckets_.size(), Progress::missing);
  a.slot.assign(buckets_.size(), 0);
  a.unchanged.assign(buckets_.size(), false);
  const std::uint64_t first = format::start_of(a.version, buckets_.size());
  const bool streaming = mode_ == Mode::streaming;
  if (streaming && a.version != next_version_) {
    log_->burn(first);  // as if the versions in between had been aborted
    next_version_ = a.version;
  }
  if (!log_->wait_for_attached(options.require, streaming ? first : 0, {a.deadline, a.check})) {
    const std::string behind = streaming ? log_->holders(first) : "";
    throw Error(Errc::DeadlinePassed, "publishing version " + std::to_string(a.version) + " of '" +
                                          name_ + "': fewer than " +
                                          std::to_string(options.require) + " subscribers are " +
                                          (streaming ? "waiting for it" : "attached") +
                                          (behind.empty() ? "" : "; behind it: " + behind));
  }
  attempt_ = std::move(a);
  if (streaming) return waiting.done(attempt_->version);
  const bool everybody_out =
      attempt_->saved_current == 0 || (mode_ == Mode::in_place && !all_unchanged);
  const std::uint64_t line = everybody_out ? first : attempt_->saved_current;
  log_->retire(line, everybody_out);
  try {
    await_readers(line);
  } catch (...) {
    abort();
    throw;
  }
  waiting.done(attempt_->version);
}

void Publisher::Impl::await_readers(std::uint64_t line) {
  const std::uint64_t limit = format::start_of(attempt_->version + 1, buckets_.size());
  if (log_->wait_for_readers(line, limit, {attempt_->deadline, attempt_->check})) {
    crash_point(CrashPoint::publish_readers_gone);
    return;
  }
  throw Error(Errc::DeadlinePassed,
              "publishing version " + std::to_string(attempt_->version) + " of '" + name_ +
                  "': waiting for subscribers to let go: " + log_->holders(line) +
                  "; release the lease there, or stop that process");
}

// Record n may be written once nobody needs record n-K, whose slot it takes. The line never goes
// back.
void Publisher::Impl::open_streaming(std::size_t bucket) {
  const std::uint64_t n = start() + bucket;
  const std::uint64_t slots = log_->segment().facts().slots;
  if (bucket > 0 && attempt_->progress[bucket - 1] != Progress::sealed) {
    throw Error(Errc::InvalidArgument, "streaming: bucket " + std::to_string(bucket) +
                                           " before bucket " + std::to_string(bucket - 1) +
                                           " is sealed");
  }
  const std::uint64_t line = std::max(log_->oldest(), n > slots ? n - slots + 1 : 1);
  if (line != log_->oldest()) log_->retire(line, false);
  detail::StageTimer waiting(log_->stages(), format::Stage::wait_for_slots);
  await_readers(line);
  waiting.done(attempt_->version);
  attempt_->slot[bucket] = static_cast<std::uint32_t>(n % slots);
}

std::byte* Publisher::Impl::open(std::size_t bucket) {
  Attempt& a = attempt();
  if (bucket >= buckets_.size() || a.progress[bucket] != Progress::missing) {
    throw Error(Errc::InvalidArgument, "bucket " + std::to_string(bucket) + " of version " +
                                           std::to_string(a.version) +
                                           " does not exist or was written already");
  }
  const Bucket& b = buckets_[bucket];
  if (mode_ == Mode::streaming) {
    open_streaming(bucket);
  } else {
    const auto home = static_cast<std::uint32_t>(bucket);
    const auto other = static_cast<std::uint32_t>(bucket + buckets_.size());
    // The slot that the current version does not name; never by parity of the version, which kept
    // buckets and aborted versions upset (line.pml: M_PARITY).
    const bool home_is_taken =
        mode_ == Mode::double_buffered && log_->current() != 0 && b.slot == home;
    a.slot[bucket] = home_is_taken ? other : home;
  }
  enter_filling();
  a.written = true;
  a.enqueued = true;
  a.progress[bucket] = Progress::open;
  // In place there is no other copy: from here until the commit the bucket holds nothing whole.
  if (mode_ == Mode::in_place) buckets_[bucket].written_in = 0;
  return slots_->data(a.slot[bucket]);
}

void Publisher::Impl::seal(std::size_t bucket) { seal_as(bucket, false); }

void Publisher::Impl::seal_as(std::size_t bucket, bool unchanged) {
  Attempt& a = attempt();
  if (bucket >= buckets_.size() || a.progress[bucket] != Progress::open) {
    throw Error(Errc::InvalidArgument,
                "seal of bucket " + std::to_string(bucket) + ", which is not open");
  }
  a.progress[bucket] = Progress::sealed;
  a.unchanged[bucket] = unchanged;
  if (checksums_) {
    a.copies = true;
    gather_->sum(bucket, slots_->data(a.slot[bucket]), a.stream);
  }
  if (mode_ != Mode::streaming) return;
  // Changed bytes count from the moment a reader may have them, commit or no commit.
  if (!unchanged) buckets_[bucket].written_in = a.version;
  const std::uint64_t n = start() + bucket;
  log_->write_record(n, {a.version, static_cast<std::uint32_t>(bucket), a.slot[bucket],
                         buckets_[bucket].written_in});
  // The last record is complete with the commit: who has loaded a whole version has one that cannot
  // be aborted any more.
  if (bucket + 1 < buckets_.size())
    store_behind([n](ipc::LogWriter& log) { log.complete_record(n); }, Gather::Place::in_stream);
}

void Publisher::Impl::put(std::size_t bucket, std::span<const Source> sources) {
  if (bucket >= buckets_.size())
    throw Error(Errc::InvalidArgument, "there is no bucket " + std::to_string(bucket));
  const auto [first, last] = layout_.bucket_parameters(bucket);
  if (sources.size() != last - first) {
    throw Error(Errc::InvalidArgument, "bucket " + std::to_string(bucket) + " has " +
                                           std::to_string(last - first) + " parameters and got " +
                                           std::to_string(sources.size()) + " sources");
  }
  put_checked(bucket, sources, check_sources(bucket, sources));
}

void Publisher::Impl::put_checked(std::size_t bucket, std::span<const Source> sources,
                                  bool unchanged) {
  if (unchanged && mode_ != Mode::streaming) return keep_whole(*attempt_, bucket);
  std::byte* slot = open(bucket);
  // Until it is known, and when that throws, it may be the host's memory that is read.
  const bool read_host = std::exchange(attempt_->reads_host, true);
  if (!attempt_->copies && log_->stages().is_traced()) gather_->mark_begin(attempt_->stream);
  attempt_->copies = true;
  if (gather_->run(bucket, sources, slot, attempt_->stream)) attempt_->reads_host = read_host;
  crash_point(CrashPoint::publish_bucket);
  seal_as(bucket, unchanged);
}

void Publisher::Impl::keep(std::size_t bucket) {
  Attempt& a = attempt();
  if (mode_ == Mode::streaming)
    throw Error(Errc::InvalidArgument,
                "streaming keeps no whole version: put the bucket with `unchanged` sources");
  if (bucket >= buckets_.size() || a.progress[bucket] != Progress::missing) {
    throw Error(Errc::InvalidArgument,
                "bucket " + std::to_string(bucket) + " does not exist or was written already");
  }
  if (buckets_[bucket].written_in == 0) {
    throw Error(Errc::DirtyBucket,
                "bucket " + std::to_string(bucket) + " holds no whole version to keep; put it");
  }
  keep_whole(a, bucket);
}

void Publisher::Impl::keep_whole(Attempt& a, std::size_t bucket) noexcept {
  a.progress[bucket] = Progress::kept;
  a.slot[bucket] = buckets_[bucket].slot;
}

// The log has room for two versions, by parity. Numbers that were passed over can make the next
// version one of the current version's parity: then its records are free only when nobody reads
// them.
void Publisher::Impl::clear_records() {
  const std::uint64_t current = format::version_of(log_->current(), buckets_.size());
  if (mode_ == Mode::streaming || current == 0 || (attempt_->version - current) % 2 != 0) return;
  const std::uint64_t oldest = log_->oldest();
  const std::uint64_t served = log_->current();
  attempt_->deadline = detail::Deadline(attempt_->at_commit);
  log_->retire(start(), true);
  try {
    detail::StageTimer waiting(log_->stages(), format::Stage::wait_for_slots);
    await_readers(start());
    waiting.done(attempt_->version);
  } catch (...) {
    log_->unretire(oldest, served);
    throw;
  }
}

std::uint64_t Publisher::Impl::commit() {
  Attempt& a = attempt();
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    if (a.progress[b] == Progress::sealed || a.progress[b] == Progress::kept) continue;
    throw Error(
        Errc::IncompleteVersion,
        "version " + std::to_string(a.version) + " of '" + name_ + "': bucket " +
            std::to_string(b) +
            (a.progress[b] == Progress::open ? " is open" : " was neither written nor kept"));
  }
  clear_records();
  enter_filling();  // again after that wait; for the first time when no bucket was opened
  write_records();
  crash_point(CrashPoint::publish_records);
  measure_gather();
  const std::uint64_t last = start() + buckets_.size() - 1;
  const bool streaming = mode_ == Mode::streaming;
  Store complete = [sums = checksum_store(), first = start(), last, streaming, filling = filling_,
                    begin = a.fill_begin, bytes = filled_bytes()](ipc::LogWriter& log) {
    const ipc::Filled filled{filling, begin, detail::monotonic_ns(), bytes};
    if (sums) sums(log);
    if (streaming) log.complete_record(last);
    log.complete_version(first, filled);
  };
  // A streamed version has its other completions in the stream, and a budget of calls per bucket.
  store_behind(std::move(complete), streaming ? Gather::Place::in_stream : Gather::Place::aside);
  // Not before: when that throws, the slots of the version before are still the current ones.
  for (std::size_t b = 0; b < buckets_.size(); ++b) finish_bucket(b);
  next_version_ = a.version + 1;
  committed_ = a.version;
  const std::uint64_t version = a.version;
  // The caller may change its host memory as soon as this returns. Whatever ends that wait, the
  // version is committed: there is no attempt any more that could be aborted.
  const Attempt done = std::move(a);
  attempt_.reset();
  crash_point(CrashPoint::publish_committed);
  if (!done.reads_host || await_enqueued({done.deadline, done.check})) return version;
  throw Error(Errc::DeadlinePassed, "version " + std::to_string(version) + " of '" + name_ +
                                        "' is committed, but its sources in host memory have not "
                                        "been read in time");
}

void Publisher::Impl::write_records() noexcept {
  if (mode_ == Mode::streaming) return;  // they are out already
  const Attempt& a = *attempt_;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    const bool kept = a.progress[b] == Progress::kept;
    log_->write_record(start() + b, {a.version, static_cast<std::uint32_t>(b), a.slot[b],
                                     kept ? buckets_[b].written_in : a.version});
  }
}

void Publisher::Impl::finish_bucket(std::size_t bucket) noexcept {
  const Attempt& a = *attempt_;
  Bucket& b = buckets_[bucket];
  b.unconfirmed = false;
  b.slot = a.slot[bucket];
  if (mode_ != Mode::streaming && a.progress[bucket] == Progress::sealed) b.written_in = a.version;
}

void Publisher::Impl::abort() noexcept {
  if (!attempt_ || !is_owner()) return;
  const Attempt& a = *attempt_;
  const bool settled = settle();
  crash_point(CrashPoint::abort_settled);
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    if (a.progress[b] == Progress::open || (a.progress[b] == Progress::sealed && !a.unchanged[b]))
      buckets_[b].unconfirmed = true;
  }
  if (mode_ == Mode::streaming) {
    // Readers may have seen records of this attempt: its numbers are burnt (stream.pml: M_NOBURN).
    if (a.written) {
      log_->burn(format::start_of(a.version + 1, buckets_.size()));
      next_version_ = a.version + 1;
    }
  } else if (!a.written) {
    log_->unretire(a.saved_oldest, a.saved_current);
  }
  attempt_.reset();
  log_->stages().leave();
  crash_point(CrashPoint::abort_done);
  if (!settled) close(format::ClosedReason::device_error);
}

std::byte* Publisher::Impl::storage(std::string_view parameter) {
  check_owner();
  if (mode_ != Mode::in_place) {
    throw Error(Errc::InvalidArgument, std::string("storage() of a publication in mode ") +
                                           name_of(mode_) +
                                           ": only in place do parameters stay where they are");
  }
  const Placement place = layout_[layout_.at(parameter)];
  return slots_->data(place.bucket) + place.offset;
}

}  // namespace tenon
