// tenon dump: what a subscriber sees, as a safetensors file.
#include <fmt/format.h>

#include <chrono>
#include <system_error>

#include "commands.hpp"
#include "metadata.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "signals.hpp"
#include "snapshot.hpp"

namespace tenon::cli {
namespace {

struct DumpOptions {
  ReaderOptions reader;
  std::filesystem::path out;
};

// Found out before the wait for a version, not after it.
void check_output(const std::filesystem::path& out) {
  std::error_code ignored;
  const std::filesystem::path folder = out.has_parent_path() ? out.parent_path() : ".";
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw SystemError(ENOTDIR, "writing '" + out.string() + "'");
  }
  if (std::filesystem::is_directory(out, ignored)) {
    throw SystemError(EISDIR, "writing '" + out.string() + "'");
  }
}

// A safetensors file has text for each key. Another publisher's metadata may hold any JSON.
safetensors::Metadata metadata_of(const Layout& layout) {
  safetensors::Metadata metadata;
  if (layout.metadata().empty()) return metadata;
  const auto json = metadata_json(layout);
  if (!json) {
    complain("the publication's metadata is no JSON object, or nests too deep, and is left out");
    return metadata;
  }
  for (const auto& [key, value] : json->items()) {
    metadata[key] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return metadata;
}

// Tied parameters are written under both names: a safetensors file cannot say that two share bytes.
std::vector<Parameter> parameters_of(const Layout& layout) {
  std::vector<Parameter> parameters;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement place = layout[i];
    parameters.push_back({std::string(place.name), place.dtype, dimensions(place.shape)});
  }
  return parameters;
}

Exit dump(const DumpOptions& options) {
  check_output(options.out);
  const detail::Deadline deadline(options.reader.timeout);
  Subscriber subscriber = attach_reader(options.reader, "tenon dump", deadline);
  const Layout layout = subscriber.layout();
  const safetensors::Metadata metadata = metadata_of(layout);
  std::vector<Parameter> parameters = parameters_of(layout);
  Snapshot snapshot = Snapshot::take(subscriber, options.reader, deadline);

  const auto started = std::chrono::steady_clock::now();
  handle_signals(OnSignal::remember);  // from here on there is a temporary file to remove
  safetensors::Writer writer(options.out, std::move(parameters), metadata);
  std::uint64_t bytes = 0;
  {
    Progress progress("writing", !options.reader.quiet);
    std::vector<std::byte> room;
    for (const std::size_t i : writer.order()) {
      std::vector<Piece> pieces;
      add_pieces(pieces, i, layout[i].bytes);
      if (pieces.empty()) writer.write(i, nullptr);
      for (const Piece& piece : pieces) {
        check_signals();
        writer.write_part(i, snapshot.bytes(piece, room), piece.bytes);
        progress.update(bytes += piece.bytes, layout.payload_bytes());
      }
    }
  }
  snapshot.release();
  {
    const Waiting waiting("syncing", !options.reader.quiet);
    writer.commit();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  if (!options.reader.quiet) {
    print(fmt::format("dumped {} version={} parameters={} bytes={} seconds={:.3f}\n",
                      options.reader.name, snapshot.version(), layout.size(), bytes,
                      seconds.count()));
  }
  return Exit::ok;
}

}  // namespace

void add_dump(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("dump", "Write a version to a safetensors file");
  auto options = std::make_shared<DumpOptions>();
  add_reader(*command, options->reader);
  command->add_option("OUT", options->out, "File to write; replaced when whole")->required();
  command
      ->add_option("--version", options->reader.version,
                   "Exactly this version; one that is past ends with 4 at once")
      ->type_name("V")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 62U));
  command->add_flag("--quiet", options->reader.quiet, "Print nothing but errors");
  command->footer(
      "Exits with 3 when the name never appeared, 4 when no (such) version did, 5 when the\n"
      "publisher is or becomes dead.\n\nExample:\n"
      "  tenon dump policy now.safetensors --timeout 30s");
  command->callback([options, &run] { run = [options] { return dump(*options); }; });
}

}  // namespace tenon::cli
