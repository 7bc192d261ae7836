// Copying a list of items in host memory.
#pragma once

#include <span>
#include <tenon/copy_item.hpp>

namespace tenon {

/// Copies every item, in order, with the calling thread. Destinations must not overlap sources.
/// Reads CopyItem::end for how many rows an item has.
void copy_items(std::span<const CopyItem> items, CopyBase base = {}) noexcept;

/// Whether an item of the list has more than one row.
[[nodiscard]] bool has_rows(std::span<const CopyItem> items) noexcept;

/// Destination bytes [begin, end) of an item, counted without the gaps between rows; both rounded
/// down to whole elements, so that parts which meet anywhere make a whole.
void copy_part(const CopyItem& item, std::uint64_t begin, std::uint64_t end) noexcept;

}  // namespace tenon
