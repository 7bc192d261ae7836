#include "gpu_exchange.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <utility>

#include "gpu_calls.hpp"
#include "gpu_payload.hpp"

namespace tenon::bench {

using namespace std::chrono_literals;

Play::Play(const Options& options, std::string name, const Layout& layout)
    : options_(options),
      name_(std::move(name)),
      layout_(layout),
      expected_(layout.size() * sizeof(std::uint64_t)) {}

Row Play::run(const std::function<void(Play&)>& trainer, const std::function<void(Play&)>& engine) {
  say(name_);
  Family family;
  family.fork([&] { trainer(*this); });
  family.fork([&] { engine(*this); });
  family.join(kGpuPatience);
  Row row{.name = name_,
          .bytes = layout_.payload_bytes(),
          .tensors = layout_.size(),
          .samples = exchange_->end_to_end.samples(),
          .wrong = exchange_->wrong};
  row.gpu = {{"host_us_p50", exchange_->host.samples().p50()},
             {"buckets", exchange_->buckets},
             {"extra_gpu_bytes_engine", exchange_->engine_extra}};
  if (exchange_->counted) {
    row.gpu["cuda_calls_per_step"] = exchange_->trainer_calls;
    row.gpu["cuda_calls_per_step_engine"] = exchange_->engine_calls;
  }
  return row;
}

void Play::lead(const Lead& lead, std::uint64_t buckets) {
  Exchange& x = *exchange_;
  x.buckets = buckets;
  x.ready.set(1);
  for (std::uint64_t round = 1; round <= rounds(); ++round) {
    const std::vector<std::uint64_t> sums = lead.prepare(round);
    std::copy(sums.begin(), sums.end(), reinterpret_cast<std::uint64_t*>(expected_.data()));
    x.go.set(round);
    x.armed.await(round);
    std::this_thread::sleep_for(1ms);  // it is in its wait, or asleep there
    const auto calls = cuda_calls();
    const std::uint64_t from = monotonic_ns();
    lead.hand_over();
    const std::uint64_t back = monotonic_ns();
    if (calls) x.trainer_calls = *cuda_calls() - *calls;
    x.counted = calls.has_value();
    x.usable.await(round);
    x.check.set(round);
    x.done.await(round);
    if (round <= warm_up()) continue;
    x.end_to_end.add_ns(from, x.usable_at);
    x.host.add_ns(from, back);
  }
}

void Play::follow(const Follow& follow, std::uint64_t free_before) {
  Exchange& x = *exchange_;
  const std::span expected(reinterpret_cast<const std::uint64_t*>(expected_.data()),
                           layout_.size());
  for (std::uint64_t round = 1; round <= rounds(); ++round) {
    x.go.await(round);
    follow.arm();
    x.armed.set(round);
    const auto calls = cuda_calls();
    follow.take();
    x.usable_at = monotonic_ns();
    if (calls) x.engine_calls = *cuda_calls() - *calls;
    x.usable.set(round);
    x.check.await(round);
    if (round == 1) x.engine_extra = static_cast<std::int64_t>(free_before - free_gpu_memory());
    x.wrong += count_different(expected, follow.look());
    x.done.set(round);
  }
}

void lead_gathering(Play& play, const Options& options, const Layout& layout, bool changed) {
  const GpuStream stream(*options.device);
  GpuPayload payload(options, layout, GpuStorage::Order::shuffled, stream);
  Publisher publisher =
      Publisher::create(options.publication(0), layout, {.memory = tenon::cuda(*options.device)});
  const std::vector<Source> unchanged = payload.unchanged();
  bool gathers = true;
  const auto prepare = [&](std::uint64_t round) {
    gathers = changed || round == 1;
    if (gathers) payload.stamp(round);
    return payload.sums();
  };
  const auto hand_over = [&] {
    publisher.publish(gathers ? payload.sources() : unchanged, stream, {.require = 1});
  };
  play.lead({prepare, hand_over}, layout.bucket_count());
}

void follow_holding(Play& play, const Options& options, const Layout& layout, Duration spin) {
  const GpuStream stream(*options.device);
  play.await_publication();
  const std::uint64_t free_before = free_gpu_memory();
  Subscriber subscriber =
      Subscriber::attach(options.publication(0), {.deadline = kPatience, .spin = spin});
  std::optional<GpuSums> sums;
  std::optional<Lease> lease;
  std::uint64_t version = 0;
  const std::string last_name(layout[layout.size() - 1].name);
  const volatile std::byte* view = nullptr;
  const auto take = [&] {
    lease = subscriber.wait(newer_than(version), kPatience);
    view = (*lease)[last_name].data();
  };
  const auto look = [&] {
    if (!sums) sums.emplace(*options.device, layout.size());
    version = lease->version();
    auto got = sums->take(
        layout, [&](std::size_t i) { return (*lease)[i].data(); }, stream);
    lease.reset();
    return got;
  };
  play.follow({[] {}, take, look}, free_before);
}

}  // namespace tenon::bench
