#include "snapshot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "common.hpp"
#include "progress.hpp"

namespace tenon::cli {
namespace {

Lease wait_for_version(Subscriber& subscriber, const ReaderOptions& options,
                       const detail::Deadline& deadline) {
  const VersionRequest request = options.version == 0 ? newest() : exactly(options.version);
  const Waiting waiting("waiting for a version of '" + options.name + "'", !options.quiet);
  try {
    return subscriber.wait(request, deadline.left());
  } catch (const Error& error) {
    if (error.code() != Errc::DeadlinePassed) throw;
    const std::uint64_t current = subscriber.current_version();
    throw Error(
        Errc::DeadlinePassed,
        fmt::format(
            "'{}' had no {} within {}; {}", options.name,
            options.version == 0 ? "complete version" : fmt::format("version {}", options.version),
            human_duration(options.timeout),
            current == 0 ? "none is complete now" : fmt::format("it is at version {}", current)) +
            " ('tenon inspect " + options.name +
            "' shows who holds it up; --timeout waits longer)");
  }
}

[[noreturn]] void throw_past(const ReaderOptions& options, std::uint64_t at) {
  throw Error(Errc::NotRetained, fmt::format("version {} of '{}' is past; it is at version {}",
                                             options.version, options.name, at));
}

}  // namespace

Subscriber attach_reader(const ReaderOptions& options, const std::string& label,
                         const detail::Deadline& deadline) {
  constexpr auto kPause = std::chrono::milliseconds(5);
  constexpr int kStaleLooks = 10;
  int stale_looks = 0;
  const Waiting waiting("waiting for '" + options.name + "'", !options.quiet);
  AttachOptions attach;
  attach.deadline = Duration::zero();
  attach.label = label;
  attach.owner = options.owner;
  for (;;) {
    try {
      const PublicationInfo info = tenon::inspect(options.name, options.owner);
      if (info.state == Attach::ready) use_device_of(info);
      return Subscriber::attach(options.name, attach);
    } catch (const Error& error) {
      // In the instant between its creation and its claim a publication looks abandoned to root.
      const bool is_stale = error.code() == Errc::PublisherGone && ++stale_looks < kStaleLooks;
      const bool may_come =
          error.code() == Errc::NotFound || error.code() == Errc::DeadlinePassed || is_stale;
      if (!may_come || deadline.passed()) throw;
    }
    std::this_thread::sleep_for(std::min<Duration>(kPause, deadline.left()));
  }
}

LoadPlan Snapshot::plan_load(const Subscriber& subscriber, std::optional<std::size_t> only) {
  const Layout& layout = subscriber.layout();
  constexpr std::uint64_t kAlign = 64;
  const auto wanted = [&](std::size_t i) { return !only || *only == i; };
  std::vector<std::uint64_t> offsets(layout.size());
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    offsets[i] = total;
    if (wanted(i)) total += (layout[i].bytes + kAlign - 1) / kAlign * kAlign;
  }
  loaded_ = allocate_for_loads(subscriber.memory(), total);
  places_.assign(layout.size(), nullptr);
  LoadPlan plan(layout);
  for (std::size_t i = 0; i < layout.size(); ++i) {
    if (!wanted(i)) continue;
    places_[i] = loaded_.get() + offsets[i];
    plan.into(layout[i].name, places_[i]);
  }
  return plan;
}

Snapshot Snapshot::take(Subscriber& subscriber, const ReaderOptions& options,
                        const detail::Deadline& deadline, std::optional<std::size_t> only) {
  Snapshot snapshot;
  if (subscriber.mode() != Mode::streaming) {
    snapshot.lease_ = wait_for_version(subscriber, options, deadline);
    snapshot.version_ = snapshot.lease_->version();
    snapshot.memory_ = subscriber.memory();
    return snapshot;
  }
  const Waiting waiting("loading a version of '" + options.name + "'", !options.quiet);
  LoadPlan plan = snapshot.plan_load(subscriber, only);
  for (;;) {
    const std::uint64_t next = subscriber.join();
    if (options.version != 0 && next > options.version) throw_past(options, next - 1);
    const bool is_last = options.version == 0 || next == options.version;
    // Leaves in the same instant: whoever stays is counted on for the next version.
    snapshot.version_ =
        subscriber.load(plan, deadline.left(), is_last ? AfterLoad::leave : AfterLoad::stay);
    if (is_last) break;
  }
  if (options.version != 0 && snapshot.version_ != options.version) {
    throw_past(options, snapshot.version_);  // it was aborted, and a later one loaded
  }
  return snapshot;
}

std::vector<std::string> Snapshot::verify() const {
  if (lease_) return lease_->verify();
  throw Error(Errc::InvalidArgument, "a publication that streams has no checksums to verify by");
}

}  // namespace tenon::cli
