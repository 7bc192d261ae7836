// Nearest names for "no such parameter" messages. Slow and only ever on an error path.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <tenon/error.hpp>
#include <utility>
#include <vector>

namespace tenon::detail {

[[nodiscard]] inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

/// Up to three of `count` names (given by `name_at(i)`) that are nearest to `wanted`, as text.
template <class NameAt>
[[nodiscard]] std::string nearest_names(std::string_view wanted, std::size_t count,
                                        NameAt name_at) {
  std::vector<std::pair<std::size_t, std::string_view>> best;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = name_at(i);
    best.emplace_back(edit_distance(wanted, name), name);
    std::sort(best.begin(), best.end());
    if (best.size() > 3) best.pop_back();
  }
  std::string text;
  for (const auto& [distance, name] : best) {
    text += text.empty() ? "" : ", ";
    text += "'" + plain(name) + "'";
  }
  return text;
}

}  // namespace tenon::detail
