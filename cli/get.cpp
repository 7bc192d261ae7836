// tenon get: the first values of one parameter.
#include <fmt/format.h>

#include <algorithm>

#include "commands.hpp"
#include "decode.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "snapshot.hpp"

namespace tenon::cli {
namespace {

struct GetOptions {
  ReaderOptions reader;
  std::string parameter;
  std::uint64_t head = 10;
  bool verify = false;
  bool json = false;
};

// Of all parameters, by the checksums that the publisher took.
void check_whole(const Snapshot& snapshot, bool quiet) {
  Waiting waiting("comparing with the checksums", !quiet);
  const std::vector<std::string> wrong = snapshot.verify();
  waiting.end();
  if (wrong.empty()) return;
  std::string names;
  for (const std::string& name : wrong) names += (names.empty() ? "" : ", ") + printable(name);
  throw Error(
      Errc::BadFormat,
      fmt::format("version {} differs from its checksums in {}: {}", snapshot.version(),
                  wrong.size() == 1 ? "1 parameter" : fmt::format("{} parameters", wrong.size()),
                  names));
}

Exit get(const GetOptions& options) {
  const detail::Deadline deadline(options.reader.timeout);
  Subscriber subscriber = attach_reader(options.reader, "tenon get", deadline);
  const std::size_t i = subscriber.layout().at(options.parameter);
  const Placement place = subscriber.layout()[i];
  std::vector<Value> values;
  std::uint64_t version = 0;
  const std::uint64_t elements = place.bytes / info(place.dtype).bytes;
  {
    Snapshot snapshot = Snapshot::take(subscriber, options.reader, deadline, i);
    version = snapshot.version();
    if (options.verify) check_whole(snapshot, options.reader.quiet);
    const std::uint64_t size = info(place.dtype).bytes;
    const std::uint64_t head = std::min(options.head, elements);
    std::vector<std::byte> room;
    const std::byte* const first = snapshot.bytes({i, 0, head * size}, room);
    for (std::uint64_t e = 0; e < head; ++e)
      values.push_back(decode(place.dtype, first + e * size));
  }
  if (options.json) {
    Json json{{"name", place.name},
              {"dtype", info(place.dtype).name},
              {"shape", dimensions(place.shape)},
              {"version", version},
              {"bytes", place.bytes},
              {"elements", elements},
              {"values", Json::array()}};
    for (const Value& value : values) json["values"].push_back(json_of(value));
    print_json(json);
    return Exit::ok;
  }
  std::string text =
      fmt::format("{} {} {} version={} bytes={}\n", printable(place.name), info(place.dtype).name,
                  shape_text(place.shape), version, place.bytes);
  for (const Value& value : values) text += text_of(value) + "\n";
  if (values.size() < elements) text += fmt::format("... {} more\n", elements - values.size());
  print(text);
  return Exit::ok;
}

}  // namespace

void add_get(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("get", "Print the first values of a parameter");
  auto options = std::make_shared<GetOptions>();
  add_reader(*command, options->reader);
  add_quiet(*command, options->reader.quiet);
  command->add_option("PARAMETER", options->parameter, "Name of the parameter")->required();
  command->add_option("--head", options->head, "How many values, in row-major order")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--verify", options->verify,
                    "First compare all parameters with their checksums ('serve --checksums')");
  command->add_flag("--json", options->json, "Print a JSON object");
  command->footer(
      "In JSON, values that it has no number for are the texts \"nan\", \"inf\" and \"-inf\".\n\n"
      "Example:\n  tenon get policy model.norm.weight --head 4");
  command->callback([options, &run] { run = [options] { return get(*options); }; });
}

}  // namespace tenon::cli
