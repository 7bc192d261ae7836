// The parts of the scenario handoff that have a file of their own.
#pragma once

#include "options.hpp"
#include "report.hpp"

namespace tenon::bench {

/// What adopting a version costs a subscriber, for 146 and for 18,867 parameters.
void measure_adopt(const Options& options, Report& report);
/// Memory that publisher and subscriber need beyond the slots.
void measure_memory(const Options& options, Report& report);

}  // namespace tenon::bench
