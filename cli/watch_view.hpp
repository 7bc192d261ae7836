// What `tenon watch` shows of one look at a publication and the one before it. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "looking.hpp"

namespace tenon::cli {

/// A publication, and when it was looked at.
struct Sight {
  PublicationInfo info;
  std::uint64_t at = 0;  ///< monotonic_ns()
};

struct Rates {
  double versions = 0;  ///< per second
  double bytes = 0;     ///< put into slots, per second
};
/// Between two looks; nothing when there is no earlier one of the same publication.
[[nodiscard]] std::optional<Rates> rates_between(const Sight* before, const Sight& now);

/// For a terminal: lines of at most `width` ASCII characters, at most `height` of them.
[[nodiscard]] std::vector<std::string> screen_of(const Sight* before, const Sight& now,
                                                 std::size_t width, std::size_t height);
/// For a pipe: a line for the publication, and one for each subscriber.
[[nodiscard]] std::string lines_of(const Sight* before, const Sight& now);

}  // namespace tenon::cli
