// Planning parameters that stay where they are: pure, no device is asked.
#pragma once

#include <cstdint>
#include <span>
#include <tenon/plan.hpp>
#include <utility>
#include <vector>

namespace tenon::detail {

/// A place in the trainer's memory; no allocation: none that can be shared.
struct Spot {
  const std::byte* allocation = nullptr;
  std::uint64_t offset = 0;
};

/// As plan(), for parameters of which some are not packed: those with a spot. Also says where each
/// bucket begins. A bucket of unpacked ones is a run that follows each other in one allocation.
[[nodiscard]] std::pair<Layout, std::vector<Spot>> plan_at(std::span<const Parameter> parameters,
                                                           std::span<const Spot> spots,
                                                           const PlanOptions& options);

}  // namespace tenon::detail
