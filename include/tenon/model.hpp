// Models that Tenon knows by name: their parameters without their weights.
//
// For planning, benchmarks and tests that need a real model's tensors but no checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <tenon/types.hpp>
#include <vector>

namespace tenon {

/// The names that model_parameters() takes. Valid as long as the program runs.
[[nodiscard]] std::vector<std::string_view> model_names();

/// The parameters of a model as its published checkpoint has them: names, shapes and dtype (bf16).
/// In the order of the network: embeddings, the layers, the final norm, and `lm_head.weight` last,
/// unless the model shares that with its embeddings; then it is left out, as in the checkpoint.
/// Within a layer alphabetical, numbers as numbers.
///
/// `layers` keeps only the first so many layers, for a smaller model of the same make; without it,
/// all.
///
/// Errors:   Error(InvalidArgument) when the name is unknown, or `layers` is 0 or more than it has.
[[nodiscard]] std::vector<Parameter> model_parameters(std::string_view name,
                                                      std::optional<std::uint32_t> layers = {});

}  // namespace tenon
