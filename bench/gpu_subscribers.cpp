// subscribers on a GPU (R15): what one more subscriber costs publish() of a publication in GPU
// memory, as subscribers.cpp measures it. Each process has a context of its own and opens the
// slots; what it has is compared by checksums taken on the GPU.
#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "child.hpp"
#include "gpu.hpp"
#include "gpu_payload.hpp"
#include "subscribers_parts.hpp"

namespace tenon::bench {
namespace {

constexpr std::size_t kRounds = 300;

/// One process's use of the GPU.
struct Trainer {
  Trainer(const Options& options, const Layout& layout)
      : stream(*options.device),
        payload(options, layout, GpuStorage::Order::shuffled, stream),
        unchanged(payload.unchanged()) {}
  GpuStream stream;
  GpuPayload payload;
  std::vector<Source> unchanged;
};
struct Engine {
  Engine(const Options& options, const Layout& layout)
      : stream(*options.device), sums(*options.device, layout.size()) {}
  GpuStream stream;
  GpuSums sums;
};

class GpuSubscribers {
 public:
  GpuSubscribers(const Options& options, const Layout& layout)
      : options_(options), layout_(layout), expected_(layout.size() * sizeof(std::uint64_t)) {}

  [[nodiscard]] SubscribersMemory memory() {
    return {.publication = {.memory = cuda(*options_.device), .mode = Mode::in_place},
            .subscribers = {1, 2, 4, 8},
            .rounds = kRounds,
            .publisher = [this] { return publisher(); },
            .subscriber = [this] { return subscriber(); }};
  }

 private:
  // Where the publisher leaves the checksums for all, before its first version.
  [[nodiscard]] std::span<std::uint64_t> expected() const {
    return {reinterpret_cast<std::uint64_t*>(expected_.data()), layout_.size()};
  }

  SubscribersMemory::Publish publisher() {
    const auto trainer = std::make_shared<Trainer>(options_, layout_);
    trainer->payload.stamp(1);
    std::ranges::copy(trainer->payload.sums(), expected().begin());
    return [trainer, first = true](Publisher& publication, const PublishOptions& how) mutable {
      const bool gathers = std::exchange(first, false);
      publication.publish(gathers ? trainer->payload.sources() : trainer->unchanged,
                          trainer->stream, how);
    };
  }

  SubscribersMemory::CountWrong subscriber() {
    const auto engine = std::make_shared<Engine>(options_, layout_);
    return [this, engine](const Lease& lease) {
      const auto data_of = [&](std::size_t i) { return lease[i].data(); };
      return count_different(expected(), engine->sums.take(layout_, data_of, engine->stream));
    };
  }

  const Options& options_;
  const Layout& layout_;
  SharedBytes expected_;
};

}  // namespace

nlohmann::json run_gpu_subscribers(const Options& options) {
  Report report("subscribers", options);
  const Layout layout = subscribers_layout(report);
  GpuSubscribers subscribers(options, layout);
  const SubscribersMemory memory = subscribers.memory();
  const unsigned processes = memory.subscribers.back() + 1;
  if (const auto why = too_large(options, 2 * layout.payload_bytes(), processes))
    report.skip("R15 publish()", *why);
  else
    measure_subscribers(options, report, layout, memory);
  return std::move(report).json();
}

}  // namespace tenon::bench
