// The table of `tenon demo`, and its JSON.
#include <fmt/format.h>

#include <numeric>

#include "demo.hpp"

namespace tenon::cli {
namespace {

constexpr const char* kHeading = "{:>7}  {:>9}  {:>10}  {:>7}  {:>7}  {:>12}  {:>10}  {:>7}\n";
constexpr const char* kRow =
    "{:>7}  {:>9}  {:>10.3f}  {:>7.2f}  {:>7.2f}  {:>12.1f}  {:>10.2f}  {:>7}\n";

double milliseconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e6; }

}  // namespace

double DemoReport::gather_gb_per_s(const DemoRow& row) const {
  if (row.gather_ns == 0) return 0;
  return static_cast<double>(plan_.layout.payload_bytes()) / static_cast<double>(row.gather_ns);
}

double DemoReport::share(const DemoRow& row) const {
  return copy_gb_per_s_ > 0 ? gather_gb_per_s(row) / copy_gb_per_s_ : 0;
}

std::uint64_t DemoReport::wrong() const noexcept {
  return std::accumulate(rows_.begin(), rows_.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const DemoRow& row) { return sum + row.wrong; });
}

void DemoReport::print_heading() const {
  print(
      fmt::format("{}: {} parameters, {} in {} buckets; {}, {} memory\n"
                  "one trainer with {} threads, {} inference processes; publication '{}'\n"
                  "plain memory copy: {:.2f} GB/s (bytes counted once)\n\n",
                  plan_.model, plan_.layout.size(), human_bytes(plan_.layout.payload_bytes()),
                  plan_.layout.bucket_count(), name_of(plan_.mode), text_of(plan_.memory),
                  plan_.threads, plan_.subscribers, plan_.name, copy_gb_per_s_));
  print(fmt::format(fmt::runtime(kHeading), "version", "size", "gather ms", "GB/s", "of copy",
                    "visible us", "verify ms", "wrong"));
}

void DemoReport::add(const DemoRow& row) {
  if (rows_.empty() && !json_) print_heading();
  rows_.push_back(row);
  if (json_) return;
  print(fmt::format(fmt::runtime(kRow), row.version, human_bytes(plan_.layout.payload_bytes()),
                    milliseconds(row.gather_ns), gather_gb_per_s(row), share(row),
                    static_cast<double>(row.visible_ns) / 1e3, milliseconds(row.verify_ns),
                    row.wrong));
}

void DemoReport::finish() const {
  if (!json_) {
    const std::uint64_t checked = plan_.layout.payload_bytes() * rows_.size() * plan_.subscribers;
    print(fmt::format("\n{} checked, {} bytes wrong\n", human_bytes(checked), wrong()));
    return;
  }
  Json json{{"model", plan_.model},
            {"mode", name_of(plan_.mode)},
            {"memory", text_of(plan_.memory)},
            {"parameter_count", plan_.layout.size()},
            {"bytes", plan_.layout.payload_bytes()},
            {"buckets", plan_.layout.bucket_count()},
            {"subscribers", plan_.subscribers},
            {"threads", plan_.threads},
            {"copy_gb_per_s", copy_gb_per_s_},
            {"versions", Json::array()}};
  for (const DemoRow& row : rows_) {
    json["versions"].push_back({{"version", row.version},
                                {"bytes", plan_.layout.payload_bytes()},
                                {"gather_ms", milliseconds(row.gather_ns)},
                                {"gb_per_s", gather_gb_per_s(row)},
                                {"share_of_copy", share(row)},
                                {"visible_us", static_cast<double>(row.visible_ns) / 1e3},
                                {"verify_ms", milliseconds(row.verify_ns)},
                                {"wrong", row.wrong}});
  }
  json["wrong"] = wrong();
  print_json(json);
}

}  // namespace tenon::cli
