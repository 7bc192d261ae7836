// The trainer of `tenon demo`: makes new bytes for each version and publishes them.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <tenon/copy_and_wait.hpp>
#include <tenon/detail/memory.hpp>
#include <tenon/publisher.hpp>

#include "demo.hpp"
#include "gpu.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "pattern.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

/// The trainer's own parameters, in one allocation of the kind that it publishes in.
class Weights {
 public:
  explicit Weights(const DemoPlan& plan) : plan_(plan), layout_(plan.layout) {
    constexpr std::uint64_t kAlign = 256;
    std::vector<std::uint64_t> offsets(layout_.size());
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      offsets[i] = bytes_;
      if (layout_.tied_to(i)) continue;
      bytes_ += (layout_[i].bytes + kAlign - 1) / kAlign * kAlign;
      add_pieces(pieces_, i, layout_[i].bytes);
    }
    base_ = allocate(plan.memory.kind, bytes_);
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      sources_.push_back({.data = base_.get() + offsets[i], .bytes = layout_[i].bytes});
    }
  }

  /// The training step: every byte becomes that of `version`.
  void fill(std::uint64_t version) {
    Progress progress("changing the weights", !plan_.quiet);
    std::atomic<std::uint64_t> done{0};
    for_each_piece(pieces_.size(), plan_.threads, [&](std::size_t p) {
      check_signals();
      const auto& [i, offset, bytes] = pieces_[p];
      auto* data = static_cast<std::byte*>(const_cast<void*>(sources_[i].data)) + offset;
      fill_piece(Pattern(i, version), offset, data, bytes);
      progress.update(done += bytes, layout_.payload_bytes());
    });
  }

  [[nodiscard]] const std::vector<Source>& sources() const noexcept { return sources_; }

  /// Plain copying of as many bytes as a version has: one half of the weights onto the other and
  /// back, so that it needs no memory of its own. The best of three. Destroys the contents.
  [[nodiscard]] Report copy_plainly() const {
    constexpr std::uint64_t kWorthSharing = 1U << 20U;
    const std::uint64_t half = bytes_ / 2;
    const bool share = plan_.memory.kind == MemoryKind::host && half >= kWorthSharing;
    const unsigned threads = share ? plan_.threads : 1;
    const Waiting waiting("copying plainly, to compare with", !plan_.quiet);
    Report report{.kind = ReportKind::copied, .took_ns = ~std::uint64_t{0}, .bytes = 2 * half};
    for (int round = 0; round < 3; ++round) {
      check_signals();
      const std::uint64_t begin = detail::monotonic_ns();
      copy(base_.get() + half, base_.get(), half, threads);
      copy(base_.get(), base_.get() + half, half, threads);
      report.took_ns = std::min(report.took_ns, detail::monotonic_ns() - begin);
    }
    return report;
  }

 private:
  // A GPU's bytes are made on the host, as reading them from a file would.
  void fill_piece(const Pattern& pattern, std::uint64_t offset, std::byte* to,
                  std::uint64_t bytes) const {
    if (plan_.memory.kind == MemoryKind::host) {
      pattern.fill(offset, to, bytes);
      return;
    }
    static thread_local std::vector<std::byte> room;
    room.resize(std::max<std::size_t>(room.size(), bytes));
    pattern.fill(offset, room.data(), bytes);
    copy_and_wait(plan_.memory.kind, to, room.data(), bytes);
  }

  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes, unsigned threads) const {
    for_each_piece(threads, threads, [&](std::size_t t) {
      const std::uint64_t begin = bytes / threads * t;
      const std::uint64_t end = t + 1 == threads ? bytes : bytes / threads * (t + 1);
      copy_and_wait(plan_.memory.kind, to + begin, from + begin, end - begin);
    });
  }

  const DemoPlan& plan_;
  const Layout& layout_;
  std::uint64_t bytes_ = 0;
  Bytes base_;
  std::vector<Piece> pieces_;
  std::vector<Source> sources_;
};

Publisher create(const DemoPlan& plan) {
  Progress progress("allocating", !plan.quiet);
  PublisherOptions options;
  options.memory = plan.memory;
  options.mode = plan.mode;
  options.label = "tenon demo";
  options.threads = plan.threads;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    check_signals();
    progress.update(done, total);
  };
  return Publisher::create(plan.name, plan.layout, options);
}

/// The time at which everything enqueued so far will have been done. Read it once that is waited
/// for.
void note_time(std::optional<Stream> stream, std::atomic<std::uint64_t>& time) {
  const auto note = [](void* to) {
    *static_cast<std::atomic<std::uint64_t>*>(to) = detail::monotonic_ns();
  };
  if (!stream) {
    note(&time);
  } else {
    const detail::StreamOps& ops = detail::require_stream_ops();
    ops.after(*stream, ops.device_of(*stream), note, &time);
  }
}

/// The publication, and, on a GPU, the stream of the trainer's own that it publishes on.
class Publishing {
 public:
  explicit Publishing(const DemoPlan& plan) : plan_(plan), publisher_(create(plan)) {
    if (plan.memory.kind == MemoryKind::cuda) stream_ = gpu::make_stream();
  }

  Report publish(const Weights& weights) {
    const Layout& layout = plan_.layout;
    const std::span<const Source> sources = weights.sources();
    const Waiting waiting("publishing", !plan_.quiet);
    Publisher::Update update = begin();
    Report report{.kind = ReportKind::published};
    const std::uint64_t began = detail::monotonic_ns();
    for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
      const auto [first, last] = layout.bucket_parameters(b);
      update.put(b, sources.subspan(first, last - first));
    }
    note_time(stream_, gathered_);  // the copies are only enqueued yet
    report.version = update.commit();
    (void)publisher_.wait_current(std::chrono::minutes(1));
    report.at_ns = gathered_;
    report.took_ns = report.at_ns - began;
    return report;
  }

 private:
  Publisher::Update begin() {
    const PublishOptions options{
        .deadline = Duration::max(), .require = plan_.subscribers, .check = check_signals};
    return stream_ ? publisher_.begin(*stream_, options) : publisher_.begin(options);
  }

  const DemoPlan& plan_;
  std::atomic<std::uint64_t> gathered_{0};
  Publisher publisher_;
  std::optional<Stream> stream_;
};

void wait_for_go(int go) {
  struct ::pollfd waiting[2]{{go, POLLIN, 0}, {signal_fd(), POLLIN, 0}};
  while (::poll(waiting, 2, -1) < 0 && errno == EINTR) {
  }
  check_signals();
  char byte = 0;
  if (::read(go, &byte, 1) != 1) throw Interrupted{};  // the parent is gone
}

void train(const DemoPlan& plan, int reports, int go) {
  use_device(plan.memory);
  Publishing publishing(plan);
  Weights weights(plan);
  weights.fill(0);  // touches every page before anything is timed
  send_report(reports, weights.copy_plainly());
  for (std::uint64_t version = 1; version <= plan.versions; ++version) {
    weights.fill(version);
    send_report(reports, publishing.publish(weights));
    wait_for_go(go);
  }
}

}  // namespace

Exit run_trainer(const DemoPlan& plan, int reports, int go) {
  handle_signals(OnSignal::remember);
  try {
    train(plan, reports, go);
  } catch (const Interrupted&) {
    return Exit::interrupted;
  } catch (const Error& error) {
    complain(std::string("trainer: ") + error.what());
    return exit_of(error.code());
  }
  return Exit::ok;
}

}  // namespace tenon::cli
