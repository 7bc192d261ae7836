// The memory this process knows: what it allocated and what it opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "node.hpp"

namespace tenon::sim {

struct Region {
  enum class Kind { device, pool, managed, host, imported };

  Kind kind = Kind::device;
  std::byte* base = nullptr;   // what the program was given
  std::byte* alias = nullptr;  // the same bytes, always accessible
  std::uint64_t bytes = 0;
  std::uint64_t number = 0;  // no other region of this process has or had it
  int device = 0;            // of the node
  int context = 0;           // ordinal that was current when it was made or opened
  Node::Import allocation{};
  int opens = 0;  // cudaIpcOpenMemHandle calls not undone

  [[nodiscard]] bool on_device() const { return kind != Kind::host; }
  [[nodiscard]] bool contains(const void* pointer, std::uint64_t size) const {
    const auto* at = static_cast<const std::byte*>(pointer);
    const auto offset = static_cast<std::uint64_t>(at - base);
    return at >= base && offset <= bytes && size <= bytes - offset;
  }
};

/// The regions of this process by address.
///
/// Mappings get addresses that differ from process to process, so that a pointer taken for
/// another's shows, and that are not used again soon: what was removed stays without access.
///
/// Threads: safe.
class Regions {
 public:
  /// Maps the first `region.bytes` of a shared-memory object (made when `create`), or private
  /// memory when `object` is empty, and adds it. Without `accessible` the host has the alias only.
  /// False when the system is out of memory; the region then has no base.
  [[nodiscard]] bool map(Region& region, const std::string& object, bool create, bool accessible);
  /// The region around an address.
  [[nodiscard]] std::optional<Region> find(const void* pointer) const;
  [[nodiscard]] std::optional<Region> find_import(AllocationId id, int context) const;
  /// Adds to the opens of an import, and returns them.
  int count_opens(const void* base, int change);
  /// Unmaps the region that begins there.
  void remove(const void* base);
  /// Unmaps all and forgets the reserved addresses.
  void clear();

  /// Where the simulator's own threads reach the bytes of a pointer.
  [[nodiscard]] std::byte* reach(const void* pointer) const;
  [[nodiscard]] std::uint64_t opens() const;

 private:
  using Range = std::pair<std::byte*, std::uint64_t>;
  using ImportKey = std::tuple<std::uint32_t, std::uint32_t, int>;

  static ImportKey key(AllocationId id, int context) { return {id.index, id.generation, context}; }

  [[nodiscard]] std::byte* map_at_hint(std::uint64_t bytes, int protection, int fd);
  void reserve(Range range);

  mutable std::mutex mutex_;
  std::map<const std::byte*, Region> regions_;
  std::map<ImportKey, const std::byte*> imports_;
  std::deque<Range> reserved_;
  std::uint64_t next_hint_ = 0;
  std::uint64_t last_number_ = 0;
};

}  // namespace tenon::sim
