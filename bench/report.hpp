// What a scenario found out: rows of samples, and figures that have a target.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "options.hpp"
#include "samples.hpp"

namespace tenon::bench {

struct Row {
  std::string name;
  std::uint64_t bytes = 0;    ///< payload that one sample hands over; 0: none, no rate is shown
  std::uint64_t tensors = 0;  ///< parameters of the publication; 0: not a matter of parameters
  Samples samples{};          ///< empty for a row that is a size
  std::optional<double> first_us{};  ///< the very first time, before warm-up
  std::uint64_t wrong = 0;  ///< tensors whose bytes were not as expected; 0 or the run has failed
  nlohmann::json gpu{};     ///< of GPU rows: further figures by name
  nlohmann::json more{};    ///< of other rows: the same
};

struct Target {
  enum class Direction { at_most, at_least } direction;
  double value;
};
[[nodiscard]] inline Target at_most(double value) { return {Target::Direction::at_most, value}; }
[[nodiscard]] inline Target at_least(double value) { return {Target::Direction::at_least, value}; }

/// A headline figure. One without a target is shown for scale.
struct Figure {
  std::string name;
  double value;
  std::string unit;  ///< empty for a ratio
  std::optional<Target> target{};
};

/// Collects a scenario's results in the form in which they are printed and written.
class Report {
 public:
  Report(std::string scenario, const Options& options);
  void set_option(const std::string& name, nlohmann::json value);
  /// Something the reader of the figures must know, such as a model that had to be made smaller.
  void note(std::string text);
  void add(const Row& row);
  /// A row that cannot be measured here.
  void skip(const std::string& name, const std::string& why);
  void add(const Figure& figure);
  [[nodiscard]] nlohmann::json json() && { return std::move(json_); }

 private:
  nlohmann::json json_;
};

/// A line of progress on stderr, so that nobody wonders.
void say(const std::string& what);

/// All rows' `wrong` together.
[[nodiscard]] std::uint64_t count_wrong(const nlohmann::json& report);
void print_table(const nlohmann::json& report);

}  // namespace tenon::bench
