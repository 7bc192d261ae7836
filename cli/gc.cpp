// tenon gc: removes what dead publishers left behind.
#include <fmt/format.h>

#include <tenon/inspect.hpp>

#include "commands.hpp"
#include "options.hpp"
#include "progress.hpp"

namespace tenon::cli {
namespace {

struct GcOptions {
  std::optional<Uid> owner{};
  bool dry_run = false;
  bool json = false;
  bool quiet = false;
};

Exit collect(const GcOptions& options) {
  std::vector<Leftover> leftovers;
  {  // freeing many GB takes seconds
    const Waiting waiting("removing leftovers", !options.quiet);
    leftovers = tenon::gc(options.dry_run, options.owner);
  }
  if (options.json) {
    Json json = Json::array();
    for (const Leftover& l : leftovers) {
      json.push_back({{"object", l.object},
                      {"bytes", l.bytes},
                      {"why", l.why},
                      {"removed", !options.dry_run}});
    }
    print_json(json);
    return Exit::ok;
  }
  std::string text;
  for (const Leftover& l : leftovers) {
    text += fmt::format("{} /dev/shm/{} ({}): {}\n", options.dry_run ? "would remove" : "removed",
                        printable(l.object), human_bytes(l.bytes), printable(l.why));
  }
  print(text.empty() ? "nothing to remove\n" : text);
  return Exit::ok;
}

}  // namespace

void add_gc(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("gc", "Remove what dead publishers left in /dev/shm");
  auto options = std::make_shared<GcOptions>();
  command->add_flag("--dry-run", options->dry_run, "Only say what would be removed");
  command->add_flag("--json", options->json, "Print a JSON array of objects");
  add_owner(*command, options->owner);
  add_quiet(*command, options->quiet);
  command->footer("Safe beside live publishers and subscribers.\n\nExample:\n  tenon gc --dry-run");
  command->callback([options, &run] { run = [options] { return collect(*options); }; });
}

}  // namespace tenon::cli
