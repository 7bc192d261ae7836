// The parts of the scenario relay.
#pragma once

#include <string>
#include <tenon/layout.hpp>
#include <vector>

#include "options.hpp"
#include "report.hpp"

namespace tenon::bench {

/// What is relayed: the model's first layers, every dimension divided, so that a version takes
/// about a second at 2 Gbit/s.
[[nodiscard]] Layout relayed_layout(const Options& options);
/// The rates to measure at: unshaped, and `options.rate`.
[[nodiscard]] std::vector<std::string> rates(const Options& options);

void measure_throughput(const Options& options, const std::string& rate, Report& report);
void measure_crash(const Options& options, const std::string& rate, Report& report);

}  // namespace tenon::bench
