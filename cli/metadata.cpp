#include "metadata.hpp"

#include <utility>

namespace tenon::cli {

std::optional<nlohmann::ordered_json> metadata_json(const Layout& layout) {
  using Json = nlohmann::ordered_json;
  constexpr int kMaxDepth = 64;
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t, Json&) {
    too_deep |= depth > kMaxDepth;
    return !too_deep;  // from there on nothing is kept
  };
  Json json = Json::parse(layout.metadata(), watch, false);
  if (too_deep || !json.is_object()) return std::nullopt;
  return json;
}

}  // namespace tenon::cli
