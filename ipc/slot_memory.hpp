// The publisher's side of a memory kind: allocating slots that other processes can map.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <tenon/detail/memory.hpp>
#include <tenon/detail/segment.hpp>
#include <tenon/unpacked.hpp>
#include <vector>

namespace tenon::ipc {

/// (bytes done, bytes in all)
using Progress = std::function<void(std::uint64_t, std::uint64_t)>;

/// What a header says of the memory that its slots are in.
struct MemoryIdentity {
  MemoryKind kind = MemoryKind::host;
  std::array<std::uint8_t, 16> device_uuid{};
  std::uint32_t driver_version = 0;
  std::uint32_t runtime_version = 0;
};

/// Allocates, exports and frees the slots of one publication.
/// Errors:   allocate throws OutOfSpace, NotShareable, Cuda or SystemError and leaves nothing
///           behind.
/// Lifetime: the slots' bytes live while this object or a SlotPointer from pointer() does.
class SlotMemory {
 public:
  virtual ~SlotMemory() = default;
  [[nodiscard]] virtual MemoryIdentity identity() const { return {}; }
  /// The ordinal here of the GPU that the slots are on; 0 for host memory.
  [[nodiscard]] virtual int device() const { return 0; }
  /// Allocates slots of the given sizes (multiples of format::kSlotGranularity), resident and
  /// zeroed.
  virtual void allocate(const detail::Facts& facts, std::span<const std::uint64_t> sizes,
                        const Progress& progress) = 0;
  /// What subscribers need to map slot `i`.
  [[nodiscard]] virtual format::Slot describe(std::size_t i) const = 0;
  [[nodiscard]] virtual std::byte* data(std::size_t i) const = 0;
  /// Shared ownership of slot `i`, for subscribers in this very process.
  [[nodiscard]] virtual detail::SlotPointer pointer(std::size_t i) const = 0;
  /// Nobody can map them any more; existing mappings are not touched. Device memory cannot be
  /// withdrawn: a closed segment is what keeps newcomers away.
  virtual void withdraw() noexcept = 0;
  /// Whether other processes keep their bytes when this object goes. Otherwise it must not go
  /// before all of them are detached.
  [[nodiscard]] virtual bool outlived_by_readers() const { return true; }
  /// Never frees: somebody who did not let go in time may still be reading.
  virtual void keep_for_ever() noexcept {}
};

struct HostSlotOptions {
  unsigned threads = 1;
  int permissions = 0600;
};
[[nodiscard]] std::unique_ptr<SlotMemory> make_host_slots(const HostSlotOptions& options);

/// Slots in the memory of one GPU (its ordinal here); `own`: those that are the trainer's, empty
/// when none is. Throws Error(NoDevice), Error(NotShareable). Only in builds with CUDA.
[[nodiscard]] std::unique_ptr<SlotMemory> make_cuda_slots(int device,
                                                          std::vector<OwnSlot> own = {});

}  // namespace tenon::ipc
