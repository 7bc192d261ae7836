// tenon verify: compares a publication with safetensors files, bit for bit.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "commands.hpp"
#include "options.hpp"
#include "parallel.hpp"
#include "progress.hpp"
#include "snapshot.hpp"

namespace tenon::cli {
namespace {

using safetensors::Checkpoint;

struct VerifyOptions {
  ReaderOptions reader;
  std::vector<std::filesystem::path> files;
  bool json = false;
};

struct Difference {
  std::string parameter;
  const char* kind;  ///< missing, extra, dtype, shape, bytes
  std::string detail;
};

/// A parameter that both sides have, with equal dtype and shape.
struct Pair {
  std::size_t published;  ///< index in the layout
  std::size_t filed;      ///< index in the checkpoint
  std::uint64_t differing = 0;
  std::uint64_t first = ~std::uint64_t{0};  ///< offset of the first byte that differs
};

std::string describe(Dtype dtype, Shape shape) {
  return fmt::format("{} {}", info(dtype).name, shape_text(shape));
}

// Sorts parameters into pairs to compare and differences that need no look at the bytes.
std::vector<Pair> match(const Layout& layout, const Checkpoint& files,
                        std::vector<Difference>& differences) {
  std::unordered_map<std::string_view, std::size_t> filed;
  for (std::size_t i = 0; i < files.parameters().size(); ++i) {
    const Parameter& p = files.parameters()[i];
    filed.emplace(p.name, i);
    if (layout.find(p.name)) continue;
    differences.push_back({p.name, "missing", "in the file, not in the publication"});
  }
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement place = layout[i];
    const auto found = filed.find(place.name);
    if (found == filed.end()) {
      differences.push_back(
          {std::string(place.name), "extra", "in the publication, not in the file"});
      continue;
    }
    const Parameter& p = files.parameters()[found->second];
    const Shape shape(p.shape.data(), p.shape.size());
    const bool same_shape = dimensions(place.shape) == p.shape;
    if (p.dtype == place.dtype && same_shape) {
      pairs.push_back({i, found->second});
      continue;
    }
    differences.push_back(
        {p.name, same_shape ? "dtype" : "shape",
         fmt::format("published {}, in the file {}", describe(place.dtype, place.shape),
                     describe(p.dtype, shape))});
  }
  return pairs;
}

// Returns the number of bytes that were compared.
std::uint64_t compare(const Checkpoint& files, const Layout& layout, const Snapshot& snapshot,
                      std::vector<Pair>& pairs, bool quiet) {
  std::vector<Piece> pieces;
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    add_pieces(pieces, p, layout[pairs[p].published].bytes);
  }
  Progress progress("comparing", !quiet);
  std::mutex mutex;  // guards pairs' results and done
  std::uint64_t done = 0;
  for_each_piece(pieces.size(), thread_count(), [&](std::size_t n) {
    static thread_local std::vector<std::byte> buffer;
    static thread_local std::vector<std::byte> room;
    const Piece& piece = pieces[n];
    Pair& pair = pairs[piece.parameter];
    buffer.resize(std::max<std::size_t>(buffer.size(), piece.bytes));
    files.read(pair.filed, piece.offset, buffer.data(), piece.bytes);
    const std::byte* published = snapshot.bytes({pair.published, piece.offset, piece.bytes}, room);
    std::uint64_t differing = 0;
    std::uint64_t first = ~std::uint64_t{0};
    if (std::memcmp(buffer.data(), published, piece.bytes) != 0) {
      for (std::uint64_t i = 0; i < piece.bytes; ++i) {
        if (buffer[i] == published[i]) continue;
        first = std::min(first, piece.offset + i);
        ++differing;
      }
    }
    const std::lock_guard lock(mutex);
    pair.differing += differing;
    pair.first = std::min(pair.first, first);
    progress.update(done += piece.bytes, layout.payload_bytes());
  });
  return done;
}

void report(const VerifyOptions& options, const Layout& layout, std::uint64_t version,
            const std::vector<Difference>& differences) {
  if (options.json) {
    Json json{{"name", options.reader.name},
              {"version", version},
              {"parameter_count", layout.size()},
              {"bytes", layout.payload_bytes()},
              {"differences", Json::array()}};
    for (const Difference& d : differences) {
      json["differences"].push_back(
          {{"parameter", d.parameter}, {"kind", d.kind}, {"detail", d.detail}});
    }
    print_json(json);
    return;
  }
  std::string text;
  for (const Difference& d : differences) {
    text += fmt::format("{} {}: {}\n", d.kind, printable(d.parameter), d.detail);
  }
  print(text + fmt::format("verified {} version={} parameters={} bytes={} differing={}\n",
                           options.reader.name, version, layout.size(), layout.payload_bytes(),
                           differences.size()));
}

Exit verify(const VerifyOptions& options) {
  const Checkpoint files = open_checkpoint(options.files);
  const detail::Deadline deadline(options.reader.timeout);
  Subscriber subscriber = attach_reader(options.reader, "tenon verify", deadline);
  const Layout layout = subscriber.layout();
  std::vector<Difference> differences;
  std::vector<Pair> pairs = match(layout, files, differences);
  Snapshot snapshot = Snapshot::take(subscriber, options.reader, deadline);
  detail::StageTimer timer(subscriber.stages(), format::Stage::verify);
  timer.done(snapshot.version(), compare(files, layout, snapshot, pairs, options.reader.quiet));
  snapshot.release();
  for (const Pair& pair : pairs) {
    if (pair.differing == 0) continue;
    const Placement place = layout[pair.published];
    differences.push_back(
        {std::string(place.name), "bytes",
         fmt::format("{} of {} bytes differ, the first at byte {} (element {})", pair.differing,
                     place.bytes, pair.first, pair.first / info(place.dtype).bytes)});
  }
  report(options, layout, snapshot.version(), differences);
  return differences.empty() ? Exit::ok : Exit::failed;
}

}  // namespace

void add_verify(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("verify", "Compare a version with safetensors files");
  auto options = std::make_shared<VerifyOptions>();
  add_reader(*command, options->reader);
  add_quiet(*command, options->reader.quiet);
  command->add_option("FILE", options->files, "Safetensors files, or one *.safetensors.index.json")
      ->required();
  command->add_flag("--json", options->json, "Print a JSON object");
  command->footer(
      "Names every parameter that differs, is missing or is extra; then it exits with 1.\n\n"
      "Example:\n  tenon verify policy model.safetensors");
  command->callback([options, &run] { run = [options] { return verify(*options); }; });
}

}  // namespace tenon::cli
