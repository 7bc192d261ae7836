// JSON that others wrote, as a DOM whose input is watched while it is read: it nests no deeper than
// what prints or copies it has stack for, and no object has a key twice, of which a DOM would keep
// the last without a word while another reader sees the first.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::detail {

inline constexpr int kMaxJsonDepth = 64;

/// Text of others in a message: on one line, ASCII whatever the bytes are, never megabytes.
inline std::string printable(std::string_view text, std::size_t limit = 200) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return text.size() > limit ? out + "..." : out;
}

/// `fail(why)` throws; `why` continues a sentence that begins with what is read.
template <class Fail>
[[nodiscard]] nlohmann::json parse_bounded(std::string_view text, const Fail& fail) {
  using Json = nlohmann::json;
  using Event = Json::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of each object being read, outermost first
  const auto watch = [&](int depth, Event event, Json& parsed) {
    if (depth > kMaxJsonDepth) fail("nests deeper than " + std::to_string(kMaxJsonDepth));
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second)
      fail("has \"" + printable(parsed.get<std::string>()) + "\" twice in one object");
    return true;
  };
  // nlohmann takes a zero byte for the end of the text and would not look at what follows.
  if (text.find('\0') != std::string_view::npos) fail("is not valid JSON: it has a zero byte");
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    fail("is not valid JSON in UTF-8: " + printable(error.what()));
  }
  return {};  // not reached: fail throws
}

}  // namespace tenon::detail
