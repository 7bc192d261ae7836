// The parts of the scenario handles that have a file of their own.
#pragma once

#include "options.hpp"
#include "report.hpp"

namespace tenon::bench {

/// What opening and closing CUDA's handles costs, by size and by number.
void measure_cold_handles(const Options& options, Report& report);

}  // namespace tenon::bench
