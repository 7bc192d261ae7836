// The free-form JSON that travels with a layout. Anybody may have written it.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <tenon/layout.hpp>

namespace tenon::cli {

/// Nothing when it is no JSON object, or nests deeper than 64: what prints or copies a deep one
/// would run out of stack.
[[nodiscard]] std::optional<nlohmann::ordered_json> metadata_json(const Layout& layout);

}  // namespace tenon::cli
