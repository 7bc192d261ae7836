// Where a bucket's bytes are while they wait for the wire, or come from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tenon/detail/block.hpp>
#include <vector>

namespace tenon::relay {

/// Rooms in host memory for buckets in turn, when they are not sent from, or received into, the
/// slots themselves.
class Staging {
 public:
  /// None when `bytes`, of the largest bucket, is 0.
  Staging(std::uint64_t bytes, std::size_t rooms) {
    for (std::size_t i = 0; bytes > 0 && i < rooms; ++i)
      rooms_.push_back(detail::allocate_block(bytes));
  }
  [[nodiscard]] bool used() const noexcept { return !rooms_.empty(); }
  /// The room of the n-th bucket on its way; that of the (n - rooms)-th before.
  [[nodiscard]] std::byte* room(std::size_t n) const noexcept {
    return rooms_[n % rooms_.size()].get();
  }

 private:
  std::vector<detail::Block> rooms_;
};

}  // namespace tenon::relay
