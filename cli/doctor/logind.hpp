// What systemd-logind was told of a user's objects in shared memory.
#pragma once

#include "evidence.hpp"

namespace tenon::cli::doctor {

/// RemoveIPC= as logind.conf(5) has it: the first logind.conf there is, then every drop-in by its
/// name, of which the last one that says anything counts. True where nobody says anything.
[[nodiscard]] bool logind_removes_ipc(const Evidence& evidence);

}  // namespace tenon::cli::doctor
