// relay: what handing on to other nodes costs. The parts: relay_throughput.cpp, relay_crash.cpp.
#include <nlohmann/json.hpp>
#include <string>
#include <tenon/plan.hpp>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "payload.hpp"
#include "relay_parts.hpp"

namespace tenon::bench {
namespace {

constexpr const char* kModel = "qwen3-30b-a3b";  // many parameters
constexpr std::uint64_t kDivisor = 4;
constexpr std::uint32_t kLayers = 2;
constexpr std::uint64_t kBucketBytes = 16ULL << 20U;

}  // namespace

Layout relayed_layout(const Options& options) {
  const std::uint64_t divisor = kDivisor * options.shrink;
  return plan(scaled_model(kModel, divisor, options.layers.value_or(kLayers)),
              {.bucket_bytes = kBucketBytes / (options.shrink * options.shrink)});
}

std::vector<std::string> rates(const Options& options) {
  std::vector<std::string> all{"0"};
  if (options.rate != "0") all.push_back(options.rate);
  return all;
}

nlohmann::json run_relay(const Options& options) {
  Report report("relay", options);
  const Layout layout = relayed_layout(options);
  report.set_option("model", kModel);
  report.set_option("layers", options.layers.value_or(kLayers));
  report.set_option("dimensions_divided_by", kDivisor * options.shrink);
  report.set_option("buckets", layout.bucket_count());
  report.set_option("bucket_bytes", layout.bucket_bytes(0));
  report.set_option("rate", options.rate);
  for (const std::string& rate : rates(options)) {
    measure_throughput(options, rate, report);
    measure_crash(options, rate, report);
  }
  for (const char* row : {"R11 NCCL broadcast per bucket",
                          "R11a NCCL broadcast per parameter, sampled", "R7 gather and adopt"})
    report.skip(row, "it is about GPU memory: --memory cuda");
  return std::move(report).json();
}

}  // namespace tenon::bench
