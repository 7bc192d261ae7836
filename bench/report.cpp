#include "report.hpp"

#include <fmt/core.h>

#include <cstdio>
#include <utility>

namespace tenon::bench {
namespace {

std::string time_text(const nlohmann::json& row, const char* key) {
  if (!row.contains(key)) return "-";
  const double us = row[key];
  return us < 1     ? fmt::format("{:.3f}", us)
         : us < 100 ? fmt::format("{:.2f}", us)
                    : fmt::format("{:.0f}", us);
}

void print_row(const nlohmann::json& row) {
  if (row.contains("skipped")) {
    fmt::print("{:<46} skipped: {}\n", std::string(row["name"]), std::string(row["skipped"]));
    return;
  }
  const auto count = [&](const char* key) {
    const std::uint64_t n = row[key];
    return n == 0 ? std::string("-") : std::to_string(n);
  };
  const std::string rate =
      row.contains("gb_per_s") ? fmt::format("{:.2f}", double{row["gb_per_s"]}) : "-";
  const std::string name = row["name"];
  const std::uint64_t wrong = row["wrong"];
  fmt::print("{:<46} {:>11} {:>7} {:>10} {:>10} {:>10} {:>10} {:>7} {:>5}\n", name, count("bytes"),
             count("tensors"), time_text(row, "min_us"), time_text(row, "p50_us"),
             time_text(row, "p99_us"), time_text(row, "max_us"), rate, wrong);
  for (const char* key : {"gpu", "more"})
    if (row.contains(key)) fmt::print("    {}\n", row[key].dump());
}

void print_figure(const std::string& name, const nlohmann::json& figure) {
  const std::string unit = figure["unit"];
  std::string text = fmt::format("{:<62} {:>10.3f} {:<7}", name, double{figure["value"]}, unit);
  if (figure.contains("target")) {
    const std::string direction = figure["direction"];
    const bool ok = figure["ok"];
    text +=
        fmt::format(" target {} {:g}  {}", direction, double{figure["target"]}, ok ? "ok" : "MISS");
  }
  fmt::print("{}\n", text);
}

}  // namespace

Report::Report(std::string scenario, const Options& options) {
  json_["scenario"] = std::move(scenario);
  json_["options"] = {{"pin", options.pin}, {"quick", options.quick}};
  json_["notes"] = nlohmann::json::array();
  json_["rows"] = nlohmann::json::array();
  json_["ratios"] = nlohmann::json::object();
}

void Report::set_option(const std::string& name, nlohmann::json value) {
  json_["options"][name] = std::move(value);
}

void Report::note(std::string text) { json_["notes"].push_back(std::move(text)); }

void Report::add(const Row& row) {
  nlohmann::json j{{"name", row.name},
                   {"bytes", row.bytes},
                   {"tensors", row.tensors},
                   {"samples", row.samples.size()},
                   {"wrong", row.wrong}};
  if (row.samples.size() > 0) {
    j["min_us"] = row.samples.at(0);
    j["p50_us"] = row.samples.p50();
    j["p90_us"] = row.samples.at(0.9);
    j["p99_us"] = row.samples.at(0.99);
    j["max_us"] = row.samples.at(1);
    j["all_us"] = row.samples.values();
    if (row.bytes > 0) j["gb_per_s"] = static_cast<double>(row.bytes) / 1e3 / row.samples.p50();
  }
  if (row.first_us) j["first_us"] = *row.first_us;
  if (!row.gpu.is_null()) j["gpu"] = row.gpu;
  if (!row.more.is_null()) j["more"] = row.more;
  json_["rows"].push_back(std::move(j));
}

void Report::skip(const std::string& name, const std::string& why) {
  add(Row{.name = name});
  json_["rows"].back()["skipped"] = why;
}

void Report::add(const Figure& figure) {
  nlohmann::json j{{"value", figure.value}, {"unit", figure.unit}};
  if (figure.target) {
    const bool most = figure.target->direction == Target::Direction::at_most;
    j["direction"] = most ? "<=" : ">=";
    j["target"] = figure.target->value;
    j["ok"] = most ? figure.value <= figure.target->value : figure.value >= figure.target->value;
  }
  json_["ratios"][figure.name] = std::move(j);
}

void say(const std::string& what) { fmt::print(stderr, "tenon-bench: {}\n", what); }

std::uint64_t count_wrong(const nlohmann::json& report) {
  std::uint64_t wrong = 0;
  for (const nlohmann::json& row : report["rows"]) wrong += std::uint64_t{row["wrong"]};
  return wrong;
}

void print_table(const nlohmann::json& report) {
  const std::string scenario = report["scenario"];
  fmt::print("\n{}  {}\n", scenario, report["options"].dump());
  for (const std::string note : report["notes"]) fmt::print("note: {}\n", note);
  fmt::print("{:<46} {:>11} {:>7} {:>10} {:>10} {:>10} {:>10} {:>7} {:>5}\n", "", "bytes",
             "tensors", "min_us", "p50_us", "p99_us", "max_us", "GB/s", "wrong");
  for (const nlohmann::json& row : report["rows"]) print_row(row);
  fmt::print("\n");
  for (const auto& [name, figure] : report["ratios"].items()) print_figure(name, figure);
  std::fflush(stdout);
}

}  // namespace tenon::bench
