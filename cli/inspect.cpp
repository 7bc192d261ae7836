// tenon inspect: one publication, its subscribers and, on request, its layout.
#include <fmt/format.h>

#include <algorithm>
#include <tenon/inspect.hpp>

#include "commands.hpp"
#include "looking.hpp"
#include "options.hpp"

namespace tenon::cli {
namespace {

struct InspectOptions {
  std::string name;
  std::optional<Uid> owner{};
  bool json = false;
  bool parameters = false;
};

std::string subscribers_text(const PublicationInfo& info) {
  if (info.subscribers.empty()) return "";
  std::vector<std::vector<std::string>> rows{{"PLACE", "PID", "HOLDS", "FOR", "LAST", "LABEL"}};
  for (const SubscriberInfo& s : info.subscribers) {
    rows.push_back({std::to_string(s.place), std::to_string(s.pid) + (s.alive ? "" : " (dead)"),
                    s.holds == 0 ? "-" : fmt::format("version {}", s.holds),
                    s.holds == 0 ? "-" : human_duration(s.held_for),
                    s.last_version == 0 ? "-" : std::to_string(s.last_version),
                    printable(s.label)});
  }
  return "\n" + table(rows);
}

std::string stages_text(const PublicationInfo& info) {
  std::vector<std::vector<std::string>> rows;
  if (info.stages) add_stage_rows(rows, "publisher", *info.stages);
  for (const SubscriberInfo& s : info.subscribers)
    if (s.stages) add_stage_rows(rows, fmt::format("place {}", s.place), *s.stages);
  if (rows.empty()) return "";
  rows.insert(rows.begin(), {"STAGE OF", "STAGE", "TIMES", "MEAN", "LONGEST", "LAST", "RATE"});
  return "\n" + table(rows, {2, 3, 4, 5, 6});
}

std::string parameters_text(const Layout& layout) {
  std::vector<std::vector<std::string>> rows{
      {"PARAMETER", "DTYPE", "SHAPE", "BUCKET", "OFFSET", "BYTES"}};
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement place = layout[i];
    rows.push_back({printable(place.name), std::string(info(place.dtype).name),
                    shape_text(place.shape), std::to_string(place.bucket),
                    std::to_string(place.offset), std::to_string(place.bytes)});
    if (const auto original = layout.tied_to(i)) {
      rows.back().push_back("tied to " + printable(layout[*original].name));
    }
  }
  return "\n" + table(rows, {3, 4, 5});
}

std::string text_of(const PublicationInfo& info) {
  std::vector<std::vector<std::string>> rows{
      {"name", info.name}, {"state", fmt::format("{}: {}", name_of(info.state), info.why)}};
  if (info.layout) {
    const Layout& layout = *info.layout;
    rows.push_back({"publisher", fmt::format("process {} of uid {}, since {}", info.pid, info.owner,
                                             time_text(info.created_at))});
    if (!info.label.empty()) rows.push_back({"label", printable(info.label)});
    rows.push_back({"version", info.version == 0 ? "none" : std::to_string(info.version)});
    rows.push_back({"mode", name_of(info.mode)});
    rows.push_back({"memory", name_of(info.memory)});
    if (info.checksums) rows.push_back({"checksums", "by parameter"});
    if (!info.device.empty()) rows.push_back({"device", info.device});
    rows.push_back(
        {"parameters", fmt::format("{} in {} buckets, {} bytes ({})", layout.size(), info.buckets,
                                   layout.payload_bytes(), human_bytes(layout.payload_bytes()))});
    rows.push_back({"slots", fmt::format("{}, {} bytes ({})", info.slots, info.slot_bytes,
                                         human_bytes(info.slot_bytes))});
    if (!layout.metadata().empty()) rows.push_back({"metadata", printable(layout.metadata())});
    rows.push_back({"instance", info.instance});
    rows.push_back({"subscribers", fmt::format("{} of 64 places", info.subscribers.size())});
  }
  return table(rows);
}

Exit inspect(const InspectOptions& options) {
  const PublicationInfo info = look("inspecting", options.name, options.owner);
  if (options.json) {
    print_json(json_of(info, options.parameters));
    return Exit::ok;
  }
  std::string text = text_of(info) + subscribers_text(info) + stages_text(info);
  if (options.parameters && info.layout) text += parameters_text(*info.layout);
  print(text);
  return Exit::ok;
}

}  // namespace

void add_inspect(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("inspect", "Show one publication");
  auto options = std::make_shared<InspectOptions>();
  command->add_option("NAME", options->name, "Name of the publication")->required();
  command->add_flag("--json", options->json, "Print a JSON object");
  command->add_flag("--parameters", options->parameters, "List every parameter and its place");
  add_owner(*command, options->owner);
  command->footer("Takes no place in it.\n\nExample:\n  tenon inspect policy --parameters");
  command->callback([options, &run] { run = [options] { return inspect(*options); }; });
}

}  // namespace tenon::cli
