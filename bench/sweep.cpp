// sweep: what the gather in host memory depends on, each publish beside a plain copy (R0) of as
// many bytes in the same round.
//
//   R2   sources in f32, cast to the model's dtype on the way
//   R12  bucket sizes, from 4 MiB to one bucket for all
//
// sizes: the same bytes in 1 to 32,768 tensors, and the time as a·N + bytes / bandwidth (least
// squares over the medians), for the gather and for one object of shared memory per tensor.
//
// Every page of every source gets new bytes before each round; slots and R0's destination are
// poisoned before the first and the last round, and all bytes compared after those, outside the
// timed part. R0 is the better of normal and non-temporal stores, found by trying. R2 moves 6 bytes
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

constexpr std::uint64_t kMost = 2'700'000'000;  // of payload: at least a layer of each model
constexpr double kCopies = 4.2;                 // sources (in f32: two), slots, R0's destination
constexpr std::size_t kWarmUp = 3;
constexpr std::size_t kRounds = 30;
constexpr std::array<std::uint64_t, 5> kBucketMiB{4, 16, 64, 256, 4096};
constexpr std::uint64_t kMostObjects = 16384;           // mapped twice: vm.max_map_count is 65,530
constexpr std::uint64_t kSyntheticBytes = 1ULL << 30U;  // more than caches hold

/// Of one layout and its sources: publish() and R0 in turn.
class Pair {
 public:
  Pair(const Options& options, const Layout& layout, Payload& payload)
      : options_(options),
        layout_(layout),
        payload_(payload),
        target_(layout.payload_bytes()),
        copier_(usable_cpus().size()),
        publisher_(Publisher::create(options.publication(0), layout, {.mode = Mode::in_place})) {
    store_ = copier_.faster_store(target_.data(), payload_.block(), target_.size());
  }

  /// `count_wrong(publisher)`: tensors whose slots are not as the sources ask.
  template <class CountWrong>
  void run(Row& row, Row& copies, const CountWrong& count_wrong) {
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    const std::size_t rounds = warm_up + options_.samples(kRounds);
    for (std::size_t i = 0; i < rounds; ++i) {
      const bool looks = i == 0 || i + 1 == rounds;
      payload_.stamp(i + 1);
      if (looks) {
        poison_slots(publisher_);
        std::memset(target_.data(), 0xA5, target_.size());
      }
      const auto [gather_us, copy_us] = round(i % 2 == 0);
      if (looks) {
        row.wrong += count_wrong(publisher_);
        const bool same = std::memcmp(target_.data(), payload_.block(), target_.size()) == 0;
        copies.wrong += same ? 0U : 1U;
      }
      if (i == 0) row.first_us = gather_us;
      if (i < warm_up) continue;
      row.samples.add_us(gather_us);
      copies.samples.add_us(copy_us);
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
      return time_us(
          [&] { copier_.copy(target_.data(), payload_.block(), target_.size(), store_); });
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
  PlainCopy copier_;
  PlainCopy::Store store_{};
  Publisher publisher_;
};

Row row_of(std::string name, const Layout& layout) {
  return {.name = std::move(name), .bytes = layout.payload_bytes(), .tensors = layout.size()};
}

/// R0 of all pairs of a report, which have the same bytes.
class PlainCopies {
 public:
  explicit PlainCopies(const Layout& layout) : row_(row_of("R0 plain copy, all threads", layout)) {}
  /// Measures `row`, which moves `bytes_moved` times the bytes of a plain copy, beside it.
  template <class CountWrong>
  void beside(Pair&& pair, Row& row, double bytes_moved, const CountWrong& count_wrong) {
    Row mine;
    pair.run(row, mine, count_wrong);
    row.more["share_of_r0"] = bytes_moved * paired_speed(mine.samples, row.samples);
    row_.wrong += mine.wrong;
    for (const double us : mine.samples.values()) row_.samples.add_us(us);
  }
  [[nodiscard]] const Row& row() const { return row_; }

 private:
  Row row_;
};

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

void run_cast(const Options& options, Report& report, PlainCopies& copies,
              const std::vector<Parameter>& parameters) {
  say("R2 gather with a cast");
  const Layout layout = plan(in_dtype(parameters, Dtype::bf16));
  Payload payload(plan(in_dtype(parameters, Dtype::f32)));
  Row row = row_of("R2 gather with a cast, f32 to bf16", layout);
  copies.beside(Pair(options, layout, payload), row, 1.5,
                [&](Publisher& publisher) { return count_wrong_casts(publisher, payload); });
  report.add(row);
}

// --- R12 ---

void run_buckets(const Options& options, Report& report, PlainCopies& copies,
                 const std::vector<Parameter>& parameters) {
  Payload payload(plan(parameters));
  for (const std::uint64_t mib : kBucketMiB) {
    const Layout layout = plan(parameters, {.bucket_bytes = mib << 20U});
    Row row = row_of(fmt::format("R12 gather, buckets of {} MiB", mib), layout);
    say(row.name);
    copies.beside(Pair(options, layout, payload), row, 1,
                  [&](Publisher& publisher) { return payload.count_different(publisher); });
    row.more["buckets"] = layout.bucket_count();
    report.add(row);
  }
}

// --- The same bytes in more and more tensors ---

// Opening, touching and closing an object for each tensor, as a reader of such a hand-off does.
Row objects_row(const Options& options, const Layout& layout) {
  Row row{.name = fmt::format("R3 an object per tensor, {} tensors", layout.size()),
          .tensors = layout.size()};
  const Objects objects(options.name_prefix + ".tensors", tensor_bytes(layout));
  std::vector<std::byte> seen(objects.size());
  const std::size_t warm_up = options.warm_up(kWarmUp);
  for (std::size_t round = 0; round < warm_up + options.samples(kRounds); ++round) {
    const auto expected = [&](std::size_t i) { return std::byte((i + round) % 251); };
    for (std::size_t i = 0; i < objects.size(); ++i) objects[i][0] = expected(i);
    const std::uint64_t from = monotonic_ns();
    {
      std::vector<Mapped> opened;
      opened.reserve(objects.size());
      for (std::size_t i = 0; i < objects.size(); ++i) {
        opened.push_back(objects.map(i));
        seen[i] = opened.back().data()[0];
      }
    }
    const std::uint64_t to = monotonic_ns();
    for (std::size_t i = 0; i < objects.size(); ++i) row.wrong += seen[i] == expected(i) ? 0U : 1U;
    if (round == 0) row.first_us = static_cast<double>(to - from) / 1e3;
    if (round >= warm_up) row.samples.add_ns(from, to);
  }
  return row;
}

}  // namespace

nlohmann::json run_sweep(const Options& options) {
  Report report("sweep", options);
  const std::uint64_t room = room_for(kCopies);
  const std::vector<Parameter> parameters = fitting_model(
      options, std::min(kMost, room),
      room < kMost ? "what fits into memory" : "enough for what is swept over", report);
  const Layout layout = plan(parameters);
  report.set_option(
      "model",
      {{"model", options.model}, {"tensors", layout.size()}, {"bytes", layout.payload_bytes()}});
  PlainCopies copies(layout);
  run_buckets(options, report, copies, parameters);
  run_cast(options, report, copies, parameters);
  report.add(copies.row());
  return std::move(report).json();
}

nlohmann::json run_sizes(const Options& options) {
  Report report("sizes", options);
  const std::uint64_t bytes = options.quick ? kSyntheticBytes / 64 : kSyntheticBytes;
  report.set_option("bytes", bytes);
  std::vector<std::pair<double, double>> gathers;
  std::vector<std::pair<double, double>> objects;
  PlainCopies copies(uniform_model(1, {bytes / 2}));
  for (const std::uint64_t tensors : kUniformTensors) {
    const Layout layout = uniform_model(tensors, {bytes / 2 / tensors});
    Payload payload(layout);
    Row row = row_of(fmt::format("R1 gather, {} tensors", tensors), layout);
    say(row.name);
    copies.beside(Pair(options, layout, payload), row, 1,
                  [&](Publisher& publisher) { return payload.count_different(publisher); });
    gathers.emplace_back(tensors, row.samples.p50());
    report.add(row);
    if (tensors > kMostObjects) continue;
    const Row opened = objects_row(options, layout);
    objects.emplace_back(tensors, opened.samples.p50());
    report.add(opened);
  }
  report.add(copies.row());
  const auto [a, b] = line_through(gathers);
  report.add(Figure{"R1: a, of a·N + bytes / bandwidth", a, "us"});
  report.add(Figure{"R1: bandwidth of the same", static_cast<double>(bytes) / 1e3 / b, "GB/s"});
  report.add(Figure{"R3: a of the same (no bytes are moved)", line_through(objects).first, "us"});
  return std::move(report).json();
}

}  // namespace tenon::bench
