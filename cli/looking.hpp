// One publication as `inspect`, `watch` and `metrics` see it: as JSON, and in words.
#pragma once

#include <optional>
#include <string>
#include <tenon/inspect.hpp>
#include <vector>

#include "common.hpp"

namespace tenon::cli {

/// What stands under `name`. What there is nothing to show of is an error, as it is for every other
/// command: NotFound, WrongVersion, NotYours; `doing` begins the message ("inspecting").
[[nodiscard]] PublicationInfo look(const std::string& doing, const std::string& name,
                                   std::optional<Uid> owner);
[[nodiscard]] Json json_of(const PublicationInfo& info, bool parameters);

/// "wait for slots"
[[nodiscard]] std::string stage_text(Stage stage);
/// Two or three digits and a unit, at most 6 characters up to 999 s.
[[nodiscard]] std::string brief(Duration duration);
/// "19.2 GB/s"; "-" when there is nothing to divide.
[[nodiscard]] std::string rate_text(std::uint64_t bytes, Duration time);
[[nodiscard]] Duration mean(const StageSum& sum);
/// One row for each stage that there was: of, stage, times, mean, longest, last, rate.
void add_stage_rows(std::vector<std::vector<std::string>>& rows, const std::string& of,
                    const Stages& stages);

/// The newest version that anybody has seen: in place none is current while one is written.
[[nodiscard]] std::uint64_t newest_version(const PublicationInfo& info);
/// "holds 3 for 2.1 s, is waited for"
[[nodiscard]] std::string doing_text(const SubscriberInfo& subscriber);

}  // namespace tenon::cli
