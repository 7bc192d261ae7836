// tenon doctor: what on this machine stands in the way, and what to do about it.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "commands.hpp"
#include "doctor/collect.hpp"
#include "doctor/gpus.hpp"
#include "doctor/sharing.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

using doctor::Finding;
using doctor::Status;

struct DoctorOptions {
  std::string name;
  std::optional<Uid> owner{};
  Duration timeout = std::chrono::seconds(30);
  bool json = false;
  bool quiet = false;
  // Of the processes that it starts:
  std::string as;
  std::string file;
};

struct Row {
  std::string name;
  Finding finding;
};

constexpr std::size_t kWidth = 80;
constexpr std::size_t kNames = 13;    // column where names begin
constexpr std::size_t kDetails = 31;  // and details

// Advice ends with where the document says why it matters, as errors end with their row.
Row row_of(const char* name, Finding finding) {
  if (!finding.advice.empty()) finding.advice += fmt::format(" [docs/doctor.md#{}]", name);
  return {name, std::move(finding)};
}

std::vector<Row> examine(const DoctorOptions& options) {
  const Uid owner = options.owner.value_or(::geteuid());
  const Waiting waiting("looking at this machine", !options.quiet);
  doctor::Evidence evidence = doctor::collect(owner);
  handle_signals(OnSignal::remember);  // it makes a file
  evidence.sharing = doctor::try_sharing("/dev/shm", options.timeout);
  handle_signals(OnSignal::exit);
  evidence.gpus = doctor::ask_gpus(options.timeout);
  doctor::look_for_engines(evidence);
  std::vector<Row> rows;
  for (const auto* group :
       {&doctor::host_checks(), &doctor::cuda_checks(), &doctor::network_checks()}) {
    for (const doctor::Check& check : *group)
      rows.push_back(row_of(check.name, check.ask(evidence)));
  }
  if (!options.name.empty())
    rows.push_back(
        row_of("publication", doctor::judge(doctor::look_at(options.name, owner), evidence)));
  return rows;
}

// Words of `text` in lines that end before kWidth, from column `indent` on.
std::string wrapped(const std::string& text, std::size_t indent) {
  std::istringstream words(text);
  std::string out;
  std::size_t column = indent;
  for (std::string word; words >> word;) {
    if (column > indent && column + 1 + word.size() > kWidth) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    }
    if (column > indent) out += ' ';
    column += word.size() + (column > indent ? 1 : 0);
    out += word;
  }
  return out;
}

std::string cut(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  std::size_t end = most - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80) --end;
  return text.substr(0, end) + "...";
}

bool wants_colour() {
  const char* terminal = std::getenv("TERM");
  return ::isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr &&
         terminal != nullptr && std::string_view(terminal) != "dumb";
}

std::string coloured(Status status, bool colour) {
  const std::string text = fmt::format("{:<{}}", name_of(status), kNames);
  if (!colour) return text;
  const int number = status == Status::ok     ? 32
                     : status == Status::warn ? 33
                     : status == Status::fail ? 31
                                              : 2;
  return fmt::format("\033[{}m{}\033[0m", number, text);
}

std::string line_of(const Row& row, bool colour) {
  const std::string head =
      coloured(row.finding.status, colour) + fmt::format("{:<{}}", row.name, kDetails - kNames);
  const std::string detail = printable(row.finding.detail);
  if (row.finding.advice.empty()) return head + cut(detail, kWidth - kDetails) + "\n";
  return head + wrapped(detail, kDetails) + "\n" + std::string(kDetails - 3, ' ') + "-> " +
         wrapped(printable(row.finding.advice), kDetails) + "\n";
}

std::string text_of(const std::vector<Row>& rows) {
  const bool colour = wants_colour();
  std::string text;
  for (const Row& row : rows) text += line_of(row, colour);
  const auto count = [&](Status status) {
    return std::count_if(rows.begin(), rows.end(),
                         [=](const Row& row) { return row.finding.status == status; });
  };
  return text + fmt::format(
                    "{} ok, {} warn, {} fail, {} not checked; docs/doctor.md says why each "
                    "matters\n",
                    count(Status::ok), count(Status::warn), count(Status::fail),
                    count(Status::not_checked));
}

Json json_of(const std::vector<Row>& rows) {
  Json checks = Json::array();
  for (const Row& row : rows)
    checks.push_back({{"name", row.name},
                      {"status", name_of(row.finding.status)},
                      {"detail", row.finding.detail},
                      {"advice", row.finding.advice}});
  return {{"checks", std::move(checks)}};
}

Exit diagnose(const DoctorOptions& options) {
  if (options.as == "exporter") {
    doctor::tell_of_gpus();
  } else if (options.as == "importer") {
    doctor::open_handles();
  } else if (options.as == "sharer") {
    doctor::share_back(options.file);
  }
  if (!options.as.empty()) return Exit::ok;
  if (!options.name.empty()) check_name(options.name);
  const std::vector<Row> rows = examine(options);
  if (options.json) {
    print_json(json_of(rows));
  } else {
    print(text_of(rows));
  }
  const bool failed = std::any_of(
      rows.begin(), rows.end(), [](const Row& row) { return row.finding.status == Status::fail; });
  return failed ? Exit::failed : Exit::ok;
}

}  // namespace

void add_doctor(CLI::App& app, Run& run) {
  CLI::App* command =
      app.add_subcommand("doctor", "Check what this machine can do, and say what to mend");
  auto options = std::make_shared<DoctorOptions>();
  command->add_option("NAME", options->name, "Also whether this publication can be attached to");
  command->add_flag("--json", options->json, "Print a JSON object");
  add_duration(*command, "--timeout", options->timeout,
               "How long to wait for each answer of a GPU");
  add_owner(*command, options->owner);
  add_quiet(*command, options->quiet);
  command->add_option("--as", options->as)->group("");
  command->add_option("--file", options->file)->group("");
  command->footer(
      "Exits with 1 when a check fails, with 0 when all is well or there are warnings only.\n\n"
      "Example:\n  tenon doctor policy");
  command->callback([options, &run] { run = [options] { return diagnose(*options); }; });
}

}  // namespace tenon::cli
