// Private memory for a layout, which a subscriber copies once and then looks names up in.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace tenon::detail {

struct FreeBlock {
  void operator()(std::byte* block) const noexcept { std::free(block); }
};
using Block = std::unique_ptr<std::byte[], FreeBlock>;

/// Uninitialised. A large block is backed by huge pages where the system allows: a page fault for
/// every 4 KiB takes three times as long as the copy that fills them (measured,
/// docs/performance.md).
[[nodiscard]] inline Block allocate_block(std::uint64_t bytes) {
  constexpr std::uint64_t kHugePage = 2U << 20U;
  constexpr std::uint64_t kLarge = 1U << 20U;
  const std::uint64_t alignment = bytes < kLarge ? alignof(std::max_align_t) : kHugePage;
  const std::uint64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  Block block(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
  if (!block) throw std::bad_alloc();
  if (alignment == kHugePage) (void)::madvise(block.get(), rounded, MADV_HUGEPAGE);
  return block;
}

}  // namespace tenon::detail
