// gather on a GPU: Publisher::publish() into warm slots against one cudaMemcpyAsync of as many
// bytes (R0), by each way of gathering (R1), with a cast on the way (R2), by bucket size (R12).
//
// Timed: the GPU's time by events around what publish() enqueues on the caller's stream, among it
// the host function that makes the version current; the host's time of the call in `host_us_p50`.
// In every round the memcpy and the publish take turns at going first. Every source gets new bytes
// before each round, and the checksums of all slots are compared after it, outside the timed part.
//
// Where sources, slots and a destination of its own for the memcpy do not fit, it goes into the
// slots, one copy per bucket.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <tenon/plan.hpp>
#include <utility>
#include <vector>

#include "gpu.hpp"
#include "gpu_calls.hpp"
#include "gpu_payload.hpp"
#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

using Order = GpuStorage::Order;

constexpr std::array<std::uint64_t, 5> kBucketSizes{16ULL << 20U, 64ULL << 20U, 256ULL << 20U,
                                                    1ULL << 30U, 4ULL << 30U};
constexpr std::uint64_t kSmallModel = 1ULL << 30U;

/// One way of gathering.
struct Way {
  std::string name;
  Layout layout;
  GatherMethod method = GatherMethod::kernel;
};

class GpuGather {
 public:
  GpuGather(const Options& options, Report& report)
      : options_(options), report_(report), layout_(gpu_layout(options)), stream_(*options.device) {
    report_.set_option("model", gpu_model(options_, layout_));
  }

  void run() {
    const std::vector<Way> ways = all_ways();
    const std::uint64_t bytes = layout_.payload_bytes();
    if (const auto why = too_large(options_, 2 * bytes, 1)) {
      report_.skip("R0 one cudaMemcpyAsync", *why);
      for (const Way& way : ways) report_.skip(way.name, *why);
    } else {
      measure(ways);
    }
    measure_cast();
  }

 private:
  [[nodiscard]] std::vector<Way> all_ways() const {
    std::vector<Way> ways{{"R1 gather, kernel", layout_},
                          {"R1c gather, CUB", layout_, GatherMethod::cub},
                          {"R1d gather, cudaMemcpyAsync each", layout_, GatherMethod::memcpy}};
    const std::vector<Parameter> parameters = gpu_parameters(options_);
    for (const std::uint64_t size : bucket_sizes())
      ways.push_back({fmt::format("R12 gather, buckets of {}", size_text(size)),
                      plan(parameters, {.bucket_bytes = size})});
    return ways;
  }
  [[nodiscard]] std::vector<std::uint64_t> bucket_sizes() const {
    const std::uint64_t bytes = layout_.payload_bytes();
    std::vector<std::uint64_t> sizes;
    if (bytes >= kSmallModel) {
      std::copy_if(kBucketSizes.begin(), kBucketSizes.end(), std::back_inserter(sizes),
                   [&](std::uint64_t size) { return size < bytes; });
    } else {
      for (const std::uint64_t share : {64U, 16U, 4U, 1U})
        sizes.push_back(format::round_up(bytes / share, 4096));
    }
    return sizes;
  }

  void measure(const std::vector<Way>& ways) {
    GpuPayload payload(options_, layout_, Order::shuffled, stream_);
    std::optional<DeviceMemory> apart = target();
    report_.set_option("memcpy_into", apart ? "memory of its own" : "the slots, by bucket");
    for (const Way& way : ways) {
      const bool first = &way == &ways.front();
      say(way.name);
      auto [reference, gather] = compare(way, payload, apart);
      if (first) report_.add(reference);
      report_.add(gather);
      if (first) add_figures(reference, gather);
    }
  }
  [[nodiscard]] std::optional<DeviceMemory> target() const {
    const std::uint64_t bytes = layout_.payload_bytes();
    if (too_large(options_, 3 * bytes + bytes / 8, 1)) return std::nullopt;
    return std::optional<DeviceMemory>(std::in_place, bytes);
  }

  // As many bytes of the layout out of sources that are twice as wide.
  void measure_cast() {
    const std::string name = "R2 gather and cast f32 to bf16, kernel";
    const std::uint64_t bytes = layout_.payload_bytes();
    if (const auto why = too_large(options_, 3 * bytes, 1)) return report_.skip(name, *why);
    say(name);
    GpuPayload payload(options_, layout_, Order::shuffled, stream_, Dtype::f32);
    const std::optional<DeviceMemory> apart;
    auto [reference, gather] = compare({name, layout_}, payload, apart);
    // Six bytes moved for two of the layout, where the memcpy moves four.
    const double share = 1.5 * paired_speed(reference.samples, gather.samples);
    gather.gpu["share_of_memcpy"] = share;
    gather.gpu["hbm_tb_per_s"] = hbm_tb_per_s(gather, 3);
    report_.add(gather);
    report_.add(Figure{"R2 fused cast, share of the bytes' floor", share, "", at_least(0.9)});
  }

  struct Compared {
    Row reference;
    Row gather;
  };

  Compared compare(const Way& way, GpuPayload& payload, const std::optional<DeviceMemory>& apart) {
    const std::uint64_t free_before = free_gpu_memory();
    Publisher publisher = Publisher::create(
        options_.publication(0), way.layout,
        {.memory = cuda(*options_.device), .mode = Mode::in_place, .gather = way.method});
    const std::vector<std::byte*> slots = poisoned_slots(publisher);
    const bool casts = payload.sources()[0].dtype != way.layout[0].dtype;
    GpuSums sums(*options_.device, way.layout.size());
    Row reference = row("R0 one cudaMemcpyAsync");
    Row gather = row(way.name);
    Samples host;
    const std::size_t warm_up = options_.warm_up(kGpuWarmUp);
    const std::size_t rounds = warm_up + options_.samples(kGpuRounds);
    for (std::size_t round = 0; round < rounds; ++round) {
      payload.stamp(round + 1);
      const auto copy = [&] {
        const double us = time([&] { copy_all(payload, slots, way.layout, apart); });
        if (round >= warm_up) reference.samples.add_us(us);
      };
      if (round % 2 == 0) copy();
      publish(publisher, payload, gather, host, round >= warm_up);
      // Into the slots it goes only while they are nobody's; now they are to be compared.
      if (!casts || round + 1 == rounds) gather.wrong += wrong_in(publisher, payload.sums(), sums);
      if (round % 2 == 1) copy();
      if (apart) reference.wrong += wrong_copy(payload, *apart);
      if (round == 0) note_memory(gather, publisher, free_before);
    }
    gather.gpu["host_us_p50"] = host.p50();
    gather.gpu["buckets"] = way.layout.bucket_count();
    gather.gpu["share_of_memcpy"] = paired_speed(reference.samples, gather.samples);
    gather.gpu["hbm_tb_per_s"] = hbm_tb_per_s(gather, 2);
    reference.gpu["hbm_tb_per_s"] = hbm_tb_per_s(reference, 2);
    return {std::move(reference), std::move(gather)};
  }

  void publish(Publisher& publisher, const GpuPayload& payload, Row& gather, Samples& host,
               bool counts) {
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    std::optional<std::uint64_t> calls;
    const double us = time([&] {
      const auto before = cuda_calls();
      from = monotonic_ns();
      publisher.publish(payload.sources(), stream_);
      to = monotonic_ns();
      if (before) calls = *cuda_calls() - *before;
    });
    if (!counts) return;
    gather.samples.add_us(us);
    host.add_ns(from, to);
    if (calls) gather.gpu["cuda_calls_per_step"] = *calls;
  }

  double time(const std::function<void()>& work) {
    timer_.begin(stream_);
    work();
    timer_.end(stream_);
    const double us = timer_.microseconds();
    stream_.synchronize();
    return us;
  }

  void copy_all(const GpuPayload& payload, const std::vector<std::byte*>& slots,
                const Layout& layout, const std::optional<DeviceMemory>& apart) const {
    if (apart) return copy_on_device(apart->data(), payload.block(), apart->bytes(), stream_);
    const std::byte* from = payload.block();
    for (std::size_t b = 0; b < slots.size(); ++b) {
      copy_on_device(slots[b], from, layout.bucket_bytes(b), stream_);
      from += layout.bucket_bytes(b);
    }
  }

  // Where the buckets lie; nobody is attached.
  std::vector<std::byte*> poisoned_slots(Publisher& publisher) const {
    std::vector<std::byte*> slots;
    Publisher::Update update = publisher.begin(stream_);
    for (std::size_t b = 0; b < publisher.layout().bucket_count(); ++b) {
      slots.push_back(update.open(b));
      detail::cuda::check(
          cudaMemsetAsync(slots.back(), 0xA5, publisher.layout().bucket_bytes(b), stream_.get()),
          "cudaMemsetAsync");
    }
    stream_.synchronize();
    update.abort();
    return slots;
  }

  std::uint64_t wrong_in(Publisher& publisher, const std::vector<std::uint64_t>& expected,
                         GpuSums& sums) const {
    const Layout& layout = publisher.layout();
    return count_different(
        expected,
        sums.take(
            layout, [&](std::size_t i) { return publisher.storage(layout[i].name); }, stream_));
  }

  // One sum over each whole block.
  std::uint64_t wrong_copy(const GpuPayload& payload, const DeviceMemory& apart) {
    const std::array<device::ChecksumItem, 2> both{
        {{payload.block(), apart.bytes()}, {apart.data(), apart.bytes()}}};
    const std::vector<std::uint64_t> sums = block_sums_.take(both, stream_);
    return sums[0] == sums[1] ? 0 : 1;
  }

  static void note_memory(Row& gather, const Publisher& publisher, std::uint64_t free_before) {
    gather.gpu["extra_gpu_bytes"] = static_cast<std::int64_t>(free_before - free_gpu_memory()) -
                                    static_cast<std::int64_t>(publisher.slot_bytes());
  }
  static double hbm_tb_per_s(const Row& row, double moved_per_byte) {
    return moved_per_byte * static_cast<double>(row.bytes) / 1e6 / row.samples.p50();
  }

  void add_figures(const Row& reference, const Row& gather) {
    const double share = paired_speed(reference.samples, gather.samples);
    const bool small = options_.model == "llama-3.2-1b";
    report_.add(Figure{"R1 gather, share of memcpy", share, "", at_least(small ? 0.90 : 0.95)});
    if (!gather.gpu.contains("cuda_calls_per_step")) return;
    const double calls = gather.gpu["cuda_calls_per_step"];
    report_.add(Figure{"R1 CUDA calls per step", calls, "",
                       at_most(4.0 * static_cast<double>(layout_.bucket_count()) + 4)});
  }

  [[nodiscard]] Row row(std::string name) const {
    return {.name = std::move(name), .bytes = layout_.payload_bytes(), .tensors = layout_.size()};
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  GpuStream stream_;
  GpuTimer timer_;
  GpuSums block_sums_{*options_.device, 2};
};

}  // namespace

nlohmann::json run_gpu_gather(const Options& options) {
  Report report("gather", options);
  GpuGather(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
