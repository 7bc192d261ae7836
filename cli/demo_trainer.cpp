// The trainer of `tenon demo`: makes new bytes for each version and publishes them.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <tenon/buffer.hpp>
#include <tenon/publisher.hpp>

#include "demo.hpp"
#include "parallel.hpp"
#include "pattern.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

/// The trainer's own parameters, in one allocation.
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
    memory_ = Buffer(plan.memory, bytes_);
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      sources_.push_back({.data = memory_.data() + offsets[i], .bytes = layout_[i].bytes});
    }
  }
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  /// The training step: every byte becomes that of `version`.
  void fill(std::uint64_t version) {
    Progress progress("changing the weights", true);
    std::atomic<std::uint64_t> done{0};
    for_each_piece(pieces_.size(), plan_.threads, [&](std::size_t p) {
      check_signals();
      const auto& [i, offset, bytes] = pieces_[p];
      auto* data = static_cast<std::byte*>(const_cast<void*>(sources_[i].data)) + offset;
      if (plan_.memory.kind == MemoryKind::host) {
        Pattern(i, version).fill(offset, data, bytes);
      } else {
        static thread_local std::vector<std::byte> staging;
        staging.resize(std::max<std::size_t>(staging.size(), bytes));
        Pattern(i, version).fill(offset, staging.data(), bytes);
        copy_and_wait(plan_.memory.kind, data, staging.data(), bytes);
      }
      progress.update(done += bytes, layout_.payload_bytes());
    });
  }

  [[nodiscard]] const std::vector<Source>& sources() const noexcept { return sources_; }

  /// Plain copies of as many bytes as a version has: one half of the weights onto the other and
  /// back, so that it needs no memory of its own. The best of three. Destroys the contents.
  [[nodiscard]] Report copy_plainly() const {
    constexpr std::uint64_t kWorthSharing = 1U << 20U;
    const std::uint64_t half = bytes_ / 2;
    const bool is_device = plan_.memory.kind != MemoryKind::host;
    const unsigned threads = half < kWorthSharing || is_device ? 1 : plan_.threads;
    Report report{.kind = ReportKind::copied, .took_ns = ~std::uint64_t{0}, .bytes = 2 * half};
    for (int round = 0; round < 3; ++round) {
      check_signals();
      const std::uint64_t begin = detail::monotonic_ns();
      copy(memory_.data() + half, memory_.data(), half, threads);
      copy(memory_.data(), memory_.data() + half, half, threads);
      report.took_ns = std::min(report.took_ns, detail::monotonic_ns() - begin);
    }
    return report;
  }

 private:
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
  Buffer memory_;
  std::vector<Piece> pieces_;
  std::vector<Source> sources_;
};

Publisher create(const DemoPlan& plan) {
  Progress progress("allocating", true);
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

Report publish(Publisher& publisher, const DemoPlan& plan, const Weights& weights) {
  const Layout& layout = plan.layout;
  const std::span<const Source> sources = weights.sources();
  Publisher::Update update = publisher.begin(
      {.deadline = Duration::max(), .require = plan.subscribers, .check = check_signals});
  Report report{.kind = ReportKind::published};
  const std::uint64_t begin = detail::monotonic_ns();
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
    const auto [first, last] = layout.bucket_parameters(b);
    update.put(b, sources.subspan(first, last - first));
  }
  if (plan.memory.kind == MemoryKind::host) {
    report.at_ns = detail::monotonic_ns();
    report.took_ns = report.at_ns - begin;
    report.version = update.commit();
  } else {  // which is when the copies have been enqueued; they are done when the version is
            // current
    report.at_ns = begin;
    report.version = update.commit();
    (void)publisher.wait_current(Duration::max());
    report.took_ns = detail::monotonic_ns() - begin;
  }
  return report;
}

void wait_for_go(int go) {
  struct ::pollfd waiting[2]{{go, POLLIN, 0}, {signal_fd(), POLLIN, 0}};
  while (::poll(waiting, 2, -1) < 0 && errno == EINTR) {
  }
  check_signals();
  char byte = 0;
  if (::read(go, &byte, 1) != 1) throw Interrupted{};  // the parent is gone
}

void train(const DemoPlan& plan, int reports, int go) {
  Publisher publisher = create(plan);
  Weights weights(plan);
  weights.fill(0);  // touches every page before anything is timed
  send_report(reports, weights.copy_plainly());
  for (std::uint64_t version = 1; version <= plan.versions; ++version) {
    weights.fill(version);
    send_report(reports, publish(publisher, plan, weights));
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
