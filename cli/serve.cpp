// tenon serve: publishes safetensors files, read straight into the slots; into those on a GPU
// through host memory, a piece at a time.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <tenon/copy_and_wait.hpp>
#include <tenon/publisher.hpp>
#include <utility>

#include "commands.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "parallel.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

using safetensors::Checkpoint;

struct ServeOptions {
  std::vector<std::filesystem::path> files;
  std::string name;
  Memory memory = host();
  Mode mode = Mode::in_place;
  std::uint32_t slots = 0;
  std::uint64_t bucket_bytes = 512ULL << 20U;
  std::string label;
  std::uint64_t versions = 1;
  Duration interval = std::chrono::milliseconds(500);
  std::optional<std::uint32_t> subscribers;
  bool checksums = false;
  bool quiet = false;
};

Layout plan_files(const Checkpoint& checkpoint, const ServeOptions& options) {
  PlanOptions how;
  how.bucket_bytes = options.bucket_bytes;
  if (!checkpoint.metadata().empty()) how.metadata = Json(checkpoint.metadata()).dump();
  return plan(checkpoint.parameters(), how);
}

// A layout never changes within a publication, so the files may only change their bytes.
void check_same_layout(const Checkpoint& checkpoint, const Layout& before,
                       const ServeOptions& options) {
  if (plan_files(checkpoint, options).hash() == before.hash()) return;
  const auto& now = checkpoint.parameters();
  std::string what = fmt::format("they have {} parameters, before {}", now.size(), before.size());
  for (std::size_t i = 0; now.size() == before.size() && i < now.size(); ++i) {
    const Placement was = before[i];
    const bool same = was.name == now[i].name && was.dtype == now[i].dtype &&
                      dimensions(was.shape) == now[i].shape;
    what = same ? "their metadata differs"
                : fmt::format("parameter {} is now '{}' {} {}, before '{}' {} {}", i, now[i].name,
                              info(now[i].dtype).name,
                              shape_text(Shape(now[i].shape.data(), now[i].shape.size())), was.name,
                              info(was.dtype).name, shape_text(was.shape));
    if (!same) break;
  }
  throw Error(Errc::BadFile, "the files of '" + options.name +
                                 "' changed their layout since version 1: " + what +
                                 "; start a new publication for another layout");
}

constexpr auto kQuietly = std::chrono::milliseconds(500);  // of waiting before it is mentioned

/// Publishes versions. Every wait ends early when a signal comes, with Interrupted.
class Server {
 public:
  Server(const ServeOptions& options, const Layout& layout)
      : options_(options), publisher_(create(options, layout)) {
    const bool streams = publisher_.mode() == Mode::streaming;
    required_ = options_.subscribers.value_or(streams ? 1 : 0);
    for (const std::string& note : publisher_.notes()) {
      if (!options_.quiet) complain(note);
    }
  }

  void publish(const Checkpoint& checkpoint) {
    Publisher::Update update = publisher_.begin(patient());
    const auto started = std::chrono::steady_clock::now();
    const Layout& layout = publisher_.layout();
    {
      Progress progress("reading", !options_.quiet);
      std::atomic<std::uint64_t> done{0};
      for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
        std::byte* const bucket = update.open(b);
        read_bucket(checkpoint, b, bucket, [&](std::uint64_t bytes) {
          progress.update(done += bytes, layout.payload_bytes());
        });
        update.seal(b);
      }
    }
    (void)update.commit();
    const std::uint64_t version = publisher_.wait_current(std::chrono::minutes(1));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    announce(version, seconds.count());
  }

 private:
  static Publisher create(const ServeOptions& options, const Layout& layout) {
    Progress progress("allocating", !options.quiet);
    PublisherOptions how;
    how.memory = options.memory;
    how.mode = options.mode;
    how.slots = options.slots;
    how.label = options.label;
    how.threads = thread_count();
    how.checksums = options.checksums;
    how.progress = [&](std::uint64_t done, std::uint64_t total) {
      check_signals();
      progress.update(done, total);
    };
    return Publisher::create(options.name, layout, how);
  }

  // Waits as long as it takes, until a signal comes. Says once per version who is waited for.
  PublishOptions patient() {
    PublishOptions how;
    how.deadline = Duration::max();
    how.require = required_;
    how.check = [this, quietly = detail::Deadline(kQuietly), said = false]() mutable {
      check_signals();
      if (options_.quiet || !quietly.passed() || std::exchange(said, true)) return;
      complain("publishing the next version of '" + options_.name + "': " + obstacle() +
               " (still waiting)");
    };
    return how;
  }

  [[nodiscard]] std::string obstacle() const {
    const bool streams = publisher_.mode() == Mode::streaming;
    std::string holders;
    std::uint32_t ready = 0;
    for (const SubscriberInfo& s : publisher_.subscribers()) {
      if (!s.alive) continue;
      ready += !streams || s.holds > publisher_.version() ? 1U : 0U;
      if (s.holds == 0) continue;
      holders += fmt::format("{}pid {} ({}) holds version {}", holders.empty() ? "" : ", ", s.pid,
                             printable(s.label), s.holds);
    }
    if (ready < required_) {
      return fmt::format("fewer than {} subscribers {}", required_,
                         streams ? "are waiting for it" : "are attached");
    }
    return holders.empty() ? "waiting for subscribers to let go" : holders;
  }

  template <class Done>
  void read_bucket(const Checkpoint& checkpoint, std::size_t b, std::byte* to, const Done& done) {
    const Layout& layout = publisher_.layout();
    std::vector<Piece> pieces;
    const auto [first, last] = layout.bucket_parameters(b);
    for (std::size_t i = first; i < last; ++i) add_pieces(pieces, i, layout[i].bytes);
    const bool is_small = layout.bucket_bytes(b) < kPieceBytes;
    for_each_piece(pieces.size(), is_small ? 1 : thread_count(), [&](std::size_t p) {
      check_signals();
      const Piece& piece = pieces[p];
      read_piece(checkpoint, piece, to + layout[piece.parameter].offset + piece.offset);
      done(piece.bytes);
    });
  }

  void read_piece(const Checkpoint& checkpoint, const Piece& piece, std::byte* to) const {
    if (options_.memory.kind == MemoryKind::host) {
      checkpoint.read(piece.parameter, piece.offset, to, piece.bytes);
      return;
    }
    static thread_local std::vector<std::byte> room;
    room.resize(std::max<std::size_t>(room.size(), piece.bytes));
    checkpoint.read(piece.parameter, piece.offset, room.data(), piece.bytes);
    copy_and_wait(options_.memory.kind, to, room.data(), piece.bytes);
  }

  void announce(std::uint64_t version, double seconds) const {
    const Layout& layout = publisher_.layout();
    try {
      print(fmt::format("published {} version={} parameters={} bytes={} seconds={:.3f}\n",
                        options_.name, version, layout.size(), layout.payload_bytes(), seconds));
    } catch (const Error& error) {
      complain(error.what());  // nobody reads our output, but subscribers read the publication
    }
  }

  const ServeOptions& options_;
  Publisher publisher_;
  std::uint32_t required_ = 0;
};

void serve_until_signal(const ServeOptions& options) {
  std::optional<Checkpoint> checkpoint = open_checkpoint(options.files);
  const Layout layout = plan_files(*checkpoint, options);
  Server server(options, layout);
  for (std::uint64_t version = 1; version <= options.versions; ++version) {
    if (version > 1) {
      if (sleep_or_signal(options.interval)) return;
      checkpoint = open_checkpoint(options.files);
      check_same_layout(*checkpoint, layout, options);
    }
    server.publish(*checkpoint);
    checkpoint.reset();
  }
  while (!sleep_or_signal(std::chrono::hours(1))) {
  }
}

Exit serve(const ServeOptions& options) {
  check_name(options.name);
  if (options.slots != 0 && options.mode != Mode::streaming) {
    throw Error(Errc::InvalidArgument,
                fmt::format("--slots is for --mode streaming; in mode {} the layout decides",
                            name_of(options.mode)));
  }
  check_label(options.label);
  use_device(options.memory);
  handle_signals(OnSignal::remember);
  try {
    serve_until_signal(options);
  } catch (const Interrupted&) {
  }
  return Exit::ok;  // being told to stop is how serving ends
}

void add_publication_options(CLI::App& command, ServeOptions& options) {
  add_memory(command, options.memory);
  command
      .add_option_function<std::string>(
          "--mode", [&options](const std::string& text) { options.mode = parse_mode(text); },
          "streaming, in-place or double")
      ->type_name("MODE")
      ->default_str(name_of(options.mode));
  command
      .add_option("--slots", options.slots,
                  "Only streaming: slots, 2 to buckets-1; default min(4, buckets-1)")
      ->type_name("K")
      ->check(CLI::Range(2U, 1U << 20U));
  command
      .add_option_function<std::string>(
          "--bucket-size",
          [&options](const std::string& text) {
            options.bucket_bytes = parse_size("--bucket-size", text);
          },
          "Largest bucket; a larger parameter gets its own")
      ->type_name("SIZE")
      ->default_str("512MiB");
  command.add_option("--label", options.label, "Text shown by ls and inspect, up to 63 bytes")
      ->type_name("TEXT");
}

}  // namespace

void add_serve(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("serve", "Publish safetensors files until told to stop");
  auto options = std::make_shared<ServeOptions>();
  command->add_option("FILE", options->files, "Safetensors files, or one *.safetensors.index.json")
      ->required();
  command->add_option("--name", options->name, "Name of the publication")->required();
  add_publication_options(*command, *options);
  command
      ->add_option("--versions", options->versions, "How many versions; each reads the files again")
      ->type_name("N")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 62U))
      ->capture_default_str();
  add_duration(*command, "--interval", options->interval, "Time between versions");
  command
      ->add_option("--subscribers", options->subscribers,
                   "Wait for so many before each version; default 0, or 1 when streaming")
      ->type_name("N")
      ->check(CLI::Range(0U, 64U));
  command->add_flag("--checksums", options->checksums,
                    "Of every parameter, for 'get --verify'; not when streaming");
  command->add_flag("--quiet", options->quiet, "No notes and no progress on standard error");
  command->footer(
      "Prints one line per version, then stays until SIGINT or SIGTERM, which end it with 0.\n"
      "Without a GPU or its driver, --memory cuda ends it with 1.\n\n"
      "Example:\n  tenon serve model.safetensors --name policy");
  command->callback([options, &run] { run = [options] { return serve(*options); }; });
}

}  // namespace tenon::cli
