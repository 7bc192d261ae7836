// handoff on a GPU: from publish() in the trainer to what an engine in another process can use.
//
// Timed by CLOCK_MONOTONIC, from the entry of the call in the trainer: R6 parameters that live in
// the slots, sealed and adopted; R6a the same with a publish() that is told that none of its
// sources changed; R7 gather, then a lease; R8 gather into a few streaming slots, and out of them
// into the engine's own storage; R9 the engine pulls out of the trainer's own allocation. Every
// source gets new bytes before each round and the checksums of what the engine has are compared
// after it, outside the timed part. Nobody is pinned: the CUDA runtime's threads would inherit it.
#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <tenon/unpacked.hpp>
#include <utility>
#include <vector>

#include "gpu_exchange.hpp"
#include "gpu_payload.hpp"
#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

using Order = GpuStorage::Order;

constexpr std::uint64_t kStreamedBucket = 2ULL << 30U;
constexpr std::uint64_t kStreamedBuckets = 8;  // at least
constexpr std::uint32_t kStreamedSlots = 4;

/// How the engine copies a version into storage of its own.
enum class LoadBy { batch, kernel };

class GpuHandoff {
 public:
  GpuHandoff(const Options& options, Report& report)
      : options_(options),
        report_(report),
        layout_(gpu_layout(options)),
        streamed_(plan_with_streamed_buckets()) {
    report_.set_option("model", gpu_model(options_, layout_));
    report_.set_option("streamed_buckets", streamed_.bucket_count());
    report_.set_option("spin_us", detail::kDefaultSpin.count() / 1000);
  }

  void run() {
    const std::uint64_t bytes = layout_.payload_bytes();
    const std::uint64_t slots = kStreamedSlots * largest_bucket(streamed_);
    constexpr Duration kSpinning = std::chrono::seconds(1);
    const auto spinning = adopt("R6 adopt, spinning", kSpinning, &GpuHandoff::born_in_slots);
    const auto asleep = adopt("R6 adopt, asleep", Duration::zero(), &GpuHandoff::born_in_slots);
    (void)adopt("R6a adopt, no source changed", kSpinning, &GpuHandoff::publish_unchanged);
    const auto gathered = adopt("R7 gather and adopt", detail::kDefaultSpin, &GpuHandoff::publish);
    const auto streamed = load("R8 gather and load, batched copies", 2 * bytes + slots,
                               &GpuHandoff::stream, LoadBy::batch);
    const auto by_kernel =
        load("R8 gather and load, kernel", 2 * bytes + slots, &GpuHandoff::stream, LoadBy::kernel);
    (void)load("R9 unpacked, batched copies", 2 * bytes, &GpuHandoff::unpacked, LoadBy::batch);
    (void)load("R9 unpacked, kernel", 2 * bytes, &GpuHandoff::unpacked, LoadBy::kernel);
    const bool headline = options_.model == "qwen3-30b-a3b" && !options_.layers &&
                          options_.shrink == 1;  // what the targets in time are for
    figure("R6 adopt, spinning, p50", spinning, 1, "us", at_most(50));
    figure("R6 adopt, asleep, p50", asleep, 1, "us", at_most(200));
    figure("R7 gather and adopt, p50", gathered, 1e3, "ms", target(headline, 31));
    figure("R8 gather and load, batched copies, p50", streamed, 1e3, "ms", target(headline, 75));
    figure("R8 gather and load, kernel, p50", by_kernel, 1e3, "ms", target(headline, 75));
  }

 private:
  using TrainerBody = void (GpuHandoff::*)(Play&);

  [[nodiscard]] Layout plan_with_streamed_buckets() const {
    if (layout_.payload_bytes() < kStreamedBuckets * kStreamedBucket)
      return plan_with_buckets(gpu_parameters(options_), kStreamedBuckets);
    return plan(gpu_parameters(options_), {.bucket_bytes = kStreamedBucket});
  }
  static std::uint64_t largest_bucket(const Layout& layout) {
    std::uint64_t most = 0;
    for (std::size_t b = 0; b < layout.bucket_count(); ++b)
      most = std::max(most, layout.bucket_bytes(b));
    return most;
  }
  static std::optional<Target> target(bool headline, double value) {
    return headline ? std::optional(at_most(value)) : std::nullopt;
  }

  std::optional<Row> play(const std::string& name, std::uint64_t bytes,
                          const std::function<void(Play&)>& trainer,
                          const std::function<void(Play&)>& engine) {
    if (const auto why = too_large(options_, bytes, 2)) {
      report_.skip(name, *why);
      return std::nullopt;
    }
    Row row = Play(options_, name, layout_).run(trainer, engine);
    if (name.rfind("R6", 0) == 0) row.bytes = 0;  // none is moved
    report_.add(row);
    return row;
  }
  std::optional<Row> adopt(const std::string& name, Duration spin, TrainerBody trainer) {
    return play(
        name, 2 * layout_.payload_bytes(), [&](Play& p) { (this->*trainer)(p); },
        [&](Play& p) { follow_holding(p, options_, layout_, spin); });
  }
  std::optional<Row> load(const std::string& name, std::uint64_t bytes, TrainerBody trainer,
                          LoadBy how) {
    return play(
        name, bytes, [&](Play& p) { (this->*trainer)(p); }, [&](Play& p) { take_copies(p, how); });
  }
  void figure(const std::string& name, const std::optional<Row>& row, double divisor,
              const std::string& unit, std::optional<Target> target) {
    if (row) report_.add(Figure{name, row->samples.p50() / divisor, unit, target});
  }

  // --- The trainer's side ---

  [[nodiscard]] Publisher create(const Layout& layout, Mode mode) const {
    return Publisher::create(options_.publication(0), layout,
                             {.memory = cuda(*options_.device),
                              .mode = mode,
                              .slots = mode == Mode::streaming ? slots_of(layout) : 0});
  }
  static std::uint32_t slots_of(const Layout& layout) {
    return layout.bucket_count() > kStreamedSlots ? kStreamedSlots : 0;
  }

  void publish(Play& play) { lead_gathering(play, options_, layout_, true); }
  void publish_unchanged(Play& play) { lead_gathering(play, options_, layout_, false); }

  // Writing is not timed. What is written is gathered out of sources that tell what must be there.
  void born_in_slots(Play& play) {
    const GpuStream stream(*options_.device);
    GpuPayload payload(options_, layout_, Order::shuffled, stream);
    Publisher publisher = create(layout_, Mode::in_place);
    std::optional<Publisher::Update> update;
    const auto prepare = [&](std::uint64_t round) {
      payload.stamp(round);
      update.emplace(publisher.begin(stream));
      for (std::size_t b = 0; b < layout_.bucket_count(); ++b) {
        std::byte* const slot = update->open(b);
        const auto [first, last] = layout_.bucket_parameters(b);
        for (std::size_t i = first; i < last; ++i) {
          if (!layout_.tied_to(i))
            copy_on_device(slot + layout_[i].offset,
                           static_cast<const std::byte*>(payload.sources()[i].data),
                           layout_[i].bytes, stream);
        }
      }
      stream.synchronize();
      return payload.sums();
    };
    play.lead({prepare, [&] { seal_and_commit(update, layout_); }}, layout_.bucket_count());
  }
  static void seal_and_commit(std::optional<Publisher::Update>& update, const Layout& layout) {
    for (std::size_t b = 0; b < layout.bucket_count(); ++b) update->seal(b);
    update->commit();
    update.reset();
  }

  void stream(Play& play) {
    const GpuStream stream(*options_.device);
    GpuPayload payload(options_, streamed_, Order::shuffled, stream);
    Publisher publisher = create(streamed_, Mode::streaming);
    const auto prepare = [&](std::uint64_t round) {
      payload.stamp(round);
      return payload.sums();
    };
    const auto hand_over = [&] { publisher.publish(payload.sources(), stream, {.require = 1}); };
    play.lead({prepare, hand_over}, streamed_.bucket_count());
  }

  // As born_in_slots(), but the slots are the trainer's own allocations.
  void unpacked(Play& play) {
    const GpuStream stream(*options_.device);
    GpuPayload payload(options_, layout_, Order::as_planned, stream);
    const UnpackedPlan plan =
        plan_unpacked(gpu_parameters(options_), payload.sources(), {.device = *options_.device});
    Publisher publisher = Publisher::create(options_.publication(0), plan);
    std::optional<Publisher::Update> update;
    const auto prepare = [&](std::uint64_t round) {
      update.emplace(publisher.begin(stream));
      for (std::size_t b = 0; b < plan.layout.bucket_count(); ++b) (void)update->open(b);
      payload.stamp(round);
      return payload.sums();
    };
    play.lead({prepare, [&] { seal_and_commit(update, plan.layout); }}, plan.layout.bucket_count());
  }

  // --- The engine's side ---

  [[nodiscard]] Subscriber attach(Duration spin) const {
    AttachOptions attach_options;
    attach_options.deadline = kPatience;
    attach_options.spin = spin;
    return Subscriber::attach(options_.publication(0), attach_options);
  }

  void take_copies(Play& play, LoadBy how) {
    const GpuStream stream(*options_.device);
    const GpuStorage storage(layout_, Order::as_planned);
    GpuSums sums(*options_.device, layout_.size());
    play.await_publication();
    const std::uint64_t free_before = free_gpu_memory();
    Subscriber subscriber = attach(detail::kDefaultSpin);
    LoadPlan plan(subscriber.layout());
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      if (how == LoadBy::batch) plan.into(layout_[i].name, storage[i]);
      if (how == LoadBy::kernel) plan.into(layout_[i].name, storage[i], Into{});
    }
    (void)subscriber.join();
    const auto take = [&] { (void)subscriber.load(plan, stream, kPatience); };
    const auto look = [&] {
      return sums.take(
          layout_, [&](std::size_t i) { return storage[i]; }, stream);
    };
    play.follow({[&] { storage.poison(); }, take, look}, free_before);
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Layout streamed_;
};

}  // namespace

nlohmann::json run_gpu_handoff(const Options& options) {
  Report report("handoff", options);
  GpuHandoff(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
