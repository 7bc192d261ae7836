// From what a destination is made of to the rows that fill it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tenon/copy_item.hpp>
#include <tenon/load_plan.hpp>
#include <vector>

namespace tenon {

/// Rows out of one bucket.
struct LoadItem {
  std::uint32_t part;  ///< index into the target's parts
  std::uint32_t bucket;
  CopyItem item;  ///< `from` is an offset in the bucket, `end` counts this item's own bytes
};

/// The rows that fill the destination, as few items as can be: one for each part that is not empty,
/// unless it is sliced along another dimension than the fused one.
///
/// Errors:   Error(InvalidArgument), here and below, for a target that cannot be made of its parts;
///           the message names them, and the sizes or dtypes that do not fit.
[[nodiscard]] std::vector<LoadItem> load_items(const Layout& layout, const LoadTarget& target);
/// Shape of the destination in elements; `to` may still be null.
[[nodiscard]] std::vector<std::uint64_t> target_shape(const Layout& layout,
                                                      const LoadTarget& target);
/// Bytes of the destination; `to` may still be null.
[[nodiscard]] std::uint64_t target_bytes(const Layout& layout, const LoadTarget& target);

}  // namespace tenon
