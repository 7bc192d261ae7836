// tenon trace: what a publication's processes do, on one time line, for chrome://tracing and
// ui.perfetto.dev.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>
#include <tuple>

#include "commands.hpp"
#include "looking.hpp"
#include "options.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

struct TraceOptions {
  std::string name;
  std::optional<Uid> owner{};
  Duration seconds = std::chrono::seconds(5);
  std::string out = "trace.json";
  std::string merge;
};

constexpr Duration kPoll = std::chrono::milliseconds(1);
constexpr std::size_t kMostEvents = 10'000'000;  // a gigabyte of JSON
constexpr std::uintmax_t kMostBytes = 4ULL << 30U;

Json metadata(const char* what, std::int64_t pid, std::size_t row, const std::string& name) {
  return {{"ph", "M"}, {"name", what}, {"pid", pid}, {"tid", row}, {"args", {{"name", name}}}};
}

/// One party's events as they are collected.
struct Row {
  std::int64_t pid = 0;
  std::string name;
  detail::StageReader reader;
  std::vector<StageEvent> events;
};

/// Follows the blocks of one publication, from now on.
class Collector {
 public:
  explicit Collector(const detail::Segment& segment) : segment_(segment) {}

  void poll() {
    const detail::Facts& facts = segment_.facts();
    collect({format::kPublisherByte, facts.publisher.pid, facts.publisher.start_time}, facts.label,
            "publisher");
    for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
      const format::Place& place = segment_.place(i);
      if (place.state.load(std::memory_order_acquire) ==
          static_cast<std::uint32_t>(format::PlaceState::free))
        continue;
      const format::Process owner = detail::owner_of(place);
      collect({i, owner.pid, owner.start_time}, detail::clean_text(place.label), "subscriber");
    }
  }
  [[nodiscard]] bool is_full() const noexcept { return count_ >= kMostEvents; }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] std::uint64_t lost() const {
    std::uint64_t lost = 0;
    for (const auto& [key, row] : rows_) lost += row.reader.lost();
    return lost;
  }
  [[nodiscard]] std::vector<Json> events(const std::string& publication) const;

 private:
  using Key = std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>;  ///< block, pid, start time
  static constexpr std::size_t kMostParties = 4096;  // places can change hands for ever

  void collect(const Key& key, const std::string& label, const char* what) {
    auto found = rows_.find(key);
    if (found == rows_.end()) {
      if (rows_.size() >= kMostParties) return;
      found = rows_.emplace(key, Row{}).first;
      found->second.pid = std::get<1>(key);
      found->second.name = label.empty() ? what : what + (" " + label);
    }
    Row& row = found->second;
    const std::size_t before = row.events.size();
    row.reader.read(*segment_.stages(std::get<0>(key)), row.events);
    count_ += row.events.size() - before;
  }

  const detail::Segment& segment_;
  std::map<Key, Row> rows_;
  std::size_t count_ = 0;
};

std::vector<Json> Collector::events(const std::string& publication) const {
  std::vector<Json> all;
  std::map<std::int64_t, std::size_t> parties;  // of each process so far
  for (const auto& [key, row] : rows_) {
    const std::size_t number = parties[row.pid]++;
    if (number == 0)
      all.push_back(metadata("process_name", row.pid, 0, publication + " " + row.name));
    const auto tid = [&](Stage stage) {
      return number * format::kStageSums + static_cast<std::size_t>(stage) + 1;
    };
    std::array<bool, format::kStages> named{};
    for (const StageEvent& event : row.events) {
      if (!std::exchange(named[static_cast<std::size_t>(event.stage)], true)) {
        const std::string name = name_of(event.stage);
        all.push_back(metadata("thread_name", row.pid, tid(event.stage),
                               number == 0 ? name : row.name + ": " + name));
      }
      all.push_back({{"ph", "X"},
                     {"name", name_of(event.stage)},
                     {"cat", "tenon"},
                     {"pid", row.pid},
                     {"tid", tid(event.stage)},
                     {"ts", static_cast<double>(event.start) / 1e3},
                     {"dur", static_cast<double>(event.duration.count()) / 1e3},
                     {"args", {{"version", event.version}, {"bytes", event.bytes}}}});
    }
  }
  return all;
}

/// One event a line, by time; "M" first.
void write_trace(const std::string& path, std::vector<Json> events) {
  const auto time = [](const Json& event) {
    const auto found = event.find("ts");
    return found != event.end() && found->is_number() ? found->get<double>() : -1.0;
  };
  std::stable_sort(events.begin(), events.end(),
                   [&](const Json& a, const Json& b) { return time(a) < time(b); });
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
  for (std::size_t i = 0; i < events.size(); ++i) {
    file << events[i].dump(-1, ' ', true, Json::error_handler_t::replace)
         << (i + 1 < events.size() ? ",\n" : "\n");
  }
  file << "]}\n";
  if (!file.flush()) throw SystemError(errno, "writing " + path);
}

// The newest events that are in the rings already count too.
Exit record(const TraceOptions& options) {
  (void)look("tracing", options.name, options.owner);
  detail::Found found = detail::find_publication(options.name, options.owner.value_or(::geteuid()),
                                                 detail::SharedObject::Access::read_only);
  if (!found.segment || found.state != Attach::ready)
    throw Error(Errc::PublisherGone, "tracing '" + options.name + "': " + found.why);
  if (found.segment->stages(0) == nullptr) {
    throw Error(Errc::WrongVersion, "tracing '" + options.name +
                                        "': its publisher is of a Tenon that keeps no statistics");
  }
  Collector collector(*found.segment);
  const detail::Deadline end(options.seconds);
  do {
    collector.poll();
  } while (!end.passed() && !collector.is_full() &&
           !sleep_or_signal(std::min<Duration>(kPoll, end.left())));
  collector.poll();
  write_trace(options.out, collector.events(options.name));
  print(fmt::format("traced {} events={} lost={} file={}\n", options.name, collector.count(),
                    collector.lost(), options.out));
  return Exit::ok;
}

/// An event of what it must have and nothing else; nothing for what is none.
std::optional<Json> event_of(const Json& line) {
  const auto is_number = [&](const char* key) {
    return line.contains(key) && line[key].is_number();
  };
  const auto is_text = [](const Json& in, const char* key) {
    return in.contains(key) && in[key].is_string();
  };
  if (!line.is_object() || !is_text(line, "ph") || !is_text(line, "name") || !is_number("pid") ||
      !is_number("tid") || !line.contains("args") || !line["args"].is_object())
    return std::nullopt;
  const Json& args = line["args"];
  Json event{
      {"ph", line["ph"]}, {"name", line["name"]}, {"pid", line["pid"]}, {"tid", line["tid"]}};
  if (line["ph"] == "M" && is_text(args, "name")) {
    event["args"] = {{"name", args["name"]}};
    return event;
  }
  if (line["ph"] != "X" || !is_number("ts") || !is_number("dur")) return std::nullopt;
  event["cat"] = "tenon";
  event["ts"] = line["ts"];
  event["dur"] = line["dur"];
  event["args"] = Json::object();
  for (const char* key : {"version", "bytes"})
    if (args.contains(key) && args[key].is_number()) event["args"][key] = args[key];
  return event;
}

// What TENON_TRACE leaves: a line an event, the last one perhaps cut off. Lines that are no event
// are left out and counted.
std::uint64_t add_file(const std::filesystem::path& path, std::vector<Json>& events) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw SystemError(errno, "opening " + path.string());
  std::uint64_t bad = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line == "[" || line == "]") continue;
    if (line.back() == ',') line.pop_back();
    const Json event =
        line.size() > 65536 ? Json(Json::value_t::discarded) : Json::parse(line, nullptr, false);
    std::optional<Json> known = event_of(event);
    if (!known || events.size() >= kMostEvents)
      ++bad;
    else
      events.push_back(std::move(*known));
  }
  return bad;
}

Exit merge(const TraceOptions& options) {
  std::vector<std::filesystem::path> files;
  std::uintmax_t bytes = 0;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(options.merge, failed)) {
    if (entry.path().extension() != ".json" || !entry.is_regular_file()) continue;
    if (std::error_code none; std::filesystem::equivalent(entry.path(), options.out, none))
      continue;
    files.push_back(entry.path());
    bytes += entry.file_size();
  }
  if (failed) throw SystemError(failed.value(), "reading the folder " + options.merge);
  if (files.empty())
    throw Error(Errc::BadFile, "there is no trace (*.json) in the folder " + options.merge);
  if (bytes > kMostBytes)
    throw Error(Errc::BadFile, "the traces in " + options.merge + " have more than 4 GiB");
  std::sort(files.begin(), files.end());
  std::vector<Json> events;
  std::uint64_t bad = 0;
  for (const auto& file : files) bad += add_file(file, events);
  const std::size_t count = static_cast<std::size_t>(std::count_if(
      events.begin(), events.end(), [](const Json& e) { return e.value("ph", "") == "X"; }));
  write_trace(options.out, std::move(events));
  print(fmt::format("merged files={} events={} lost={} file={}\n", files.size(), count, bad,
                    options.out));
  return Exit::ok;
}

}  // namespace

void add_trace(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("trace", "Record where the time goes, on one time line");
  auto options = std::make_shared<TraceOptions>();
  CLI::Option* name = command->add_option("NAME", options->name, "Name of the publication");
  add_duration(*command, "--seconds", options->seconds, "How long to record");
  command->add_option("-o,--output", options->out, "The file to write")->capture_default_str();
  command
      ->add_option("--merge", options->merge,
                   "Make one file of those that TENON_TRACE=DIR left in DIR")
      ->type_name("DIR")
      ->excludes(name);
  add_owner(*command, options->owner);
  command->footer(
      "For chrome://tracing and ui.perfetto.dev. Takes no place in it.\n\nExample:\n  tenon trace "
      "policy --seconds 5 -o trace.json");
  command->callback([options, &run] {
    if (options->name.empty() && options->merge.empty())
      throw CLI::RequiredError("NAME or --merge");
    run = [options] {
      handle_signals(OnSignal::remember);
      return options->merge.empty() ? record(*options) : merge(*options);
    };
  });
}

}  // namespace tenon::cli
