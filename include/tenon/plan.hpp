// Planning a layout: pure, no I/O, the same answer on every rank.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <tenon/layout.hpp>

namespace tenon {

struct PlanOptions {
  /// Largest bucket, in bytes; a larger parameter gets a bucket of its own. Bigger buckets mean
  /// fewer calls per step, smaller ones less extra memory when streaming (docs/tuning.md).
  std::uint64_t bucket_bytes = 512ULL << 20U;
  /// JSON object that travels with the layout, for safetensors' `__metadata__`; empty for none.
  std::string metadata{};
};

/// Packs parameters into buckets in the order given. Each begins on a 256-byte boundary; one that
/// does not fit closes the bucket; one larger than `bucket_bytes` stands alone; a tied one takes no
/// room. Errors: Error(InvalidArgument) for no parameters, an empty, too long or repeated name,
/// rank above 8, a
///         size beyond 2^46 bytes, a tie to something that is not an earlier untied parameter of
///         the same dtype and byte size, or a box outside its global shape.
[[nodiscard]] Layout plan(std::span<const Parameter> parameters, const PlanOptions& options = {});

}  // namespace tenon
