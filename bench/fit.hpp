// A model with as many of its layers as there is room for.
#pragma once

#include <cstdint>
#include <string>
#include <tenon/layout.hpp>
#include <vector>

#include "options.hpp"
#include "report.hpp"

namespace tenon::bench {

/// The parameters of `options.model` (its first `options.layers` layers, when given), or of as many
/// of its first layers as keep the payload within `most` bytes; the report says so then, and what
/// limits it. Errors: Error(OutOfSpace) when not even one layer does.
[[nodiscard]] std::vector<Parameter> fitting_model(const Options& options, std::uint64_t most,
                                                   const std::string& limit, Report& report);

/// Bytes of payload of which `copies` fit into free memory, and one of them into /dev/shm.
[[nodiscard]] std::uint64_t room_for(double copies);

}  // namespace tenon::bench
