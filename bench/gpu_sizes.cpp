// sizes on a GPU: the same bytes in 1 to 32,768 tensors, and the time as a·N + bytes / bandwidth
// (least squares over the medians), for the gather by kernel (R1) and by a copy per tensor (R1d),
// each beside one cudaMemcpyAsync of as many bytes (R0). What is timed and verified, and how:
// gpu_compare.hpp.
#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gpu.hpp"
#include "gpu_compare.hpp"
#include "gpu_payload.hpp"
#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

constexpr std::uint64_t kBytes = 4ULL << 30U;
constexpr std::uint64_t kManyTensors = 4096;
constexpr std::uint64_t kLeastTensor = 256;  // of which every size is a multiple: nothing is padded
constexpr const char* kMemcpy = "R0 one cudaMemcpyAsync";
constexpr const char* kKernel = "R1 gather, kernel";
constexpr const char* kCopies = "R1d gather, cudaMemcpyAsync each";

class GpuSizes {
 public:
  GpuSizes(const Options& options, Report& report)
      : options_(options), report_(report), bytes_(total_bytes(options)), stream_(*options.device) {
    report_.set_option("bytes", bytes_);
    report_.set_option("shrink", options_.shrink);
  }

  void run() {
    if (const auto why = too_large(options_, 2 * bytes_, 1)) return skip_all(*why);
    const std::optional<DeviceMemory> apart = comparison_.target(bytes_);
    report_.set_option("memcpy_into", apart ? "memory of its own" : "the slots, by bucket");
    for (const std::uint64_t tensors : kUniformTensors) measure(tensors, apart);
    add_line("R1", kernel_);
    add_line("R1d", copies_);
  }

 private:
  using Line = std::vector<std::pair<double, double>>;

  [[nodiscard]] static std::uint64_t total_bytes(const Options& options) {
    const std::uint64_t unit = kUniformTensors.back() * kLeastTensor;
    return std::max<std::uint64_t>(kBytes / options.shrink / unit, 1) * unit;
  }
  [[nodiscard]] static std::string named(const std::string& row, std::uint64_t tensors) {
    return fmt::format("{}, {} tensors", row, tensors);
  }

  void skip_all(const std::string& why) {
    for (const std::uint64_t tensors : kUniformTensors) {
      for (const char* row : {kMemcpy, kKernel, kCopies}) report_.skip(named(row, tensors), why);
    }
  }

  void measure(std::uint64_t tensors, const std::optional<DeviceMemory>& apart) {
    // One bucket, whatever N: launches are not what is compared.
    const Layout layout = uniform_model(tensors, {bytes_ / 2 / tensors}, {.bucket_bytes = bytes_});
    GpuPayload payload(options_, layout, GpuStorage::Order::shuffled, stream_);
    const auto compared = [&](const char* row, GatherMethod method) {
      const Way way{named(row, tensors), layout, method};
      say(way.name);
      return comparison_.run(way, payload, apart);
    };
    Compared kernel = compared(kKernel, GatherMethod::kernel);
    Compared copies = compared(kCopies, GatherMethod::memcpy);
    // One row of the memcpy beside either.
    Row& reference = kernel.reference;
    reference.name = named(kMemcpy, tensors);
    reference.wrong += copies.reference.wrong;
    for (const double us : copies.reference.samples.values()) reference.samples.add_us(us);
    reference.gpu["hbm_tb_per_s"] = hbm_tb_per_s(reference, 2);
    for (const Row* row : {&reference, &kernel.gather, &copies.gather}) report_.add(*row);
    kernel_.emplace_back(tensors, kernel.gather.samples.p50());
    copies_.emplace_back(tensors, copies.gather.samples.p50());
    if (tensors != 1 && tensors != kManyTensors) return;
    const double share = kernel.gather.gpu["share_of_memcpy"];
    report_.add(Figure{named("R1 gather, share of memcpy", tensors), share, ""});
  }

  void add_line(const std::string& row, const Line& line) {
    const auto [a, b] = line_through(line);
    report_.add(Figure{row + ": a, of a·N + bytes / bandwidth", a, "us"});
    report_.add(Figure{row + ": bandwidth of the same, read and written",
                       2 * static_cast<double>(bytes_) / 1e6 / b, "TB/s"});
  }

  const Options& options_;
  Report& report_;
  std::uint64_t bytes_;
  GpuStream stream_;
  GpuComparison comparison_{options_, stream_};
  Line kernel_;
  Line copies_;
};

}  // namespace

nlohmann::json run_gpu_sizes(const Options& options) {
  Report report("sizes", options);
  GpuSizes(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
