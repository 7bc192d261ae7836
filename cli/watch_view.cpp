#include "watch_view.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace tenon::cli {
namespace {

constexpr std::size_t kBar = 24;

bool is_successor(const Sight* before, const Sight& now) {
  return before == nullptr || before->info.instance != now.info.instance;
}

double per_second(std::uint64_t from, std::uint64_t to, double seconds) {
  return to > from && seconds > 0 ? static_cast<double>(to - from) / seconds : 0;
}

std::uint64_t filled(const PublicationInfo& info) {
  if (!info.stages) return 0;
  return (*info.stages)[Stage::gather].bytes + (*info.stages)[Stage::receive].bytes;
}

/// What a stage took between two looks. One under way counts as soon as it is over.
struct Part {
  std::uint64_t count = 0;
  Duration time{};
  double share = 0;  ///< of the time between the looks, at most 1
};
Part part_of(const StageSum& before, const StageSum& now, Duration between) {
  Part part;
  if (now.count <= before.count || now.total < before.total) return part;
  part.count = now.count - before.count;
  part.time = now.total - before.total;
  if (between > Duration::zero())
    part.share = std::min(
        1.0, static_cast<double>(part.time.count()) / static_cast<double>(between.count()));
  return part;
}

Duration between(const Sight* before, const Sight& now) {
  return Duration(before == nullptr ? 0 : static_cast<std::int64_t>(now.at - before->at));
}

const SubscriberInfo* same_subscriber(const Sight* before, const SubscriberInfo& now) {
  if (before == nullptr) return nullptr;
  for (const SubscriberInfo& s : before->info.subscribers)
    if (s.place == now.place && s.pid == now.pid && s.started == now.started) return &s;
  return nullptr;
}

std::string headline(const Sight* before, const Sight& now) {
  const PublicationInfo& info = now.info;
  const std::uint64_t version = newest_version(info);
  std::string text = fmt::format(
      "{}  {}  {}", info.name, version == 0 ? "no version yet" : fmt::format("version {}", version),
      name_of(info.state));
  if (const auto rates = rates_between(before, now))
    text += fmt::format("  {:.3g} versions/s  {:.3g} GB/s", rates->versions, rates->bytes / 1e9);
  return text;
}

std::string publisher_line(const PublicationInfo& info) {
  std::string text = fmt::format("publisher {}", info.pid);
  if (!info.label.empty()) text += fmt::format(" ({})", printable(info.label));
  if (!info.stages || !info.stages->now)
    return text + (info.version == 0 ? "  no version is complete" : "  between versions");
  text += fmt::format("  {}, {}", stage_text(*info.stages->now), brief(info.stages->now_for));
  if (info.stages->now != Stage::wait_for_slots) return text;
  for (const SubscriberInfo& s : info.subscribers)
    if (s.wanted) text += fmt::format(", for place {}", s.place);
  return text;
}

void add_bars(std::vector<std::string>& lines, const Stages* before, const Stages& now,
              Duration between) {
  for (std::size_t i = 0; i < now.sums.size(); ++i) {
    const StageSum& sum = now.sums[i];
    if (sum.count == 0) continue;
    const Part part = part_of(before != nullptr ? before->sums[i] : StageSum{}, sum,
                              before != nullptr ? between : Duration::zero());
    const auto full = static_cast<std::size_t>(part.share * static_cast<double>(kBar) + 0.5);
    lines.push_back(fmt::format(
        "  {:<14} [{:.<{}}] {:>4}  {:>6} each  {:>6} at most", stage_text(static_cast<Stage>(i)),
        std::string(full, '#'), kBar,
        before == nullptr ? "" : fmt::format("{:.0f} %", part.share * 100),
        brief(part.count == 0
                  ? sum.last
                  : Duration(part.time.count() / static_cast<std::int64_t>(part.count))),
        brief(sum.longest)));
  }
}

std::uint64_t lag_of(const PublicationInfo& info, const SubscriberInfo& s) {
  const std::uint64_t newest = newest_version(info);
  return newest > s.last_version ? newest - s.last_version : 0;
}

// "wait for ready 62 %  load 3 %": where its time between the looks went.
std::string shares_text(const SubscriberInfo* before, const SubscriberInfo& now, Duration between) {
  std::string text;
  if (before == nullptr || !before->stages || !now.stages) return text;
  for (std::size_t i = 0; i < now.stages->sums.size(); ++i) {
    const Part part = part_of(before->stages->sums[i], now.stages->sums[i], between);
    if (part.share < 0.005) continue;
    text += fmt::format("{}{} {:.0f} %", text.empty() ? "" : "  ",
                        stage_text(static_cast<Stage>(i)), part.share * 100);
  }
  return text;
}

}  // namespace

std::optional<Rates> rates_between(const Sight* before, const Sight& now) {
  if (is_successor(before, now)) return std::nullopt;
  const double seconds = std::chrono::duration<double>(between(before, now)).count();
  return Rates{per_second(newest_version(before->info), newest_version(now.info), seconds),
               per_second(filled(before->info), filled(now.info), seconds)};
}

std::vector<std::string> screen_of(const Sight* before, const Sight& now, std::size_t width,
                                   std::size_t height) {
  if (is_successor(before, now)) before = nullptr;
  const PublicationInfo& info = now.info;
  std::vector<std::string> lines{headline(before, now)};
  if (!info.layout) {
    lines.push_back(printable(info.why));
  } else {
    lines.push_back(fmt::format("{}, {}, {} in {} buckets, {} of 64 places", name_of(info.mode),
                                name_of(info.memory), human_bytes(info.layout->payload_bytes()),
                                info.buckets, info.subscribers.size()));
    lines.push_back(publisher_line(info));
    if (info.stages) {
      const bool known = before != nullptr && before->info.stages;
      add_bars(lines, known ? &*before->info.stages : nullptr, *info.stages, between(before, now));
    }
    lines.emplace_back("PLACE     PID  LABEL             VERSION  LAG  DOING");
    for (const SubscriberInfo& s : info.subscribers) {
      lines.push_back(fmt::format("{:>5} {:>7}  {:<16.16} {:>8} {:>4}  {}", s.place, s.pid,
                                  printable(s.label),
                                  s.last_version == 0 ? "-" : std::to_string(s.last_version),
                                  lag_of(info, s), doing_text(s)));
      const std::string shares = shares_text(same_subscriber(before, s), s, between(before, now));
      if (!shares.empty()) lines.push_back("               " + shares);
    }
    if (info.subscribers.empty()) lines.back() = "no subscribers";
  }
  if (lines.size() > height && height > 1) {
    const std::size_t more = lines.size() - height + 1;
    lines.resize(height - 1);
    lines.push_back(fmt::format("... {} more lines: the terminal is too low", more));
  }
  for (std::string& line : lines) line.resize(std::min(line.size(), width));
  return lines;
}

std::string lines_of(const Sight* before, const Sight& now) {
  const PublicationInfo& info = now.info;
  std::string text =
      fmt::format("{} state={} version={}", info.name, name_of(info.state), newest_version(info));
  if (!info.layout) return text + "\n";
  if (const auto rates = rates_between(before, now))
    text += fmt::format(" versions/s={:.3g} GB/s={:.3g}", rates->versions, rates->bytes / 1e9);
  text += fmt::format(" subscribers={}", info.subscribers.size());
  if (info.stages && info.stages->now)
    text += fmt::format(" doing={} since={}ms", name_of(*info.stages->now),
                        info.stages->now_for.count() / 1'000'000);
  text += "\n";
  for (const SubscriberInfo& s : info.subscribers)
    text +=
        fmt::format("{} place={} pid={} label=\"{}\" version={} lag={} {}\n", info.name, s.place,
                    s.pid, printable(s.label), s.last_version, lag_of(info, s), doing_text(s));
  return text;
}

}  // namespace tenon::cli
