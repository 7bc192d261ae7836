// An inference process of `tenon demo`: takes every version and checks every byte of it.
#include <atomic>
#include <cstring>
#include <tenon/stages.hpp>
#include <tenon/subscriber.hpp>

#include "demo.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "pattern.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

constexpr Duration kPatience = std::chrono::minutes(10);  // filling a large model takes long

/// Where a version's bytes are: in the slots, or, streaming, in memory of its own of the same kind.
class Engine {
 public:
  Engine(const DemoPlan& plan, std::uint32_t who)
      : subscriber_(attach(plan, who)), plan_(subscriber_.layout()), places_(plan.layout.size()) {
    if (subscriber_.mode() != Mode::streaming) return;
    const Layout& layout = subscriber_.layout();
    loaded_.resize(layout.bucket_count());
    for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
      loaded_[b] = allocate(subscriber_.memory(), layout.bucket_bytes(b));
      if (subscriber_.memory() == MemoryKind::host)  // touches every page before it is timed
        std::memset(loaded_[b].get(), 0, layout.bucket_bytes(b));
    }
    for (std::size_t i = 0; i < layout.size(); ++i) {
      places_[i] = loaded_[layout[i].bucket].get() + layout[i].offset;
      if (!layout.tied_to(i))
        plan_.into(layout[i].name, loaded_[layout[i].bucket].get() + layout[i].offset);
    }
    subscriber_.join();  // so that the trainer's first version waits for this process
  }

  /// Waits for the version above `version`; returns its number.
  std::uint64_t take(std::uint64_t version) {
    if (subscriber_.mode() == Mode::streaming) return subscriber_.load(plan_, kPatience);
    lease_ = subscriber_.wait(newer_than(version), kPatience);
    return lease_->version();
  }
  void let_go() { lease_.reset(); }
  [[nodiscard]] const std::byte* bytes(const Piece& piece, std::vector<std::byte>& room) const {
    const std::byte* first = lease_ ? (*lease_)[piece.parameter].data() : places_[piece.parameter];
    return on_host(subscriber_.memory(), first + piece.offset, piece.bytes, room);
  }
  [[nodiscard]] const Layout& layout() const noexcept { return subscriber_.layout(); }
  [[nodiscard]] detail::StageRecorder& stages() const noexcept { return subscriber_.stages(); }

 private:
  static Subscriber attach(const DemoPlan& plan, std::uint32_t who) {
    AttachOptions options;
    options.deadline = kPatience;
    options.label = "inference " + std::to_string(who);
    return Subscriber::attach(plan.name, options);
  }

  Subscriber subscriber_;
  LoadPlan plan_;
  std::vector<Bytes> loaded_;             ///< per bucket
  std::vector<const std::byte*> places_;  ///< per parameter
  std::optional<Lease> lease_;
};

std::uint64_t count_wrong(const Engine& engine, std::uint64_t version, unsigned threads) {
  const Layout& layout = engine.layout();
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < layout.size(); ++i) add_pieces(pieces, i, layout[i].bytes);
  std::atomic<std::uint64_t> wrong{0};
  for_each_piece(pieces.size(), threads, [&](std::size_t p) {
    static thread_local std::vector<std::byte> room;
    const auto& [i, offset, bytes] = pieces[p];
    const Pattern pattern(layout.tied_to(i).value_or(i), version);
    wrong += pattern.count_wrong(offset, engine.bytes(pieces[p], room), bytes);
  });
  return wrong;
}

void check_versions(const DemoPlan& plan, std::uint32_t who, int reports) {
  use_device(plan.memory);
  Engine engine(plan, who);
  const unsigned threads = std::max(1U, plan.threads / plan.subscribers);
  std::uint64_t version = 0;
  while (version < plan.versions) {
    Report report{.kind = ReportKind::seen, .who = who};
    report.version = version = engine.take(version);
    report.at_ns = detail::monotonic_ns();
    report.wrong = count_wrong(engine, version, threads);
    report.took_ns = detail::monotonic_ns() - report.at_ns;
    engine.stages().record(Stage::verify, version, report.at_ns, report.at_ns + report.took_ns,
                           engine.layout().payload_bytes());
    engine.let_go();
    send_report(reports, report);
  }
}

}  // namespace

Exit run_subscriber(const DemoPlan& plan, std::uint32_t who, int reports) {
  handle_signals(OnSignal::exit);
  try {
    check_versions(plan, who, reports);
  } catch (const Error& error) {
    // The parent says what became of the trainer; that there is no publication any more is no news.
    const Exit exit = exit_of(error.code());
    if (exit != Exit::peer_died) complain(std::string("inference process: ") + error.what());
    return exit;
  }
  return Exit::ok;
}

}  // namespace tenon::cli
