// What a run comes to.
#pragma once

#include <string>

#include "board.hpp"
#include "options.hpp"
#include "supervisor.hpp"

namespace tenon::stress {

/// For people; with --json also one line for programs, the last. False when something that must be
/// 0 is not, or nothing happened at all.
[[nodiscard]] bool report(const Options& options, const Board& board, const Deeds& deeds);

}  // namespace tenon::stress
