// A /dev/shm of one's own, where that is allowed: what is left in it at the end is one's own too,
// and neither does somebody else's `gc` come by, nor one's own to somebody else.
#pragma once

namespace tenon::stress {

/// For this process and those it starts. False when the system does not let it.
[[nodiscard]] bool own_shm();

}  // namespace tenon::stress
