// tenon-bench: what Tenon costs on this machine, with a reference measured beside it.
//
//   gather   copying a model into the slots, against plain copies of as many bytes
//   attach   becoming a subscriber of a publication with 18,867 parameters
//   wake     from commit to a subscriber that has the version, spinning and asleep
//   handoff  publish to usable view in every mode; what adopting a version costs; memory
//   handles  a handle or object per tensor, opened every step, against adopting
//   sweep    the gather by bucket size, and with a cast
//   sizes    the same bytes in 1 to 32,768 tensors: a·N + bytes / bandwidth
//   metadata reading the description of the tensors, binary and JSON
//   subscribers  what 1 to 16 of them cost the publisher
//   relay    a version to another node, against Gloo's own broadcast (with TENON_RELAY)
//   reduce   replicas averaged by reduce-scatter, against all-reduce (with TENON_RELAY)
//
// With --memory cuda, gather, handoff, handles, sizes, subscribers and relay are about GPU
// memory.
//
// Exit code: 0, or 1 when a byte that was handed over was wrong or a scenario failed, 2 for bad
// usage, 130 when interrupted. Whether a target was met is printed, and is no exit code: speed
// depends on the machine.
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "options.hpp"
#include "report.hpp"
#include "supervise.hpp"

namespace tenon::bench {
namespace {

using Run = nlohmann::json (*)(const Options&);
struct Scenario {
  const char* name;
  Run host;  // null: there is none
  Run gpu;   // null: it is about no GPU memory
};
constexpr Scenario kScenarios[] = {
    {"gather", run_gather, run_gpu_gather},
    {"attach", run_attach, nullptr},
    {"wake", run_wake, nullptr},
    {"handoff", run_handoff, run_gpu_handoff},
    {"handles", run_handles, run_gpu_handles},
    {"sweep", run_sweep, nullptr},
    {"sizes", run_sizes, run_gpu_sizes},
    {"metadata", run_metadata, nullptr},
    {"subscribers", run_subscribers, run_gpu_subscribers},
#ifdef TENON_BENCH_RELAY
    {"relay", run_relay, run_gpu_relay},
    {"reduce", run_reduce, nullptr},
#endif
};

std::vector<std::string> scenario_names() {
  std::vector<std::string> names;
  for (const Scenario& scenario : kScenarios) names.emplace_back(scenario.name);
  names.emplace_back("all");
  return names;
}

struct Arguments {
  std::vector<std::string> scenarios;
  std::string memory = "host";
  bool json = false;
  std::string file;  // for the JSON; empty: stdout
  Options options;

  [[nodiscard]] bool asks_for(const char* name) const {
    return std::any_of(scenarios.begin(), scenarios.end(), [&](const std::string& scenario) {
      return scenario == name || scenario == "all";
    });
  }
  [[nodiscard]] bool prints_tables() const { return !json || !file.empty(); }
};

// "cuda" or "cuda:N"; nothing for "host".
std::optional<int> device_of(const std::string& memory) {
  if (memory == "host") return std::nullopt;
  if (memory == "cuda") return 0;
  int device = 0;
  const char* const end = memory.data() + memory.size();
  if (memory.rfind("cuda:", 0) == 0) {
    const auto [stop, error] = std::from_chars(memory.data() + 5, end, device);
    if (error == std::errc{} && stop == end && device >= 0) return device;
  }
  throw CLI::ValidationError("--memory", "takes host, cuda or cuda:N");
}

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

void write(const Arguments& arguments, const nlohmann::json& result) {
  if (arguments.file.empty()) {
    fmt::print("{}\n", result.dump(1));
    return;
  }
  std::ofstream out(arguments.file);
  out << result.dump(1) << '\n';
  if (!out.flush()) throw SystemError(errno, "writing " + arguments.file);
}

int run(Arguments arguments) {
  Options& options = arguments.options;
  nlohmann::json result = describe_run();
  if (options.device) {
    nlohmann::json gpu = supervise(options, describe_gpu);
    options.gpu_memory = gpu["free_bytes"];
    result["machine"]["gpu"] = std::move(gpu);
  }
  if (arguments.prints_tables()) fmt::print("{}", header_text(result));
  std::vector<nlohmann::json> reports;
  std::uint64_t wrong = 0;
  for (const Scenario& scenario : kScenarios) {
    const Run run = options.device && scenario.gpu != nullptr ? scenario.gpu : scenario.host;
    if (run == nullptr || !arguments.asks_for(scenario.name)) continue;
    reports.push_back(supervise(options, run));
    wrong += count_wrong(reports.back());
    if (arguments.prints_tables()) print_table(reports.back());
  }
  if (arguments.json) {
    result.update(reports.size() == 1 ? reports.front() : merge(reports));
    write(arguments, result);
  }
  if (wrong > 0) say(fmt::format("{} tensors had wrong bytes", wrong));
  return wrong > 0 ? 1 : 0;
}

int main_of(int argc, char** argv) {
  Arguments a;
  CLI::App app{"What Tenon costs on this machine, with a reference measured beside it."};
  app.footer("Example: tenon-bench gather --json > gather.json");
  app.add_option("scenario", a.scenarios, "what to measure, one or several")
      ->required()
      ->check(CLI::IsMember(scenario_names()));
  CLI::Option* const json =
      app.add_option("--json", a.file, "write one JSON object: to FILE, or instead of tables")
          ->type_name("[FILE]")
          ->expected(0, 1);
  app.add_option("--memory", a.memory,
                 "host, or cuda or cuda:N for gather, handoff, handles, sizes and subscribers")
      ->capture_default_str();
  app.add_option("--model", a.options.model, "for gather, handoff, handles and sweep")
      ->capture_default_str();
  app.add_option("--shrink", a.options.shrink,
                 "GPU and relay rows: divide every dimension of the model (sizes: the bytes); "
                 "shows that it runs")
      ->check(CLI::PositiveNumber);
  app.add_option("--layers", a.options.layers, "keep only the model's first so many layers");
#ifdef TENON_BENCH_RELAY
  app.add_option("--rate", a.options.rate,
                 "for relay and reduce: of each node's cable, as tc has it; 0: unshaped only")
      ->capture_default_str();
#endif
  app.add_flag("!--no-pin", a.options.pin, "let the scheduler place publisher and subscriber");
  app.add_flag("--quick", a.options.quick,
               "a handful of samples: shows that it runs, measures nothing");
  try {
    app.parse(argc, argv);
    a.options.device = device_of(a.memory);
    a.json = json->count() > 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  a.options.name_prefix = "tenon-bench." + std::to_string(::getpid());
  return run(std::move(a));
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
