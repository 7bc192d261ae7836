#include "options.hpp"

#include <CLI/CLI.hpp>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

namespace tenon::stress {
namespace {

const std::map<std::string, MemoryKind> kMemories{{"host", MemoryKind::host},
                                                  {"cuda", MemoryKind::cuda}};
const std::map<std::string, int> kModes{
    {"in-place", 1}, {"double", 2}, {"streaming", 3}, {"mixed", 0}};

// The log of a run begins with its command line.
std::string first_line(const std::string& log) {
  std::ifstream file(log);
  std::string line;
  std::getline(file, line);
  return line;
}

struct Raw {
  Options options;
  int mode = 0;
  std::string replay;
};

void describe(CLI::App& app, Raw& raw) {
  Options& o = raw.options;
  app.add_option("--seed", o.seed, "Of the schedule of faults; default: by chance");
  app.add_option("--seconds", o.seconds, "How long")->capture_default_str();
  app.add_option("--subscribers", o.subscribers)->check(CLI::Range(1, 32))->capture_default_str();
  app.add_option("--publishers", o.publishers)->check(CLI::Range(1, 4))->capture_default_str();
  app.add_option("--memory", o.memory)->transform(CLI::CheckedTransformer(kMemories));
  app.add_option("--mode", raw.mode, "in-place, double, streaming, or mixed (the default)")
      ->transform(CLI::CheckedTransformer(kModes));
  app.add_option("--patience", o.patience, "Seconds over its deadline after which something hangs")
      ->capture_default_str();
  app.add_option("--log", o.log, "File that every event goes to");
  app.add_flag("--verbose", o.verbose, "Log also what the roles do, not only what befalls them");
  app.add_flag("--shared-shm", o.shared_shm, "Use everybody's /dev/shm, not one of its own");
  app.add_flag("--json", o.json, "One line of JSON at the end");
  app.add_flag("--schedule", o.schedule, "Print the faults of this seed, and do nothing");
  app.add_option("--replay", raw.replay, "Log of an earlier run: the same options and faults again")
      ->check(CLI::ExistingFile);
  for (const auto& [name, what] :
       std::map<std::string, CLI::Option*>{{"--role", app.add_option("--role", o.role)},
                                           {"--board", app.add_option("--board", o.board)},
                                           {"--actor", app.add_option("--actor", o.actor)},
                                           {"--life", app.add_option("--life", o.life)},
                                           {"--own-shm", app.add_flag("--own-shm", o.own_shm)},
                                           {"--names", app.add_option("--names", o.names)}})
    what->group("");  // not for people
}

}  // namespace

Options parse(int argc, char** argv) {
  Raw raw;
  raw.options.seed = std::random_device{}();
  CLI::App app{
      "Kills, stops and restarts publishers and subscribers at random, and verifies every byte "
      "read."};
  describe(app, raw);
  try {
    app.parse(argc, argv);
    if (!raw.replay.empty()) {
      const std::string replay = raw.replay;
      app.parse(first_line(replay), false);
    }
  } catch (const CLI::ParseError& e) {
    std::exit(app.exit(e) == 0 ? 0 : 2);
  }
  if (raw.mode != 0) raw.options.mode = static_cast<Mode>(raw.mode);
  if (raw.options.log.empty())
    raw.options.log = std::string("chaos-") + name_of(raw.options.memory) + "-" +
                      std::to_string(raw.options.seed) + ".log";
  return raw.options;
}

std::vector<std::string> to_arguments(const Options& o) {
  std::vector<std::string> arguments{"--seed",        std::to_string(o.seed),
                                     "--seconds",     std::to_string(o.seconds),
                                     "--subscribers", std::to_string(o.subscribers),
                                     "--publishers",  std::to_string(o.publishers),
                                     "--memory",      name_of(o.memory),
                                     "--mode",        o.mode ? name_of(*o.mode) : "mixed",
                                     "--patience",    std::to_string(o.patience)};
  if (o.shared_shm) arguments.emplace_back("--shared-shm");
  if (o.verbose) arguments.emplace_back("--verbose");
  return arguments;
}

}  // namespace tenon::stress
