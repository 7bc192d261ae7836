// Publisher::publish() into warm slots against one cudaMemcpyAsync of as many bytes (R0).
//
// Timed: the GPU's time by events around what publish() enqueues on the caller's stream (the host
// function that makes the version current has one of its own); the host's time of the call in
// `host_us_p50`. In every round the memcpy and the publish take turns at going first. Every source
// gets new bytes before each round, and the checksums of all slots are compared after it, outside
// the timed part.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gpu.hpp"
#include "gpu_payload.hpp"
#include "report.hpp"

namespace tenon::bench {

/// One way of gathering.
struct Way {
  std::string name;
  Layout layout;
  GatherMethod method = GatherMethod::kernel;
};

/// The memcpy and the publish of one way.
struct Compared {
  Row reference;
  Row gather;
};

class GpuComparison {
 public:
  GpuComparison(const Options& options, const GpuStream& stream)
      : options_(options), stream_(stream), piece_sums_(*options.device, kPieces) {}

  /// Where R0 copies `bytes` to. Nothing where sources, slots and it do not fit: then it goes into
  /// the slots, one copy per bucket.
  [[nodiscard]] std::optional<DeviceMemory> target(std::uint64_t bytes) const;
  /// `apart`: of as many bytes as the layout's, or nothing.
  [[nodiscard]] Compared run(const Way& way, GpuPayload& payload,
                             const std::optional<DeviceMemory>& apart);

 private:
  static constexpr std::size_t kPieces = 64;  // that R0's copy is compared in

  void publish(Publisher& publisher, const GpuPayload& payload, Row& gather, Samples& host,
               bool counts);
  [[nodiscard]] double time(const std::function<void()>& work);
  void copy_all(const GpuPayload& payload, const std::vector<std::byte*>& slots,
                const Layout& layout, const std::optional<DeviceMemory>& apart) const;
  std::vector<std::byte*> poisoned_slots(Publisher& publisher) const;
  std::uint64_t wrong_in(Publisher& publisher, const std::vector<std::uint64_t>& expected,
                         GpuSums& sums) const;
  std::uint64_t wrong_copy(const GpuPayload& payload, const DeviceMemory& apart);

  const Options& options_;
  const GpuStream& stream_;
  GpuTimer timer_;
  GpuSums piece_sums_;
};

/// Bytes read and written by time; `moved_per_byte` of the payload.
[[nodiscard]] double hbm_tb_per_s(const Row& row, double moved_per_byte);

}  // namespace tenon::bench
