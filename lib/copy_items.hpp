// Copying a list of items in host memory.
#pragma once

#include <span>
#include <tenon/copy_item.hpp>

namespace tenon {

/// Copies every item, in order, with the calling thread. Destinations must not overlap sources.
/// Reads CopyItem::end for how many rows an item has.
void copy_items(std::span<const CopyItem> items) noexcept;

}  // namespace tenon
