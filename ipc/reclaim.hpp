// Removing what the dead left behind. Cleaners and creators cannot hurt each other: whoever removes
// a name holds the lock of the object behind it and checks, under the lock, that the name still
// leads there.
#pragma once

#include <cstdint>
#include <string>
#include <tenon/inspect.hpp>
#include <tenon/name.hpp>

namespace tenon::ipc {

enum class Removal {
  removed,  ///< it was a leftover and is gone
  absent,   ///< nothing there (any more)
  busy,     ///< somebody is creating, closing or cleaning it: try again
  live,     ///< a live publisher holds it
};

struct RemovalResult {
  Removal what;
  std::string why;          ///< for people
  std::uint64_t bytes = 0;  ///< of everything removed
};

/// Removes the publication object `name` of `owner` with its slots, if its publisher is dead.
/// Protocol section 8: open, lock, check that the name still leads to this inode, unlink while
/// holding.
[[nodiscard]] RemovalResult remove_if_dead(const std::string& name, Uid owner, bool dry_run);

/// Takes the last step of closing or abandoning: unlinks `object`'s name if it still leads to it.
void unlink_if_named(const detail::SharedObject& object) noexcept;

}  // namespace tenon::ipc
