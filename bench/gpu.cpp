#include "gpu.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <tenon/plan.hpp>

#include "gpu_calls.hpp"
#include "payload.hpp"

namespace tenon::bench {
namespace {

namespace cuda = detail::cuda;

constexpr std::size_t kFewBuckets = 8;
constexpr std::uint64_t kContextBytes = 640ULL << 20U;

double gib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(1ULL << 30U);
}

}  // namespace

DeviceMemory::DeviceMemory(std::uint64_t bytes) : bytes_(bytes) {
  cuda::check(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::uint64_t>(bytes, 1)),
              "cudaMalloc");
}
DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) (void)cuda::forgotten(cudaFree(data_));
}
void DeviceMemory::poison() const {
  cuda::check(cudaMemset(data_, 0xA5, bytes_), "cudaMemset");
  cuda::check(cudaDeviceSynchronize(), "poisoning");
}

GpuStream::GpuStream(int device) {
  const int count = cuda::device_count();
  if (device >= count)
    throw Error(Errc::NoDevice, fmt::format("there is no device {}: {} can be seen here (host "
                                            "memory needs no GPU)",
                                            device, count));
  cuda::check(cudaSetDevice(device), "cudaSetDevice");
  cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
              "cudaStreamCreateWithFlags");
}
GpuStream::~GpuStream() { (void)cuda::forgotten(cudaStreamDestroy(stream_)); }
void GpuStream::synchronize() const {
  cuda::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

GpuTimer::GpuTimer() {
  cuda::check(cudaEventCreate(&begin_), "cudaEventCreate");
  cuda::check(cudaEventCreate(&end_), "cudaEventCreate");
}
GpuTimer::~GpuTimer() {
  (void)cuda::forgotten(cudaEventDestroy(begin_));
  (void)cuda::forgotten(cudaEventDestroy(end_));
}
void GpuTimer::begin(const GpuStream& stream) {
  cuda::check(cudaEventRecord(begin_, stream.get()), "cudaEventRecord");
}
void GpuTimer::end(const GpuStream& stream) {
  cuda::check(cudaEventRecord(end_, stream.get()), "cudaEventRecord");
}
double GpuTimer::microseconds() {
  float ms = 0;
  cuda::check(cudaEventSynchronize(end_), "cudaEventSynchronize");
  cuda::check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
  return double{ms} * 1e3;
}

std::uint64_t free_gpu_memory() {
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  cuda::check(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
  return free_bytes;
}

void copy_on_device(std::byte* to, const std::byte* from, std::uint64_t bytes,
                    const GpuStream& stream) {
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream.get()),
              "cudaMemcpyAsync");
}

std::vector<Parameter> gpu_parameters(const Options& options) {
  return scaled_model(options.model, options.shrink, options.layers);
}

Layout gpu_layout(const Options& options) {
  const std::vector<Parameter> parameters = gpu_parameters(options);
  Layout layout = plan(parameters);
  return layout.bucket_count() >= kFewBuckets ? layout : plan_with_buckets(parameters, kFewBuckets);
}

std::optional<std::string> too_large(const Options& options, std::uint64_t bytes,
                                     unsigned processes) {
  const std::uint64_t context = std::min(kContextBytes, options.gpu_memory / 64);
  if (bytes + processes * context <= options.gpu_memory) return std::nullopt;
  return fmt::format("needs {:.2f} GiB of GPU memory beside {} contexts, {:.2f} GiB are free",
                     gib(bytes), processes, gib(options.gpu_memory));
}

nlohmann::json gpu_model(const Options& options, const Layout& layout) {
  return {{"model", options.model},
          {"layers", options.layers ? nlohmann::json(*options.layers) : nlohmann::json("all")},
          {"shrink", options.shrink},
          {"tensors", layout.size()},
          {"bytes", layout.payload_bytes()},
          {"buckets", layout.bucket_count()}};
}

std::string size_text(std::uint64_t bytes) {
  if (bytes >= 1ULL << 30U && bytes % (1ULL << 30U) == 0)
    return fmt::format("{} GiB", bytes >> 30U);
  if (bytes >= 1ULL << 20U && bytes % (1ULL << 20U) == 0)
    return fmt::format("{} MiB", bytes >> 20U);
  return fmt::format("{} B", bytes);
}

nlohmann::json describe_gpu(const Options& options) {
  const GpuStream stream(*options.device);
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, *options.device), "cudaGetDeviceProperties");
  int driver = 0;
  int runtime = 0;
  cuda::check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  cuda::check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return {{"name", std::string(properties.name)},
          {"uuid", detail::device_text(cuda::uuid_of(*options.device))},
          {"simulated", cuda_calls().has_value()},
          {"driver", driver},
          {"runtime", runtime},
          {"compute_capability", fmt::format("{}.{}", properties.major, properties.minor)},
          {"multiprocessors", properties.multiProcessorCount},
          {"clock_khz", cuda::attribute(cudaDevAttrClockRate, *options.device)},
          {"memory_clock_khz", cuda::attribute(cudaDevAttrMemoryClockRate, *options.device)},
          {"memory_bytes", properties.totalGlobalMem},
          {"free_bytes", free_gpu_memory()}};
}

}  // namespace tenon::bench
