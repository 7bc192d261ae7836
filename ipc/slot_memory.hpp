// The publisher's side of a memory kind: allocating slots that other processes can map.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <tenon/detail/memory.hpp>
#include <tenon/detail/segment.hpp>
#include <vector>

namespace tenon::ipc {

/// (bytes done, bytes in all)
using Progress = std::function<void(std::uint64_t, std::uint64_t)>;

/// Allocates, exports and frees the slots of one publication.
/// Errors:   allocate throws OutOfSpace or SystemError and leaves nothing behind.
/// Lifetime: the slots' bytes live while this object or a SlotPointer from pointer() does.
class SlotMemory {
 public:
  virtual ~SlotMemory() = default;
  /// Allocates slots of the given sizes (multiples of format::kSlotGranularity), resident and
  /// zeroed.
  virtual void allocate(const detail::Facts& facts, std::span<const std::uint64_t> sizes,
                        const Progress& progress) = 0;
  /// What subscribers need to map slot `i`.
  [[nodiscard]] virtual format::Slot describe(std::size_t i) const = 0;
  [[nodiscard]] virtual std::byte* data(std::size_t i) const = 0;
  /// Shared ownership of slot `i`, for subscribers in this very process.
  [[nodiscard]] virtual detail::SlotPointer pointer(std::size_t i) const = 0;
  /// Nobody can map them any more; existing mappings are not touched.
  virtual void withdraw() noexcept = 0;
};

struct HostSlotOptions {
  unsigned threads = 1;
  int permissions = 0600;
};
[[nodiscard]] std::unique_ptr<SlotMemory> make_host_slots(const HostSlotOptions& options);

}  // namespace tenon::ipc
