// tenon-bench: what Tenon costs on this machine, with a reference measured beside it.
//
//   gather   copying a model into the slots, against plain copies of as many bytes
//   attach   becoming a subscriber of a publication with 18,867 parameters
//   wake     from commit to a subscriber that has the version, spinning and asleep
//   handoff  publish to usable view in every mode; what adopting a version costs; memory
//
// Exit code: 0, or 1 when a byte that was handed over was wrong or a scenario failed, 2 for bad
// usage, 130 when interrupted. Whether a target was met is printed, and is no exit code: speed
// depends on the machine.
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "machine.hpp"
#include "options.hpp"
#include "report.hpp"
#include "supervise.hpp"

namespace tenon::bench {
namespace {

struct Scenario {
  const char* name;
  nlohmann::json (*run)(const Options&);
};
constexpr std::array<Scenario, 4> kScenarios{
    {{"gather", run_gather}, {"attach", run_attach}, {"wake", run_wake}, {"handoff", run_handoff}}};

struct Arguments {
  std::string scenario;
  bool json = false;
  Options options;
};

// Several scenarios in one object: their rows and ratios one after the other, names prefixed.
nlohmann::json merge(const std::vector<nlohmann::json>& reports) {
  nlohmann::json all{{"scenario", "all"},
                     {"options", nlohmann::json::object()},
                     {"notes", nlohmann::json::array()},
                     {"rows", nlohmann::json::array()},
                     {"ratios", nlohmann::json::object()}};
  for (const nlohmann::json& report : reports) {
    const std::string scenario = report["scenario"];
    all["options"][scenario] = report["options"];
    for (const std::string note : report["notes"]) all["notes"].push_back(scenario + ": " + note);
    for (nlohmann::json row : report["rows"]) {
      row["name"] = scenario + ": " + std::string(row["name"]);
      all["rows"].push_back(std::move(row));
    }
    for (const auto& [name, figure] : report["ratios"].items())
      all["ratios"][scenario + ": " + name] = figure;
  }
  return all;
}

int run(const Arguments& arguments) {
  nlohmann::json result = describe_run();
  if (!arguments.json) fmt::print("{}", header_text(result));
  std::vector<nlohmann::json> reports;
  std::uint64_t wrong = 0;
  for (const Scenario& scenario : kScenarios) {
    if (arguments.scenario != "all" && arguments.scenario != scenario.name) continue;
    reports.push_back(supervise(arguments.options, scenario.run));
    wrong += count_wrong(reports.back());
    if (!arguments.json) print_table(reports.back());
  }
  if (arguments.json) {
    result.update(reports.size() == 1 ? reports.front() : merge(reports));
    fmt::print("{}\n", result.dump(1));
  }
  if (wrong > 0) say(fmt::format("{} tensors had wrong bytes", wrong));
  return wrong > 0 ? 1 : 0;
}

int main_of(int argc, char** argv) {
  Arguments a;
  CLI::App app{"What Tenon costs on this machine, with a reference measured beside it."};
  app.footer("Example: tenon-bench gather --json > gather.json");
  app.add_option("scenario", a.scenario, "what to measure")
      ->required()
      ->check(CLI::IsMember({"gather", "attach", "wake", "handoff", "all"}));
  app.add_flag("--json", a.json, "write one JSON object instead of tables");
  app.add_option("--model", a.options.model, "for gather and handoff")->capture_default_str();
  app.add_option("--layers", a.options.layers, "keep only the model's first so many layers");
  app.add_flag("!--no-pin", a.options.pin, "let the scheduler place publisher and subscriber");
  app.add_flag("--quick", a.options.quick,
               "a handful of samples: shows that it runs, measures nothing");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  a.options.name_prefix = "tenon-bench." + std::to_string(::getpid());
  return run(a);
}

}  // namespace
}  // namespace tenon::bench

int main(int argc, char** argv) {
  try {
    return tenon::bench::main_of(argc, argv);
  } catch (const tenon::bench::Interrupted&) {
    return 130;
  } catch (const std::exception& e) {
    fmt::print(stderr, "tenon-bench: {}\n", e.what());
    return 1;
  }
}
