// tenon get: the first values of one parameter.
#include <fmt/format.h>

#include <algorithm>

#include "commands.hpp"
#include "decode.hpp"
#include "options.hpp"
#include "snapshot.hpp"

namespace tenon::cli {
namespace {

struct GetOptions {
  ReaderOptions reader;
  std::string parameter;
  std::uint64_t head = 10;
  bool json = false;
  bool verify = false;
};

Exit get(const GetOptions& options) {
  const detail::Deadline deadline(options.reader.timeout);
  Subscriber subscriber = attach_reader(options.reader, "tenon get", deadline);
  const std::size_t i = subscriber.layout().at(options.parameter);
  const Placement place = subscriber.layout()[i];
  std::vector<Value> values;
  std::vector<std::string> wrong;
  std::uint64_t version = 0;
  const std::uint64_t elements = place.bytes / info(place.dtype).bytes;
  {
    Snapshot snapshot = Snapshot::take(subscriber, options.reader, deadline, i);
    version = snapshot.version();
    const std::uint64_t size = info(place.dtype).bytes;
    const std::uint64_t head = std::min(options.head, elements);
    std::vector<std::byte> room;
    const std::byte* const first = snapshot.bytes({i, 0, head * size}, room);
    for (std::uint64_t e = 0; e < head; ++e)
      values.push_back(decode(place.dtype, first + e * size));
    if (options.verify) wrong = snapshot.verify();
  }
  for (const std::string& name : wrong)
    complain(fmt::format("version {} of '{}': the bytes of '{}' are not those that were published",
                         version, options.reader.name, printable(name)));
  const Exit exit = wrong.empty() ? Exit::ok : Exit::failed;
  if (options.json) {
    Json json{{"name", place.name},
              {"dtype", info(place.dtype).name},
              {"shape", dimensions(place.shape)},
              {"version", version},
              {"bytes", place.bytes},
              {"elements", elements},
              {"values", Json::array()}};
    for (const Value& value : values) json["values"].push_back(json_of(value));
    if (options.verify) json["differing"] = wrong;
    print_json(json);
    return exit;
  }
  std::string text =
      fmt::format("{} {} {} version={} bytes={}\n", printable(place.name), info(place.dtype).name,
                  shape_text(place.shape), version, place.bytes);
  for (const Value& value : values) text += text_of(value) + "\n";
  if (values.size() < elements) text += fmt::format("... {} more\n", elements - values.size());
  if (options.verify && wrong.empty())
    text += fmt::format("all {} parameters are as published\n", subscriber.layout().size());
  print(text);
  return exit;
}

}  // namespace

void add_get(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("get", "Print the first values of a parameter");
  auto options = std::make_shared<GetOptions>();
  add_reader(*command, options->reader);
  command->add_option("PARAMETER", options->parameter, "Name of the parameter")->required();
  command->add_option("--head", options->head, "How many values, in row-major order")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag(
      "--verify", options->verify,
      "Compute the checksums of all parameters; name those that differ and exit with 1");
  command->add_flag("--json", options->json, "Print a JSON object");
  command->footer(
      "In JSON, values that it has no number for are the texts \"nan\", \"inf\" and \"-inf\".\n\n"
      "Example:\n  tenon get policy model.norm.weight --head 4");
  command->callback([options, &run] { run = [options] { return get(*options); }; });
}

}  // namespace tenon::cli
