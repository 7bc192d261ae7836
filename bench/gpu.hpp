// What the GPU rows share: memory, streams and timers that clean up, and which model fits.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tenon/cuda.hpp>
#include <tenon/publisher.hpp>
#include <vector>

#include "options.hpp"
#include "samples.hpp"

namespace tenon::bench {

inline constexpr std::size_t kGpuWarmUp = 3;
inline constexpr std::size_t kGpuRounds = 30;
/// Whatever children of a GPU row do ends by then.
inline constexpr std::chrono::minutes kGpuPatience{10};

/// An allocation of its own.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::uint64_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  ~DeviceMemory();
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// Fills it with bytes that no source has throughout.
  void poison() const;

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_;
};

/// A stream that waits for no other. Making it makes the device current, and its context.
class GpuStream {
 public:
  explicit GpuStream(int device);
  GpuStream(const GpuStream&) = delete;
  GpuStream& operator=(const GpuStream&) = delete;
  ~GpuStream();
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }
  operator Stream() const noexcept { return Stream(stream_); }  // NOLINT: as cudaStream_t does
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// GPU time between two places in a stream.
class GpuTimer {
 public:
  GpuTimer();
  GpuTimer(const GpuTimer&) = delete;
  GpuTimer& operator=(const GpuTimer&) = delete;
  ~GpuTimer();
  void begin(const GpuStream& stream);
  void end(const GpuStream& stream);
  /// Waits for the end.
  [[nodiscard]] double microseconds();

 private:
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

/// Free bytes of the current device.
[[nodiscard]] std::uint64_t free_gpu_memory();
/// Copies within the device, in stream order.
void copy_on_device(std::byte* to, const std::byte* from, std::uint64_t bytes,
                    const GpuStream& stream);

/// The model of the GPU rows, as the options have it.
[[nodiscard]] std::vector<Parameter> gpu_parameters(const Options& options);
/// Its layout with the default bucket size, or in 8 buckets when those are smaller.
[[nodiscard]] Layout gpu_layout(const Options& options);

/// Why `bytes` on the GPU and contexts of so many processes do not fit; nothing when they do.
[[nodiscard]] std::optional<std::string> too_large(const Options& options, std::uint64_t bytes,
                                                   unsigned processes);

/// Names the model and its layout in a report's options.
[[nodiscard]] nlohmann::json gpu_model(const Options& options, const Layout& layout);
/// "2 MiB", "1 GiB", or bytes.
[[nodiscard]] std::string size_text(std::uint64_t bytes);

}  // namespace tenon::bench
