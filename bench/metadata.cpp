// metadata (R13): what a reader does with the description of the tensors before it can look one up
// by name: Tenon's binary layout, copied, checked and hashed; or JSON of the same facts, parsed and
// put into a hash table, as hand-offs do that send descriptions along (every step, where they do).
// nlohmann's is a convenient parser and no fast one: others take a third to a tenth of its time.
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <tenon/layout.hpp>
#include <tenon/model.hpp>
#include <tenon/plan.hpp>
#include <unordered_map>
#include <vector>

#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

constexpr std::size_t kWarmUp = 3;
constexpr std::size_t kRounds = 30;
constexpr std::uint64_t kMostTensors = 32768;
const std::vector<std::uint64_t> kShape = {4096, 128};

struct Described {
  Dtype dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t bucket;
  std::uint64_t offset;
  std::uint64_t bytes;
};
using Table = std::unordered_map<std::string, Described>;

std::string as_json(const Layout& layout) {
  nlohmann::json all = nlohmann::json::array();
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement p = layout[i];
    all.push_back({{"name", std::string(p.name)},
                   {"dtype", std::string(info(p.dtype).name)},
                   {"shape", std::vector<std::uint64_t>(p.shape.begin(), p.shape.end())},
                   {"bucket", p.bucket},
                   {"offset", p.offset},
                   {"bytes", p.bytes}});
  }
  return all.dump();
}

Table read_json(const std::string& text) {
  Table table;
  const nlohmann::json all = nlohmann::json::parse(text);
  table.reserve(all.size());
  for (const nlohmann::json& p : all)
    table.emplace(p["name"].get<std::string>(),
                  Described{dtype_from_name(p["dtype"].get<std::string>()).value(),
                            p["shape"].get<std::vector<std::uint64_t>>(), p["bucket"], p["offset"],
                            p["bytes"]});
  return table;
}

Layout read_binary(const std::byte* block, std::uint64_t bytes) {
  detail::Block copy = detail::allocate_block(bytes);
  std::memcpy(copy.get(), block, bytes);
  return Layout::parse(std::move(copy), bytes);
}

std::uint64_t count_wrong(const Layout& layout, const Table& table) {
  std::uint64_t wrong = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement p = layout[i];
    const auto found = table.find(std::string(p.name));
    const bool same = found != table.end() && found->second.dtype == p.dtype &&
                      std::equal(p.shape.begin(), p.shape.end(), found->second.shape.begin(),
                                 found->second.shape.end()) &&
                      found->second.bucket == p.bucket && found->second.offset == p.offset &&
                      found->second.bytes == p.bytes;
    wrong += same ? 0U : 1U;
  }
  return wrong;
}

void compare(const Options& options, Report& report, const Layout& layout) {
  const auto [block, bytes] = layout.bytes();
  const std::string text = as_json(layout);
  const std::string of = fmt::format(", {} tensors", layout.size());
  Row binary{.name = fmt::format("R13 binary{}", of), .tensors = layout.size()};
  Row json{.name = fmt::format("R13 JSON (nlohmann){}", of), .tensors = layout.size()};
  binary.more["metadata_bytes"] = bytes;
  json.more["metadata_bytes"] = text.size();
  const std::size_t warm_up = options.warm_up(kWarmUp);
  for (std::size_t i = 0; i < warm_up + options.samples(kRounds); ++i) {
    const std::uint64_t t0 = monotonic_ns();
    const Layout read = read_binary(block, bytes);
    const std::uint64_t t1 = monotonic_ns();
    const Table table = read_json(text);
    const std::uint64_t t2 = monotonic_ns();
    binary.wrong += read.hash() == layout.hash() ? 0U : 1U;
    json.wrong += count_wrong(layout, table);
    if (i < warm_up) continue;
    binary.samples.add_ns(t0, t1);
    json.samples.add_ns(t1, t2);
  }
  report.add(binary);
  report.add(json);
  report.add(Figure{fmt::format("R13 JSON (nlohmann) / binary{}", of),
                    json.samples.p50() / binary.samples.p50(), ""});
}

}  // namespace

nlohmann::json run_metadata(const Options& options) {
  Report report("metadata", options);
  say("R13 descriptions, binary and JSON");
  for (const char* model : {"llama-3.2-1b", "llama-3.1-8b", "qwen3-30b-a3b"})
    compare(options, report, plan(model_parameters(model)));
  compare(options, report, uniform_model(1, kShape));
  compare(options, report, uniform_model(kMostTensors, kShape));
  return std::move(report).json();
}

}  // namespace tenon::bench
