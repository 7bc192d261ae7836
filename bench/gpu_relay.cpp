// relay on a GPU: the same parameters by NCCL and by a handle that stays open, to another process.
//
// R11 broadcasts them over NCCL, a call for each bucket of a flat allocation; R11a a call for each
// parameter, of which it takes an even sample, as two ranks that share a GPU also share its time:
// the whole model's time is extrapolated by their numbers. R7 is the version that is gathered and
// adopted on the node. All as in handoff: from the entry of the trainer's call to what the engine
// can use; new bytes before each round, checksums of what the engine has compared after it.
//
// Both ranks are on one GPU, which NCCL takes for nodes of their own (NCCL_HOSTID): bytes go over
// its sockets and loopback. Between GPUs of several nodes they do not, and figures are others.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <tenon/plan.hpp>
#include <utility>
#include <vector>

#include "gpu_exchange.hpp"
#include "gpu_payload.hpp"
#include "report.hpp"
#include "shared_store.hpp"

namespace tenon::bench {
namespace {

using Order = GpuStorage::Order;

constexpr std::size_t kSampled = 500;  // parameters, at most

/// What one broadcast carries: parameters that follow each other in an allocation.
struct Piece {
  std::size_t first, last;
};

std::vector<Piece> by_bucket(const Layout& layout) {
  std::vector<Piece> pieces;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
    const auto [first, end] = layout.bucket_parameters(b);
    pieces.push_back({first, end - 1});
  }
  return pieces;
}

std::vector<Piece> by_parameter(const Layout& layout) {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < layout.size(); ++i) pieces.push_back({i, i});
  return pieces;
}

// Every k-th parameter.
std::vector<Parameter> sample(const std::vector<Parameter>& all) {
  const std::size_t step = (all.size() + kSampled - 1) / kSampled;
  std::vector<Parameter> some;
  for (std::size_t i = 0; i < all.size(); i += step) some.push_back(all[i]);
  return some;
}

class GpuRelay {
 public:
  GpuRelay(const Options& options, Report& report)
      : options_(options), report_(report), layout_(gpu_layout(options)) {
    report_.set_option("model", gpu_model(options_, layout_));
  }

  void run() {
    const Layout sampled = plan(sample(gpu_parameters(options_)));
    const auto buckets = broadcast("R11 NCCL broadcast per bucket", layout_, by_bucket(layout_));
    auto parameters =
        broadcast("R11a NCCL broadcast per parameter, sampled", sampled, by_parameter(sampled));
    const auto adopted = play(
        "R7 gather and adopt", layout_,
        [&](Play& p) { lead_gathering(p, options_, layout_, true); },
        [&](Play& p) { follow_holding(p, options_, layout_, detail::kDefaultSpin); });
    if (!buckets || !parameters || !adopted) return;
    const double whole = parameters->samples.p50() * static_cast<double>(layout_.size()) /
                         static_cast<double>(sampled.size());
    report_.add(Figure{"R11a, extrapolated to all parameters", whole / 1e3, "ms"});
    report_.add(Figure{"R11a / R11", whole / buckets->samples.p50(), ""});
    report_.add(Figure{"R11 / R7", buckets->samples.p50() / adopted->samples.p50(), ""});
  }

 private:
  using Body = std::function<void(Play&)>;

  std::optional<Row> play(const std::string& name, const Layout& layout, const Body& trainer,
                          const Body& engine) {
    if (const auto why = too_large(options_, 2 * layout.payload_bytes(), 2)) {
      report_.skip(name, *why);
      return std::nullopt;
    }
    Row row = Play(options_, name, layout).run(trainer, engine);
    report_.add(row);
    return row;
  }

  std::optional<Row> broadcast(const std::string& name, const Layout& layout,
                               const std::vector<Piece>& pieces) {
    if (const std::string why = relay::why_no_nccl(); !why.empty()) {
      report_.skip(name, why);
      return std::nullopt;
    }
    SharedStore store;
    return play(
        name, layout, [&](Play& p) { send(p, layout, pieces, store); },
        [&](Play& p) { receive(p, layout, pieces, store); });
  }

  [[nodiscard]] std::unique_ptr<relay::Engine> connect(int rank, SharedStore& store) const {
    (void)::setenv("NCCL_HOSTID", fmt::format("{}.{}", options_.name_prefix, rank).c_str(), 1);
    (void)::setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    (void)::setenv("NCCL_IB_DISABLE", "1", 0);
    const detail::Deadline deadline(kPatience);
    auto engine = relay::make_nccl_engine({.rank = rank, .size = 2, .store = &store},
                                          *options_.device, deadline);
    engine->warm_up(deadline);
    return engine;
  }

  // Out of, or into, places of parameters that follow each other as planned.
  template <class DataOf>
  static void run_pieces(relay::Engine& engine, const Layout& layout,
                         const std::vector<Piece>& pieces, const DataOf& data_of) {
    const detail::Deadline deadline(kPatience);
    for (const Piece& piece : pieces) {
      std::byte* const begin = data_of(piece.first);
      std::byte* const end = data_of(piece.last) + layout[piece.last].bytes;
      engine.broadcast(begin, static_cast<std::size_t>(end - begin), 0, deadline);
    }
  }

  void send(Play& play, const Layout& layout, const std::vector<Piece>& pieces,
            SharedStore& store) {
    const GpuStream stream(*options_.device);
    GpuPayload payload(options_, layout, Order::as_planned, stream);
    const auto group = connect(0, store);
    const auto prepare = [&](std::uint64_t round) {
      payload.stamp(round);
      return payload.sums();
    };
    const auto data_of = [&](std::size_t i) {  // the root's bytes are only read
      return static_cast<std::byte*>(const_cast<void*>(payload.sources()[i].data));
    };
    play.lead({prepare, [&] { run_pieces(*group, layout, pieces, data_of); }}, pieces.size());
  }

  void receive(Play& play, const Layout& layout, const std::vector<Piece>& pieces,
               SharedStore& store) {
    const GpuStream stream(*options_.device);
    const GpuStorage storage(layout, Order::as_planned);
    GpuSums sums(*options_.device, layout.size());
    const auto group = connect(1, store);
    play.await_publication();
    const auto data_of = [&](std::size_t i) { return storage[i]; };
    play.follow({[&] { storage.poison(); }, [&] { run_pieces(*group, layout, pieces, data_of); },
                 [&] { return sums.take(layout, data_of, stream); }},
                free_gpu_memory());
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
};

}  // namespace

nlohmann::json run_gpu_relay(const Options& options) {
  Report report("relay", options);
  GpuRelay(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
