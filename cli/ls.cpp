// tenon ls: every publication of a user.
#include <fmt/format.h>

#include <tenon/inspect.hpp>

#include "commands.hpp"
#include "options.hpp"

namespace tenon::cli {
namespace {

struct LsOptions {
  std::optional<Uid> owner{};
  bool json = false;
};

bool is_known(const PublicationInfo& info) { return info.layout.has_value(); }

Json json_of(const PublicationInfo& info) {
  Json json{{"name", info.name},
            {"state", name_of(info.state)},
            {"why", info.why},
            {"owner", info.owner}};
  if (!is_known(info)) return json;
  json["pid"] = info.pid;
  json["label"] = info.label;
  json["mode"] = name_of(info.mode);
  json["memory"] = name_of(info.memory);
  if (!info.device.empty()) json["device"] = info.device;
  json["version"] = info.version;
  json["parameter_count"] = info.layout->size();
  json["bytes"] = info.layout->payload_bytes();
  json["buckets"] = info.buckets;
  json["subscribers"] = info.subscribers.size();
  return json;
}

std::vector<std::string> row_of(const PublicationInfo& info) {
  if (!is_known(info)) {
    return {info.name, name_of(info.state), "-", "-", "-", "-", "-", "-", "-", printable(info.why)};
  }
  return {info.name,
          name_of(info.state),
          std::to_string(info.version),
          name_of(info.mode),
          name_of(info.memory),
          std::to_string(info.layout->size()),
          human_bytes(info.layout->payload_bytes()),
          std::to_string(info.subscribers.size()),
          std::to_string(info.pid),
          info.state == Attach::ready ? printable(info.label) : printable(info.why)};
}

Exit ls(const LsOptions& options) {
  const std::vector<PublicationInfo> all = list(options.owner);
  if (options.json) {
    Json json = Json::array();
    for (const PublicationInfo& info : all) json.push_back(json_of(info));
    print_json(json);
    return Exit::ok;
  }
  std::vector<std::vector<std::string>> rows{{"NAME", "STATE", "VERSION", "MODE", "MEMORY",
                                              "PARAMETERS", "SIZE", "SUBSCRIBERS", "PID", "LABEL"}};
  for (const PublicationInfo& info : all) rows.push_back(row_of(info));
  print(table(rows, {2, 5, 6, 7, 8}));
  return Exit::ok;
}

}  // namespace

void add_ls(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("ls", "List publications");
  auto options = std::make_shared<LsOptions>();
  command->add_flag("--json", options->json, "Print a JSON array of objects");
  add_owner(*command, options->owner);
  command->footer("Takes no place in any of them.\n\nExample:\n  tenon ls --json");
  command->callback([options, &run] { run = [options] { return ls(*options); }; });
}

}  // namespace tenon::cli
