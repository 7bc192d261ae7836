// Publishing a trainer's own allocations: no slot is allocated, no byte is copied.
//
//   auto plan = tenon::plan_unpacked(parameters, sources, {.device = 0});
//   auto pub = tenon::Publisher::create("policy", plan, {.label = "trainer"});
//   auto update = pub.begin(stream);                 // readers let go
//   for (std::size_t b = 0; b < plan.layout.bucket_count(); ++b) (void)update.open(b);
//   optimizer_step(stream);                          // writes the parameters where they are
//   for (std::size_t b = 0; b < plan.layout.bucket_count(); ++b) update.seal(b);
//   update.commit();
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tenon/publisher.hpp>
#include <vector>

namespace tenon {

/// What becomes of parameters whose memory other processes cannot open: managed, of a pool
/// (cudaMallocAsync), mapped (cuMemCreate, PyTorch's expandable segments, ncclMemAlloc), of the
/// host or of another GPU.
enum class Unexportable : std::uint8_t {
  gather,  ///< they get slots, and publish() copies them there; listed in UnpackedPlan::gathered
  refuse,  ///< Error(NotShareable) that names the first one and its memory
};

struct UnpackedOptions {
  int device = 0;  ///< ordinal in this process
  Unexportable unexportable = Unexportable::gather;
  std::uint64_t bucket_bytes = 512ULL << 20U;  ///< of buckets that are gathered
};

/// A slot that is part of an allocation of the trainer's.
struct OwnSlot {
  const std::byte* allocation = nullptr;  ///< first byte; null: a slot that Tenon allocates
  std::uint64_t allocation_bytes = 0;
  std::uint64_t offset = 0;  ///< of the slot in its allocation; a multiple of 256
  std::uint64_t bytes = 0;
};

struct UnpackedPlan {
  Layout layout;
  std::vector<OwnSlot> slots;         ///< one per bucket
  std::vector<std::string> gathered;  ///< "'name': why its memory is not shared", per parameter
  int device = 0;
};

/// Parameters stay where their sources say they are. A bucket is a run of parameters that follow
/// each other in one allocation, in the order given: list them by address. Allocations are exported
/// once, however many buckets they hold.
///
/// Errors: those of plan(); Error(InvalidArgument) for a source of another dtype than its parameter
///         or one that is not aligned to it; Error(NotShareable); Error(NoDevice).
[[nodiscard]] UnpackedPlan plan_unpacked(std::span<const Parameter> parameters,
                                         std::span<const Source> sources,
                                         const UnpackedOptions& options = {});

}  // namespace tenon
