// Random bytes on a GPU, and checksums taken there: what the GPU rows publish and verify.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <tenon/layout.hpp>
#include <tenon/publisher.hpp>
#include <vector>

#include "device_buffer.hpp"
#include "device_kernels.hpp"
#include "gpu.hpp"

namespace tenon::bench {

/// Checksums of up to `capacity` runs of bytes at once.
class GpuSums {
 public:
  GpuSums(int device, std::size_t capacity) : items_(device, capacity), sums_(device, capacity) {}
  [[nodiscard]] std::vector<std::uint64_t> take(std::span<const device::ChecksumItem> items,
                                                const GpuStream& stream);
  /// Of every parameter, wherever `data_of(i)` says it is.
  [[nodiscard]] std::vector<std::uint64_t> take(
      const Layout& layout, const std::function<const std::byte*(std::size_t)>& data_of,
      const GpuStream& stream);

 private:
  device::Mirrored<device::ChecksumItem> items_;
  device::Mirrored<std::uint64_t> sums_;
};

/// How many of the sums differ.
[[nodiscard]] std::uint64_t count_different(std::span<const std::uint64_t> expected,
                                            std::span<const std::uint64_t> got) noexcept;

/// Room for a model's parameters on a GPU.
class GpuStorage {
 public:
  enum class Order {
    as_planned,  ///< one allocation, in the order of the layout
    shuffled,    ///< one allocation
    apart,       ///< an allocation each, of whole 2 MiB, which is what CUDA shares
  };
  /// `factor`: bytes of a parameter here for one in the layout.
  GpuStorage(const Layout& layout, Order order, std::uint64_t factor = 1);
  [[nodiscard]] std::byte* operator[](std::size_t i) const noexcept { return places_[i]; }
  /// Fills it with bytes that no source has throughout.
  void poison() const;
  /// GPU memory that it takes.
  [[nodiscard]] static std::uint64_t bytes(const Layout& layout, Order order,
                                           std::uint64_t factor = 1);

 private:
  std::vector<DeviceMemory> allocations_;
  std::vector<std::byte*> places_;
};

/// A trainer's parameters.
///
/// Every 64 KiB of a parameter begin with a stamp of 8 bytes that depends on the version, so that a
/// version which was not handed over, or only in part, does not pass for the next one.
class GpuPayload {
 public:
  /// `dtype`: what the trainer keeps, when it is another than the layout's (as wide or twice).
  GpuPayload(const Options& options, const Layout& layout, GpuStorage::Order order,
             const GpuStream& stream, std::optional<Dtype> dtype = {});

  /// Makes this the data of `version`; done on return.
  void stamp(std::uint64_t version);
  [[nodiscard]] const std::vector<Source>& sources() const noexcept { return sources_; }
  [[nodiscard]] std::vector<Source> unchanged() const;
  /// Checksums of what a reader must see: of the sources, cast if they are to be.
  [[nodiscard]] std::vector<std::uint64_t> sums();
  /// One block of at least layout.payload_bytes() bytes; not for Order::apart.
  [[nodiscard]] const std::byte* block() const noexcept { return block_; }

 private:
  void fill();
  void plan_stamps();
  [[nodiscard]] std::vector<std::uint64_t> sums_of_casts() const;

  int device_;
  const GpuStream& stream_;
  Layout layout_;
  std::uint64_t factor_;
  GpuStorage storage_;
  const std::byte* block_;
  std::vector<Source> sources_;
  GpuSums sums_;
  device::Mirrored<std::uint64_t> words_;  ///< a stamp per parameter
  device::Mirrored<CopyItem> stamps_;      ///< where they go
  std::size_t stamp_items_ = 0;
  std::uint64_t stamp_bytes_ = 0;
};

}  // namespace tenon::bench
