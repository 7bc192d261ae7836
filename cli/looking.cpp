#include "looking.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "metadata.hpp"

namespace tenon::cli {
namespace {

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

void add_stages(Json& json, const std::optional<Stages>& stages) {
  if (!stages) return;
  json["doing"] = stages->now ? Json(name_of(*stages->now)) : Json();
  json["doing_seconds"] = seconds(stages->now_for);
  Json& all = json["stages"] = Json::object();
  for (std::size_t i = 0; i < stages->sums.size(); ++i) {
    const StageSum& sum = stages->sums[i];
    if (sum.count == 0) continue;
    all[name_of(static_cast<Stage>(i))] = {{"count", sum.count},
                                           {"seconds", seconds(sum.total)},
                                           {"longest_seconds", seconds(sum.longest)},
                                           {"last_seconds", seconds(sum.last)},
                                           {"bytes", sum.bytes}};
  }
}

Json json_of(const SubscriberInfo& subscriber) {
  Json json{{"place", subscriber.place},
            {"pid", subscriber.pid},
            {"label", subscriber.label},
            {"alive", subscriber.alive},
            {"holds", subscriber.holds},
            {"held_ms", std::chrono::duration<double, std::milli>(subscriber.held_for).count()},
            {"wanted", subscriber.wanted},
            {"last_version", subscriber.last_version}};
  add_stages(json, subscriber.stages);
  return json;
}

Json parameters_json(const Layout& layout) {
  Json all = Json::array();
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement place = layout[i];
    Json json{{"name", place.name},
              {"dtype", info(place.dtype).name},
              {"shape", dimensions(place.shape)},
              {"bucket", place.bucket},
              {"offset", place.offset},
              {"bytes", place.bytes}};
    if (const auto original = layout.tied_to(i)) json["tied_to"] = layout[*original].name;
    all.push_back(std::move(json));
  }
  return all;
}

}  // namespace

PublicationInfo look(const std::string& doing, const std::string& name, std::optional<Uid> owner) {
  PublicationInfo info = tenon::inspect(name, owner);
  const std::string what = doing + " '" + name + "': " + info.why;
  if (info.state == Attach::absent) {
    throw Error(Errc::NotFound, what + " ('tenon ls' lists what is published)");
  }
  if (info.state == Attach::wrong_version) throw Error(Errc::WrongVersion, what);
  if (info.state == Attach::not_yours) throw Error(Errc::NotYours, what);
  return info;
}

Json json_of(const PublicationInfo& info, bool parameters) {
  Json json{{"name", info.name},
            {"state", name_of(info.state)},
            {"why", info.why},
            {"owner", info.owner}};
  if (!info.layout) return json;
  json["pid"] = info.pid;
  json["label"] = info.label;
  json["instance"] = info.instance;
  json["created_at"] = time_text(info.created_at);
  json["mode"] = name_of(info.mode);
  json["memory"] = name_of(info.memory);
  json["checksums"] = info.checksums;
  if (!info.device.empty()) json["device"] = info.device;
  json["version"] = info.version;
  json["parameter_count"] = info.layout->size();
  json["bytes"] = info.layout->payload_bytes();
  json["buckets"] = info.buckets;
  json["slots"] = info.slots;
  json["slot_bytes"] = info.slot_bytes;
  add_stages(json, info.stages);
  json["metadata"] = metadata_json(*info.layout).value_or(Json::object());
  json["subscribers"] = Json::array();
  for (const SubscriberInfo& s : info.subscribers) json["subscribers"].push_back(json_of(s));
  if (parameters) json["parameters"] = parameters_json(*info.layout);
  return json;
}

std::string stage_text(Stage stage) {
  std::string text = name_of(stage);
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

std::string brief(Duration duration) {
  const auto ns = static_cast<double>(duration.count());
  if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
  if (ns < 9.95e3) return fmt::format("{:.1f} us", ns / 1e3);
  if (ns < 9.995e5) return fmt::format("{:.0f} us", ns / 1e3);
  if (ns < 9.95e6) return fmt::format("{:.1f} ms", ns / 1e6);
  if (ns < 9.995e8) return fmt::format("{:.0f} ms", ns / 1e6);
  if (ns < 9.95e9) return fmt::format("{:.1f} s", ns / 1e9);
  return fmt::format("{:.0f} s", ns / 1e9);
}

std::string rate_text(std::uint64_t bytes, Duration time) {
  if (bytes == 0 || time <= Duration::zero()) return "-";
  return fmt::format("{:.3g} GB/s", static_cast<double>(bytes) / static_cast<double>(time.count()));
}

void add_stage_rows(std::vector<std::vector<std::string>>& rows, const std::string& of,
                    const Stages& stages) {
  for (std::size_t i = 0; i < stages.sums.size(); ++i) {
    const StageSum& sum = stages.sums[i];
    if (sum.count == 0) continue;
    rows.push_back({of, stage_text(static_cast<Stage>(i)), std::to_string(sum.count),
                    brief(mean(sum)), brief(sum.longest), brief(sum.last),
                    rate_text(sum.bytes, sum.total)});
  }
}

Duration mean(const StageSum& sum) {
  if (sum.count == 0) return {};
  return Duration(
      static_cast<std::int64_t>(static_cast<std::uint64_t>(sum.total.count()) / sum.count));
}

std::uint64_t newest_version(const PublicationInfo& info) {
  std::uint64_t newest = info.version;
  for (const SubscriberInfo& s : info.subscribers) {
    if (s.alive) newest = std::max(newest, s.last_version);
  }
  return newest;
}

std::string doing_text(const SubscriberInfo& subscriber) {
  if (!subscriber.alive) return "is dead";
  if (subscriber.holds != 0) {
    return fmt::format("holds {} for {}{}", subscriber.holds, brief(subscriber.held_for),
                       subscriber.wanted ? ", is waited for" : "");
  }
  if (subscriber.stages && subscriber.stages->now) {
    const Stages& stages = *subscriber.stages;
    const bool waits = stages.now == Stage::wait_for_ready;
    return fmt::format("{} {}", waits ? "waits for a version," : stage_text(*stages.now) + ",",
                       brief(stages.now_for));
  }
  return "is busy elsewhere";
}

}  // namespace tenon::cli
