// gather on a GPU: Publisher::publish() into warm slots against one cudaMemcpyAsync of as many
// bytes (R0), by each way of gathering (R1), with a cast on the way (R2), by bucket size (R12).
// What is timed and verified, and how: gpu_compare.hpp.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <string>
#include <tenon/plan.hpp>
#include <utility>
#include <vector>

#include "gpu.hpp"
#include "gpu_compare.hpp"
#include "gpu_payload.hpp"
#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

using Order = GpuStorage::Order;

constexpr std::array<std::uint64_t, 5> kBucketSizes{16ULL << 20U, 64ULL << 20U, 256ULL << 20U,
                                                    1ULL << 30U, 4ULL << 30U};
constexpr std::uint64_t kSmallModel = 1ULL << 30U;

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
    std::optional<DeviceMemory> apart = comparison_.target(layout_.payload_bytes());
    report_.set_option("memcpy_into", apart ? "memory of its own" : "the slots, by bucket");
    for (const Way& way : ways) {
      const bool first = &way == &ways.front();
      say(way.name);
      auto [reference, gather] = comparison_.run(way, payload, apart);
      if (first) report_.add(reference);
      report_.add(gather);
      if (first) add_figures(reference, gather);
    }
  }

  // As many bytes of the layout out of sources that are twice as wide.
  void measure_cast() {
    const std::string name = "R2 gather and cast f32 to bf16, kernel";
    const std::uint64_t bytes = layout_.payload_bytes();
    if (const auto why = too_large(options_, 3 * bytes, 1)) return report_.skip(name, *why);
    say(name);
    GpuPayload payload(options_, layout_, Order::shuffled, stream_, Dtype::f32);
    const std::optional<DeviceMemory> apart;
    auto [reference, gather] = comparison_.run({name, layout_}, payload, apart);
    // Six bytes moved for two of the layout, where the memcpy moves four.
    const double share = 1.5 * paired_speed(reference.samples, gather.samples);
    gather.gpu["share_of_memcpy"] = share;
    gather.gpu["hbm_tb_per_s"] = hbm_tb_per_s(gather, 3);
    report_.add(gather);
    report_.add(Figure{"R2 fused cast, share of the bytes' floor", share, "", at_least(0.9)});
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

  const Options& options_;
  Report& report_;
  Layout layout_;
  GpuStream stream_;
  GpuComparison comparison_{options_, stream_};
};

}  // namespace

nlohmann::json run_gpu_gather(const Options& options) {
  Report report("gather", options);
  GpuGather(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
