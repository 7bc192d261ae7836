// tenon trace: what a publication's processes do, on one time line, for chrome://tracing and
// ui.perfetto.dev.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
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

/// Numbers for processes: their pids, but of several with the same pid, in containers of their own
/// or one after the other, only the first has that.
class ProcessNumbers {
 public:
  using Who = std::tuple<std::int64_t, std::uint64_t, std::uint64_t>;  ///< pid, start, namespace
  std::int64_t of(const Who& who) {
    const auto [found, fresh] = numbers_.emplace(who, std::get<0>(who));
    if (fresh && !taken_.insert(found->second).second)
      taken_.insert(found->second = kAboveAllPids + static_cast<std::int64_t>(taken_.size()));
    return found->second;
  }

 private:
  static constexpr std::int64_t kAboveAllPids = 1 << 22;  // PID_MAX_LIMIT of Linux
  std::map<Who, std::int64_t> numbers_;
  std::set<std::int64_t> taken_;
};

ProcessNumbers::Who who_is(const format::Process& process) {
  return {process.pid, process.start_time, process.pid_namespace};
}

/// One party's events as they are collected.
struct Party {
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
    collect(format::kPublisherByte, facts.publisher, facts.label, "publisher");
    for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
      const format::Place& place = segment_.place(i);
      if (place.state.load(std::memory_order_acquire) ==
          static_cast<std::uint32_t>(format::PlaceState::free))
        continue;
      collect(i, detail::owner_of(place), detail::clean_text(place.label), "subscriber");
    }
  }
  [[nodiscard]] bool is_full() const noexcept { return count_ >= kMostEvents; }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] std::uint64_t lost() const {
    std::uint64_t lost = 0;
    for (const auto& [key, party] : parties_) lost += party.reader.lost();
    return lost;
  }
  [[nodiscard]] std::vector<Json> events(const std::string& publication) const;

 private:
  using Key = std::pair<std::uint32_t, ProcessNumbers::Who>;  ///< the block, and whose
  static constexpr std::size_t kMostParties = 4096;           // places can change hands for ever

  void collect(std::uint32_t block, const format::Process& owner, const std::string& label,
               const char* what) {
    const Key key{block, who_is(owner)};
    auto found = parties_.find(key);
    if (found == parties_.end()) {
      if (parties_.size() >= kMostParties) return;
      const std::string name = label.empty() ? what : what + (" " + label);
      found = parties_.emplace(key, Party{name, detail::StageReader(owner), {}}).first;
    }
    Party& party = found->second;
    const std::size_t before = party.events.size();
    party.reader.read(*segment_.stages(block), party.events);
    count_ += party.events.size() - before;
  }

  const detail::Segment& segment_;
  std::map<Key, Party> parties_;
  std::size_t count_ = 0;
};

std::vector<Json> Collector::events(const std::string& publication) const {
  std::vector<Json> all;
  ProcessNumbers numbers;
  std::map<std::int64_t, unsigned> parties;  // of each process so far
  for (const auto& [key, party] : parties_) {
    const std::int64_t pid = numbers.of(key.second);
    const unsigned number = parties[pid]++;
    if (number == 0)
      all.push_back(metadata("process_name", pid, 0, publication + " " + party.name));
    std::set<unsigned> named;
    for (const StageEvent& event : party.events) {
      const std::string stage = name_of(event.stage);
      const unsigned row =
          number * detail::kTraceRows + detail::trace_row(event.stage, event.version) + 1;
      if (named.insert(row).second)
        all.push_back(
            metadata("thread_name", pid, row, number == 0 ? stage : party.name + ": " + stage));
      all.push_back({{"ph", "X"},
                     {"name", stage},
                     {"cat", "tenon"},
                     {"pid", pid},
                     {"tid", row},
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
  const auto is_integer = [&](const char* key) {
    return line.contains(key) && line[key].is_number_integer();
  };
  const auto is_text = [](const Json& in, const char* key) {
    return in.contains(key) && in[key].is_string();
  };
  if (!line.is_object() || !is_text(line, "ph") || !is_text(line, "name") || !is_integer("pid") ||
      !is_integer("tid") || !line.contains("args") || !line["args"].is_object())
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

/// The events of several files.
class Merged {
 public:
  // What TENON_TRACE leaves: a line an event, the last one perhaps cut off. Lines that are no event
  // are left out and counted.
  void add_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw SystemError(errno, "opening " + path.string());
    std::optional<ProcessNumbers::Who> writer;
    for (std::string line; std::getline(file, line);) {
      if (line.empty() || line == "[" || line == "]") continue;
      if (line.back() == ',') line.pop_back();
      const Json event =
          line.size() > 65536 ? Json(Json::value_t::discarded) : Json::parse(line, nullptr, false);
      std::optional<Json> known = event_of(event);
      if (!known || events.size() >= kMostEvents) {
        ++lost;
        continue;
      }
      const bool names_process = known->at("name") == "process_name";
      if (names_process) writer = process_of(event);
      std::int64_t pid = known->at("pid");
      if (writer && pid == std::get<0>(*writer)) (*known)["pid"] = pid = numbers_.of(*writer);
      if (!names_process || named_.insert(pid).second) events.push_back(std::move(*known));
    }
  }
  std::vector<Json> events;
  std::uint64_t lost = 0;

 private:
  // What of it is missing, or no such number, is 0.
  static ProcessNumbers::Who process_of(const Json& event) {
    const auto number = [&](const char* key) {
      const auto found = event["args"].find(key);
      const bool is = found != event["args"].end() && found->is_number_unsigned();
      return is ? found->get<std::uint64_t>() : 0;
    };
    return {event["pid"].get<std::int64_t>(), number("started"), number("namespace")};
  }
  ProcessNumbers numbers_;
  std::set<std::int64_t> named_;
};

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
  Merged merged;
  for (const auto& file : files) merged.add_file(file);
  const auto count = std::count_if(merged.events.begin(), merged.events.end(),
                                   [](const Json& e) { return e.value("ph", "") == "X"; });
  write_trace(options.out, std::move(merged.events));
  print(fmt::format("merged files={} events={} lost={} file={}\n", files.size(), count, merged.lost,
                    options.out));
  return Exit::ok;
}

}  // namespace

void add_trace(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("trace", "Record where the time goes, on one time line");
  auto options = std::make_shared<TraceOptions>();
  CLI::Option* name = command->add_option("NAME", options->name, "Name of the publication");
  add_duration(*command, "--seconds", options->seconds, "How long to record");
  command->add_option("-o,--output", options->out, "The file to write")
      ->type_name("FILE")
      ->capture_default_str();
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
