// Running a scenario in a process of its own, so that whatever happens to it nothing is left
// behind.
#pragma once

#include <exception>
#include <nlohmann/json_fwd.hpp>

#include "options.hpp"

namespace tenon::bench {

/// SIGINT, SIGTERM or SIGHUP ended the bench.
struct Interrupted : std::exception {};

/// Runs `scenario` in a child process and returns its report. When it fails, hangs for 30 minutes
/// or this process is told to stop, every process it started is killed and its publications are
/// removed.
/// Errors: Interrupted; Error(System) when the scenario failed (it said why on stderr).
[[nodiscard]] nlohmann::json supervise(const Options& options,
                                       nlohmann::json (*scenario)(const Options&));

}  // namespace tenon::bench
