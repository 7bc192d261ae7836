// tenon watch: one publication, as it goes on.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "commands.hpp"
#include "options.hpp"
#include "signals.hpp"
#include "watch_view.hpp"

namespace tenon::cli {
namespace {

struct WatchOptions {
  std::string name;
  std::optional<Uid> owner{};
  Duration interval = std::chrono::seconds(1);
  std::uint64_t looks = 0;
  bool json = false;
};

/// The terminal that standard output is, or not. It is asked each time: people drag windows.
struct Terminal {
  bool is_one = ::isatty(STDOUT_FILENO) == 1;
  std::size_t width = 80;
  std::size_t height = 24;
  Terminal() {
    struct ::winsize size {};
    if (!is_one || ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return;
    if (size.ws_col > 0) width = size.ws_col;
    if (size.ws_row > 0) height = size.ws_row;
  }
};

Json json_line(const Sight* before, const Sight& now) {
  Json json = json_of(now.info, false);
  json.erase("metadata");
  if (const auto rates = rates_between(before, now)) {
    json["versions_per_second"] = rates->versions;
    json["bytes_per_second"] = rates->bytes;
  }
  return json;
}

void show(const WatchOptions& options, const Sight* before, const Sight& now) {
  if (options.json) {
    return print(json_line(before, now).dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
  }
  const Terminal terminal;
  if (!terminal.is_one) return print(lines_of(before, now));
  // Home, every line to its end, then what an earlier, longer look left.
  std::string text = "\033[H";
  for (const std::string& line : screen_of(before, now, terminal.width, terminal.height - 1))
    text += line + "\033[K\n";
  print(text + "\033[J");
}

// How it ended, for whom it was there: by its publisher's death, or close.
[[noreturn]] void throw_gone(const PublicationInfo& info) {
  const bool absent = info.state == Attach::absent;
  throw Error(
      absent ? Errc::Closed : Errc::PublisherGone,
      fmt::format("watching '{}': {}", info.name, absent ? "its publisher closed it" : info.why));
}

Exit watch(const WatchOptions& options) {
  std::optional<Sight> before;
  PublicationInfo info = look("watching", options.name, options.owner);
  for (std::uint64_t looks = 1;; ++looks) {
    const bool is_there = info.state == Attach::ready || info.state == Attach::starting;
    if (!is_there) throw_gone(info);
    Sight now{std::move(info), detail::monotonic_ns()};
    show(options, before ? &*before : nullptr, now);
    if (looks == options.looks) return Exit::ok;
    before = std::move(now);
    if (sleep_or_signal(options.interval)) return Exit::ok;
    info = tenon::inspect(options.name, options.owner);
  }
}

}  // namespace

void add_watch(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("watch", "Show one publication as it goes on");
  auto options = std::make_shared<WatchOptions>();
  command->add_option("NAME", options->name, "Name of the publication")->required();
  add_duration(*command, "--interval", options->interval, "Between two looks");
  command->add_option("--looks", options->looks, "End after so many; 0: when it ends");
  command->add_flag("--json", options->json, "Print a JSON object a line");
  add_owner(*command, options->owner);
  command->footer(
      "Takes no place in it. Repaints a terminal; plain lines when standard output is none. Ends "
      "with\nit, by exit code 5.\n\nExample:\n  tenon watch policy --interval 500ms");
  command->callback([options, &run] {
    run = [options] {
      handle_signals(OnSignal::remember);
      options->interval = std::max<Duration>(options->interval, std::chrono::milliseconds(10));
      return watch(*options);
    };
  });
}

}  // namespace tenon::cli
