// tenon metrics: every publication of this user, for Prometheus.
#include "metrics.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "commands.hpp"
#include "looking.hpp"
#include "options.hpp"

namespace tenon::cli {
namespace {

/// As the text format wants label values: what others wrote is quoted.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : printable(text)) {
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out + "\"";
}

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

/// All samples of one metric, behind its HELP and TYPE.
class Family {
 public:
  Family(std::string& out, std::string name, const char* type, const char* help)
      : out_(out), name_(std::move(name)) {
    out_ += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name_, help, type);
  }
  template <class Number>
  void add(const std::string& labels, Number value) {
    out_ += fmt::format("{}{{{}}} {}\n", name_, labels, value);
  }

 private:
  std::string& out_;
  std::string name_;
};

std::string labels_of(const PublicationInfo& info) { return "publication=" + quoted(info.name); }
std::string labels_of(const PublicationInfo& info, const SubscriberInfo& s) {
  return fmt::format("{},place=\"{}\",pid=\"{}\",label={}", labels_of(info), s.place, s.pid,
                     quoted(s.label));
}

/// Whose time: a publisher's or a subscriber's.
struct Party {
  std::string labels;
  const Stages* stages;
};
std::vector<Party> parties_of(const std::vector<PublicationInfo>& all) {
  std::vector<Party> parties;
  for (const PublicationInfo& info : all) {
    if (info.stages) {
      parties.push_back({fmt::format("{},place=\"publisher\",pid=\"{}\",label={}", labels_of(info),
                                     info.pid, quoted(info.label)),
                         &*info.stages});
    }
    for (const SubscriberInfo& s : info.subscribers)
      if (s.stages) parties.push_back({labels_of(info, s), &*s.stages});
  }
  return parties;
}

void add_stage_families(std::string& out, const std::vector<PublicationInfo>& all) {
  const std::vector<Party> parties = parties_of(all);
  const auto add = [&](const char* name, const char* type, const char* help, auto value) {
    Family family(out, name, type, help);
    for (const Party& party : parties) {
      for (std::size_t i = 0; i < party.stages->sums.size(); ++i) {
        const StageSum& sum = party.stages->sums[i];
        if (sum.count == 0) continue;
        family.add(fmt::format("{},stage=\"{}\"", party.labels, name_of(static_cast<Stage>(i))),
                   value(sum));
      }
    }
  };
  add("tenon_stage_runs_total", "counter", "Times that a stage was gone through.",
      [](const StageSum& s) { return s.count; });
  add("tenon_stage_seconds_total", "counter", "Time spent in a stage.",
      [](const StageSum& s) { return seconds(s.total); });
  add("tenon_stage_bytes_total", "counter", "Bytes of weights handled in a stage.",
      [](const StageSum& s) { return s.bytes; });
  add("tenon_stage_longest_seconds", "gauge", "The longest run of a stage.",
      [](const StageSum& s) { return seconds(s.longest); });
}

void add_publication_families(std::string& out, const std::vector<PublicationInfo>& known) {
  const auto add = [&](const char* name, const char* help, auto value) {
    Family family(out, name, "gauge", help);
    for (const PublicationInfo& info : known) family.add(labels_of(info), value(info));
  };
  Family about(out, "tenon_publication_info", "gauge", "What a publication is; always 1.");
  for (const PublicationInfo& info : known) {
    about.add(fmt::format("{},mode=\"{}\",memory=\"{}\",pid=\"{}\",label={}", labels_of(info),
                          name_of(info.mode), name_of(info.memory), info.pid, quoted(info.label)),
              1);
  }
  add("tenon_publication_version", "Newest complete version; 0 while there is none.",
      [](const PublicationInfo& i) { return i.version; });
  add("tenon_publication_payload_bytes", "Bytes of all parameters.",
      [](const PublicationInfo& i) { return i.layout->payload_bytes(); });
  add("tenon_publication_slot_bytes", "Bytes of all slots.",
      [](const PublicationInfo& i) { return i.slot_bytes; });
  add("tenon_publication_parameters", "Number of parameters.",
      [](const PublicationInfo& i) { return i.layout->size(); });
  add("tenon_publication_buckets", "Number of buckets.",
      [](const PublicationInfo& i) { return i.buckets; });
  add("tenon_publication_subscribers", "Places that are taken, of 64.",
      [](const PublicationInfo& i) { return i.subscribers.size(); });
  add("tenon_publication_created_timestamp_seconds", "When it was created, in Unix time.",
      [](const PublicationInfo& i) { return static_cast<double>(i.created_at / 1'000'000) / 1e3; });
}

void add_subscriber_families(std::string& out, const std::vector<PublicationInfo>& known) {
  const auto add = [&](const char* name, const char* help, auto value) {
    Family family(out, name, "gauge", help);
    for (const PublicationInfo& info : known)
      for (const SubscriberInfo& s : info.subscribers)
        family.add(labels_of(info, s), value(info, s));
  };
  add("tenon_subscriber_alive", "1, or 0 for a place whose owner died.",
      [](const auto&, const SubscriberInfo& s) { return s.alive ? 1 : 0; });
  add("tenon_subscriber_version", "Newest version it took; 0 none.",
      [](const auto&, const SubscriberInfo& s) { return s.last_version; });
  add("tenon_subscriber_lag_versions", "Versions between the newest and the one it took.",
      [](const PublicationInfo& info, const SubscriberInfo& s) {
        const std::uint64_t newest = newest_version(info);
        return newest > s.last_version ? newest - s.last_version : 0;
      });
  add("tenon_subscriber_held_seconds", "How long it has held what it holds; 0 for nothing.",
      [](const auto&, const SubscriberInfo& s) { return seconds(s.held_for); });
  add("tenon_subscriber_wanted", "1 when the publisher waits for what it holds.",
      [](const auto&, const SubscriberInfo& s) { return s.wanted ? 1 : 0; });
}

struct MetricsOptions {
  std::string listen;
  std::optional<Uid> owner{};
};

Exit metrics(const MetricsOptions& options) {
  const auto text = [&] { return metrics_text(list(options.owner)); };
  if (options.listen.empty())
    print(text());
  else
    serve_metrics(options.listen, text);
  return Exit::ok;
}

}  // namespace

std::string metrics_text(const std::vector<PublicationInfo>& all) {
  std::string out;
  Family state(out, "tenon_publication_state", "gauge",
               "1 for the state that a publication's name is in.");
  std::vector<PublicationInfo> known;
  for (const PublicationInfo& info : all) {
    state.add(fmt::format("{},state=\"{}\"", labels_of(info), name_of(info.state)), 1);
    if (info.layout) known.push_back(info);
  }
  add_publication_families(out, known);
  add_subscriber_families(out, known);
  add_stage_families(out, known);
  return out;
}

void add_metrics(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("metrics", "Print every publication for Prometheus");
  auto options = std::make_shared<MetricsOptions>();
  command
      ->add_option("--listen", options->listen,
                   "Serve http://HOST:PORT/metrics instead, until stopped; a port alone: loopback")
      ->type_name("HOST:PORT");
  add_owner(*command, options->owner);
  command->footer(
      "Takes no place in any of them. Whoever reaches the address reads names and labels: loopback "
      "is\nthe address to use.\n\nExample:\n  tenon metrics --listen 127.0.0.1:9464");
  command->callback([options, &run] { run = [options] { return metrics(*options); }; });
}

}  // namespace tenon::cli
