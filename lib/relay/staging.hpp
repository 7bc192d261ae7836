// Where a bucket's bytes are while they wait for the wire, or come from it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <tenon/copy_and_wait.hpp>
#include <tenon/detail/block.hpp>
#include <tenon/layout.hpp>
#include <tenon/types.hpp>
#include <vector>

namespace tenon::relay {

/// Rooms in host memory for buckets in turn, when they are not sent from, or received into, the
/// slots themselves: GPU memory by an engine of host memory.
class Staging {
 public:
  /// None when `slots` and `engine` are of one kind.
  Staging(const Layout& layout, MemoryKind slots, MemoryKind engine, std::size_t rooms) {
    if (slots == engine) return;
    std::uint64_t largest = 1;
    for (std::size_t b = 0; b < layout.bucket_count(); ++b)
      largest = std::max(largest, layout.bucket_bytes(b));
    for (std::size_t i = 0; i < rooms; ++i) rooms_.push_back(detail::allocate_block(largest));
  }
  [[nodiscard]] bool used() const noexcept { return !rooms_.empty(); }
  /// The room of the n-th bucket on its way; that of n - rooms before it.
  [[nodiscard]] std::byte* room(std::size_t n) const noexcept {
    return rooms_[n % rooms_.size()].get();
  }

 private:
  std::vector<detail::Block> rooms_;
};

}  // namespace tenon::relay
