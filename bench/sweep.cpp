// sweep: what the gather in host memory depends on, each publish beside a plain copy (R0) of as
// many bytes in the same round.
//
//   R2   sources in f32, cast to the model's dtype on the way
//   R12  bucket sizes, from 4 MiB to one bucket for all
//
// sizes: the same bytes in 1 to 32,768 tensors, and the time as a·N + bytes / bandwidth (least
// squares over the medians), for the gather and for one object of shared memory per tensor.
//
// Every page of every source gets new bytes before each round; slots are poisoned before the first
// and the last round, and all bytes compared after those, outside the timed part. R2 moves 6 bytes
// where a plain copy moves 4 (bf16), so its share of R0 is corrected by 1.5.
#include <fmt/core.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <utility>
#include <vector>

#include "fit.hpp"
#include "objects.hpp"
#include "payload.hpp"
#include "plain_copy.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

constexpr std::uint64_t kMost = 1'500'000'000;  // of payload: what is swept over needs no more
constexpr double kCopies = 4.2;                 // sources (in f32), slots, R0's destination
constexpr std::size_t kWarmUp = 3;
constexpr std::size_t kRounds = 30;
constexpr std::array<std::uint64_t, 5> kBucketMiB{4, 16, 64, 256, 4096};
constexpr std::array<std::uint64_t, 6> kTensors{1, 8, 64, 512, 4096, 32768};
constexpr std::uint64_t kMostObjects = 16384;  // mapped twice: vm.max_map_count is 65,530
constexpr std::uint64_t kSyntheticBytes = 256ULL << 20U;

/// Of one layout and its sources: publish() and R0 in turn.
class Pair {
 public:
  Pair(const Options& options, const Layout& layout, Payload& payload)
      : options_(options),
        layout_(layout),
        payload_(payload),
        target_(layout.payload_bytes()),
        from_(layout.payload_bytes()),
        copier_(usable_cpus().size()),
        publisher_(Publisher::create(options.publication(0), layout, {.mode = Mode::in_place})) {
    std::memset(target_.data(), 1, target_.size());
    std::memset(from_.data(), 2, from_.size());
    store_ = copier_.faster_store(target_.data(), from_.data(), target_.size());
  }

  /// `count_wrong(publisher)`: tensors whose slots are not as the sources ask.
  template <class CountWrong>
  void run(Row& row, Samples& copies, const CountWrong& count_wrong) {
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    const std::size_t rounds = warm_up + options_.samples(kRounds);
    for (std::size_t i = 0; i < rounds; ++i) {
      const bool looks = i == 0 || i + 1 == rounds;
      payload_.stamp(i + 1);
      if (looks) poison_slots(publisher_);
      const auto [gather_us, copy_us] = round(i % 2 == 0);
      if (looks) row.wrong += count_wrong(publisher_);
      if (i < warm_up) continue;
      row.samples.add_us(gather_us);
      copies.add_us(copy_us);
    }
  }

 private:
  template <class Action>
  static double time_us(const Action& action) {
    const std::uint64_t from = monotonic_ns();
    action();
    return static_cast<double>(monotonic_ns() - from) / 1e3;
  }
  std::pair<double, double> round(bool gather_first) {
    const auto gather = [&] { return time_us([&] { publisher_.publish(payload_.sources()); }); };
    const auto copy = [&] {
      return time_us([&] { copier_.copy(target_.data(), from_.data(), target_.size(), store_); });
    };
    if (gather_first) {
      const double first = gather();
      return {first, copy()};
    }
    const double first = copy();
    return {gather(), first};
  }

  const Options& options_;
  Layout layout_;
  Payload& payload_;
  SharedBytes target_;
  SharedBytes from_;
  PlainCopy copier_;
  PlainCopy::Store store_{};
  Publisher publisher_;
};

Row row_of(std::string name, const Layout& layout) {
  return {.name = std::move(name), .bytes = layout.payload_bytes(), .tensors = layout.size()};
}

void add_share(Row& row, const Samples& copies, double bytes_moved) {
  row.more["share_of_r0"] = bytes_moved * paired_speed(copies, row.samples);
}

void add_r0(Report& report, const Layout& layout, const Samples& copies) {
  Row row = row_of("R0 plain copy, all threads", layout);
  row.samples = copies;
  report.add(row);
}

// --- R2 ---

std::vector<Parameter> in_dtype(std::vector<Parameter> parameters, Dtype dtype) {
  for (Parameter& p : parameters) p.dtype = dtype;
  return parameters;
}

float f32_at(const void* from, std::uint64_t k) {
  float value = 0;
  std::memcpy(&value, static_cast<const std::byte*>(from) + 4 * k, sizeof(value));
  return value;
}

// Round to nearest, ties to even, as IEEE 754 has it; any NaN stands for any other.
bool is_bf16_of(std::uint16_t bits, float value) {
  if (std::isnan(value)) return (bits & 0x7F80U) == 0x7F80U && (bits & 0x7FU) != 0;
  std::uint32_t exact = 0;
  std::memcpy(&exact, &value, sizeof(exact));
  const std::uint32_t tie_to_even = (exact >> 16U) & 1U;
  return bits == (exact + 0x7FFFU + tie_to_even) >> 16U;
}

std::uint64_t count_wrong_casts(Publisher& publisher, const Payload& payload) {
  const Layout& layout = publisher.layout();
  std::uint64_t wrong = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const std::byte* const slot = publisher.storage(layout[i].name);
    bool same = true;
    for (std::uint64_t k = 0; same && k < layout[i].bytes / 2; ++k) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, slot + 2 * k, sizeof(bits));
      same = is_bf16_of(bits, f32_at(payload.sources()[i].data, k));
    }
    wrong += same ? 0U : 1U;
  }
  return wrong;
}

void run_cast(const Options& options, Report& report, const std::vector<Parameter>& parameters) {
  say("R2 gather with a cast");
  const Layout layout = plan(in_dtype(parameters, Dtype::bf16));
  Payload payload(plan(in_dtype(parameters, Dtype::f32)));
  Row row = row_of("R2 gather with a cast, f32 to bf16", layout);
  Samples copies;
  Pair(options, layout, payload).run(row, copies, [&](Publisher& publisher) {
    return count_wrong_casts(publisher, payload);
  });
  add_share(row, copies, 1.5);
  report.add(row);
}

// --- R12 ---

void run_buckets(const Options& options, Report& report, const std::vector<Parameter>& parameters) {
  Payload payload(plan(parameters));
  Samples all_copies;
  for (const std::uint64_t mib : kBucketMiB) {
    const Layout layout = plan(parameters, {.bucket_bytes = mib << 20U});
    Row row = row_of(fmt::format("R12 gather, buckets of {} MiB", mib), layout);
    say(row.name);
    Samples copies;
    Pair(options, layout, payload).run(row, copies, [&](Publisher& publisher) {
      return payload.count_different(publisher);
    });
    row.more["buckets"] = layout.bucket_count();
    add_share(row, copies, 1);
    report.add(row);
    for (const double us : copies.values()) all_copies.add_us(us);
  }
  add_r0(report, plan(parameters), all_copies);
}

// --- Synthetic models ---

Layout synthetic(std::uint64_t tensors, std::uint64_t bytes) {
  std::vector<Parameter> parameters;
  for (std::uint64_t i = 0; i < tensors; ++i)
    parameters.push_back({fmt::format("layers.{}.weight", i), Dtype::bf16, {bytes / 2 / tensors}});
  return plan(parameters);
}

// Least squares of us = a·N + b.
std::pair<double, double> line_through(const std::vector<std::pair<double, double>>& points) {
  const auto n = static_cast<double>(points.size());
  double sx = 0;
  double sy = 0;
  double sxx = 0;
  double sxy = 0;
  for (const auto& [x, y] : points) {
    sx += x;
    sy += y;
    sxx += x * x;
    sxy += x * y;
  }
  const double a = (n * sxy - sx * sy) / (n * sxx - sx * sx);
  return {a, (sy - a * sx) / n};
}

// Opening, touching and closing an object for each tensor, as a reader of such a hand-off does.
Row objects_row(const Options& options, const Layout& layout) {
  Row row{.name = fmt::format("R3 an object per tensor, {} tensors", layout.size()),
          .tensors = layout.size()};
  const Objects objects(options.name_prefix + ".tensors", tensor_bytes(layout));
  for (std::size_t i = 0; i < objects.size(); ++i) objects[i][0] = std::byte(i % 251);
  const std::size_t warm_up = options.warm_up(kWarmUp);
  for (std::size_t round = 0; round < warm_up + options.samples(kRounds); ++round) {
    std::uint64_t wrong = 0;
    const std::uint64_t from = monotonic_ns();
    {
      std::vector<Mapped> opened;
      opened.reserve(objects.size());
      for (std::size_t i = 0; i < objects.size(); ++i) {
        opened.push_back(objects.map(i));
        wrong += opened.back().data()[0] == std::byte(i % 251) ? 0U : 1U;
      }
    }
    const std::uint64_t to = monotonic_ns();
    row.wrong += wrong;
    if (round >= warm_up) row.samples.add_ns(from, to);
  }
  return row;
}

}  // namespace

nlohmann::json run_sweep(const Options& options) {
  Report report("sweep", options);
  const std::uint64_t most = std::min(kMost, room_for(kCopies));
  const std::vector<Parameter> parameters = fitting_model(options, most, report);
  report.set_option("model", options.model);
  run_buckets(options, report, parameters);
  run_cast(options, report, parameters);
  return std::move(report).json();
}

nlohmann::json run_sizes(const Options& options) {
  Report report("sizes", options);
  const std::uint64_t bytes = options.quick ? kSyntheticBytes / 16 : kSyntheticBytes;
  report.set_option("bytes", bytes);
  std::vector<std::pair<double, double>> gathers;
  std::vector<std::pair<double, double>> objects;
  Samples all_copies;
  for (const std::uint64_t tensors : kTensors) {
    const Layout layout = synthetic(tensors, bytes);
    Payload payload(layout);
    Row row = row_of(fmt::format("R1 gather, {} tensors", tensors), layout);
    say(row.name);
    Samples copies;
    Pair(options, layout, payload).run(row, copies, [&](Publisher& publisher) {
      return payload.count_different(publisher);
    });
    add_share(row, copies, 1);
    gathers.emplace_back(tensors, row.samples.p50());
    report.add(row);
    for (const double us : copies.values()) all_copies.add_us(us);
    if (tensors > kMostObjects) continue;
    const Row opened = objects_row(options, layout);
    objects.emplace_back(tensors, opened.samples.p50());
    report.add(opened);
  }
  add_r0(report, synthetic(1, bytes), all_copies);
  const auto [a, b] = line_through(gathers);
  report.add(Figure{"R1: a, of a·N + bytes / bandwidth", a, "us"});
  report.add(Figure{"R1: bandwidth of the same", static_cast<double>(bytes) / 1e3 / b, "GB/s"});
  report.add(Figure{"R3: a of the same (no bytes are moved)", line_through(objects).first, "us"});
  return std::move(report).json();
}

}  // namespace tenon::bench
