// How a version is completed and a publication ends: what waits for work that runs behind the
// caller's back, on a GPU. In host memory it has run already.
#include <tenon/detail/crash_point.hpp>
#include <tenon/detail/keep.hpp>
#include <utility>

#include "publisher_impl.hpp"

namespace tenon {

using detail::crash_point;
using detail::CrashPoint;

namespace {

constexpr Duration kClose = std::chrono::seconds(2);

}  // namespace

// The payload shares the log, so that nothing is pulled from under a host function, however this
// object ends. When its work never runs it is never freed: a few bytes, once, in a broken process.
void Publisher::Impl::store_behind(Store store, Gather::Place place) {
  struct Completion {
    std::shared_ptr<ipc::LogWriter> log;
    Store store;
    std::uint64_t ticket;
  };
  auto completion = std::make_unique<Completion>(Completion{log_, std::move(store), enqueued_ + 1});
  void (*const run)(void*) = [](void* argument) {
    const std::unique_ptr<Completion> c(static_cast<Completion*>(argument));
    crash_point(CrashPoint::complete_begun);
    if (c->store) c->store(*c->log);
    c->log->finish(c->ticket);
    crash_point(CrashPoint::complete_finished);
  };
  if (is_there())
    run(completion.get());
  else
    gather_->after(attempt_->stream, place, run, completion.get());
  (void)completion.release();
  ++enqueued_;
  attempt_->enqueued = false;
}

// Whether what is complete now need not wait for the stream: nothing was written, or the trainer
// wrote into the slots and has synchronized. A host function would take 10 to 120 us to run
// (docs/hardware-notes.md).
bool Publisher::Impl::is_there() {
  if (attempt_->copies) return false;
  if (attempt_->written) return gather_->is_idle(attempt_->stream);
  check_device();
  return true;
}

// From the first bucket on; again after a wait in between.
void Publisher::Impl::enter_filling() noexcept {
  if (attempt_->fill_begin == 0) attempt_->fill_begin = detail::monotonic_ns();
  log_->stages().enter(filling_, attempt_->fill_begin);
}

// Of the buckets written in this version.
std::uint64_t Publisher::Impl::filled_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (std::size_t b = 0; b < buckets_.size(); ++b)
    if (attempt_->progress[b] == Progress::sealed) bytes += payload_[b];
  return bytes;
}

// Of the buckets written in this version; those that were kept have theirs.
Publisher::Impl::Store Publisher::Impl::checksum_store() {
  if (!checksums_) return {};
  struct Sealed {
    std::uint32_t slot;
    std::pair<std::size_t, std::size_t> parameters;
  };
  std::vector<Sealed> sealed;
  for (std::size_t b = 0; b < buckets_.size(); ++b)
    if (attempt_->progress[b] == Progress::sealed)
      sealed.push_back({attempt_->slot[b], layout_.bucket_parameters(b)});
  if (sealed.empty()) return {};
  return [sealed, sums = gather_->sums(attempt_->stream)](ipc::LogWriter& log) {
    for (const Sealed& s : sealed)
      log.write_checksums(s.slot, s.parameters.first, s.parameters.second, sums);
  };
}

// False at the deadline. Throws Error(Cuda) when what is waited for will never happen.
bool Publisher::Impl::await_enqueued(const ipc::Patience& patience) {
  const std::function<void()> check = [&] {
    check_device();
    if (patience.check) patience.check();
  };
  if (!log_->wait_for_finished(enqueued_, {patience.deadline, check})) return false;
  tell_measured();
  return true;
}

// GPU memory, while it is traced: what the device's own clock says of the copies.
void Publisher::Impl::measure_gather() {
  if (!attempt_->copies || !log_->stages().is_traced()) return;
  gather_->mark_end(attempt_->stream);
  measured_ = {format::Stage::gather_device, attempt_->fill_begin, 0, filled_bytes()};
  measured_version_ = attempt_->version;
}

void Publisher::Impl::tell_measured() {
  const std::uint64_t version = std::exchange(measured_version_, 0);
  if (version == 0) return;
  if (const auto time = gather_->measured()) {
    log_->stages().record(measured_.stage, version, measured_.begin,
                          measured_.begin + static_cast<std::uint64_t>(time->count()),
                          measured_.bytes);
  }
}

void Publisher::Impl::check_device() {
  const char* error = gather_->broken();
  if (error == nullptr) return;
  close(format::ClosedReason::device_error);
  throw Error(Errc::Cuda, "the CUDA context of this process is broken (" + std::string(error) +
                              "): publication '" + name_ + "' is closed; start the process again");
}

std::uint64_t Publisher::Impl::wait_current(const detail::Deadline& deadline) {
  check_owner();
  if (await_enqueued({deadline, {}})) return committed_;
  throw Error(Errc::DeadlinePassed,
              "version " + std::to_string(committed_) + " of '" + name_ +
                  "' did not become current in time: does something before it on its "
                  "stream wait?");
}

// Behind what an aborted version has enqueued there must be something to wait for, before its slots
// are written again. False when the device takes nothing any more. Sources in host memory are the
// caller's again: they have been read.
bool Publisher::Impl::settle() noexcept {
  try {
    if (attempt_->enqueued) store_behind({}, Gather::Place::in_stream);
    if (!attempt_->reads_host) return true;
    const detail::Deadline deadline(kClose);
    const std::function<void()> check = [&] {
      if (const char* error = gather_->broken()) throw Error(Errc::Cuda, error);
    };
    if (!log_->wait_for_finished(enqueued_, {deadline, check})) {
      detail::report({"aborting a version of '", name_,
                      "': its sources in host memory have not been read after 2 s and must stay"});
    }
    return true;
  } catch (const std::exception& e) {
    detail::report({"aborting a version of '", name_, "': ", e.what()});
    return false;
  }
}

// True unless somebody may still be using GPU memory.
bool Publisher::Impl::close(format::ClosedReason reason) noexcept {
  if (closed_ || !log_) return !in_use_;
  abort();
  if (closed_) return !in_use_;  // the abort found the device broken
  closed_ = true;
  detail::log(LogLevel::info, "closing '", name_, "'",
              reason == format::ClosedReason::device_error ? " after an error of its GPU" : "");
  const detail::Deadline deadline(kClose);
  slots_->withdraw();  // host memory: the names go now, the pages with the last mapping
  crash_point(CrashPoint::close_slots);
  log_->close(reason);  // the header's name last: until then a cleaner can find the slots
  if (!slots_->outlived_by_readers()) free_slots(deadline);
  crash_point(CrashPoint::close_done);
  return !in_use_;
}

// Device memory goes when nobody can be using it: not our own copies, not a subscriber. Freeing
// waits for the device, hence behind copies that do not end nothing is freed, what they are made
// with included. Nor is it when nobody can tell, for want of memory say.
void Publisher::Impl::free_slots(const detail::Deadline& deadline) noexcept {
  const std::function<void()> no_check;
  in_use_ = true;
  const auto say_kept = [this](std::string_view because) {
    detail::report({"closing '", name_, "': ", std::to_string(slot_bytes_ >> 20U),
                    " MiB of GPU memory stay allocated until this process ends, because of ",
                    because});
  };
  try {
    const bool broken = gather_->broken() != nullptr;
    if (!broken && !log_->wait_for_finished(enqueued_, {deadline, no_check})) {
      detail::keep_for_ever(std::move(gather_));
      say_kept("its own copies, behind work that is still running");
    } else {
      const bool detached = log_->wait_for_detached(deadline);
      const std::string who = detached ? "" : log_->attached();
      in_use_ = !who.empty();  // the last of them may have gone in this moment
      if (in_use_) say_kept(who);
    }
  } catch (const std::exception& e) {
    say_kept(e.what());
  }
  if (in_use_) slots_->keep_for_ever();
  slots_.reset();
}

}  // namespace tenon
