// reduce: several replicas' parameters averaged so that each keeps its part: reduce-scatter,
// against an all-reduce of everything of which a rank keeps its slice.
//
// Timed: from the start of all ranks to the end of the last. Each rank is a process on a node of
// its own. The bucket does not divide by the number of ranks: it is padded with zeros to a multiple
// of it. Both operations take turns within each round. Bytes on the wire are what all ranks
// together have sent. Taking the slice costs nothing here: it is not copied.
//
// Every rank's elements are new in each round, small whole numbers, so that their mean is exact in
// whatever order they are added; every rank compares all of its part, outside the time.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "child.hpp"
#include "network.hpp"
#include "relay_parts.hpp"
#include "report.hpp"
#include "shared_store.hpp"

namespace tenon::bench {
namespace {

constexpr std::size_t kWarmUp = 2;
constexpr std::size_t kRounds = 15;
constexpr std::array<int, 2> kReplicas{2, 4};
constexpr std::size_t kElements = std::size_t{8} << 20U;
constexpr std::size_t kOdd = 3;  // more, so that they do not divide by the number of ranks

enum Way : std::uint64_t { scatter, all, way_count };
constexpr std::array<const char*, way_count> kWays{"reduce-scatter", "all-reduce and slice"};

/// One rank's side of the table.
struct Seat {
  Turn armed;  // has new elements
  Turn done;   // has compared its part
  std::uint64_t ended_at = 0;
  std::uint64_t sent = 0;  // bytes, in that operation
  std::array<std::uint64_t, way_count> wrong{};
};

struct Board {
  Turn go;
  std::array<Seat, 4> seats;
};

class Reduce {
 public:
  Reduce(const Options& options, const std::string& rate, int replicas, Report& report)
      : options_(options),
        report_(report),
        elements_(kElements / (options.shrink * options.shrink) + kOdd),
        replicas_(replicas),
        part_((elements_ + ranks() - 1) / ranks()),
        network_(replicas, rate) {
    if (!network_.why_loopback().empty())
      report.note("nodes talk over loopback: " + network_.why_loopback());
  }

  void run() {
    say(fmt::format("{} replicas over {}", replicas_, network_.name()));
    Family family;
    for (int rank = 0; rank < replicas_; ++rank)
      family.fork([this, rank] { be_rank(rank, board_->seats[static_cast<std::size_t>(rank)]); });
    for (std::uint64_t turn = 1; turn <= turns(); ++turn) {
      for (std::size_t r = 0; r < ranks(); ++r)
        board_->seats[r].armed.await(turn, {}, [&] { family.check(); });
      const std::uint64_t from = monotonic_ns();
      board_->go.set(turn);
      std::uint64_t last = 0;
      std::uint64_t sent = 0;
      for (std::size_t r = 0; r < ranks(); ++r) {
        board_->seats[r].done.await(turn, {}, [&] { family.check(); });
        last = std::max(last, board_->seats[r].ended_at);
        sent += board_->seats[r].sent;
      }
      sent_[way_of(turn)] = sent;
      if (turn > options_.warm_up(kWarmUp) * way_count) times_[way_of(turn)].add_ns(from, last);
    }
    family.join();
    add_rows();
  }

 private:
  [[nodiscard]] std::size_t ranks() const { return static_cast<std::size_t>(replicas_); }
  [[nodiscard]] std::uint64_t turns() const {
    return (options_.warm_up(kWarmUp) + options_.samples(kRounds)) * way_count;
  }
  static std::size_t way_of(std::uint64_t turn) { return (turn - 1) % way_count; }

  // Element i of a rank's bucket; zero where it is padded.
  [[nodiscard]] float element(std::size_t i, std::size_t rank, std::uint64_t turn) const {
    return i < elements_ ? static_cast<float>((7 * i + 13 * rank + turn) % 1024) : 0;
  }
  // Whether `part` is what the ranks' mean must be there.
  [[nodiscard]] bool is_mean(const float* part, std::size_t rank, std::uint64_t turn) const {
    for (std::size_t i = 0; i < part_; ++i) {
      float sum = 0;
      for (std::size_t r = 0; r < ranks(); ++r) sum += element(rank * part_ + i, r, turn);
      if (part[i] != sum / static_cast<float>(replicas_)) return false;
    }
    return true;
  }

  void be_rank(int rank, Seat& seat) {
    network_.enter(rank);
    const auto engine = relay::make_gloo_engine(
        {.rank = rank, .size = replicas_, .address = network_.address(rank), .store = &store_},
        detail::Deadline(kPatience));
    const auto own = static_cast<std::size_t>(rank);
    std::vector<float> bucket(part_ * ranks());
    std::vector<float> part(part_);
    for (std::uint64_t turn = 1; turn <= turns(); ++turn) {
      for (std::size_t i = 0; i < bucket.size(); ++i) bucket[i] = element(i, own, turn);
      std::fill(part.begin(), part.end(), -1.0F);
      const std::uint64_t before = engine->bytes_sent();
      seat.armed.set(turn);
      board_->go.await(turn);
      reduce(*engine, way_of(turn), bucket, part);
      seat.ended_at = monotonic_ns();
      seat.sent = engine->bytes_sent() - before;
      const float* mine = way_of(turn) == scatter ? part.data() : bucket.data() + own * part_;
      seat.wrong[way_of(turn)] += is_mean(mine, own, turn) ? 0U : 1U;
      seat.done.set(turn);
    }
  }

  void reduce(relay::Engine& engine, std::size_t way, std::vector<float>& bucket,
              std::vector<float>& part) const {
    const detail::Deadline deadline(kPatience);
    auto* data = reinterpret_cast<std::byte*>(bucket.data());
    if (way == scatter)
      engine.reduce_scatter(data, reinterpret_cast<std::byte*>(part.data()), part_, Dtype::f32,
                            relay::ReduceOp::mean, deadline);
    else
      engine.all_reduce(data, bucket.size(), Dtype::f32, relay::ReduceOp::mean, deadline);
  }

  void add_rows() {
    const std::string where = fmt::format("{}, {} replicas: ", network_.name(), replicas_);
    for (std::size_t way = 0; way < way_count; ++way) {
      std::uint64_t wrong = 0;
      for (const Seat& seat : board_->seats) wrong += seat.wrong[way];
      Row row{.name = "R16 " + where + kWays[way],
              .bytes = elements_ * sizeof(float),
              .tensors = 1,
              .samples = times_[way],
              .wrong = wrong};
      row.more = {{"bytes_on_the_wire", sent_[way]},
                  {"padded_to_bytes", part_ * ranks() * sizeof(float)}};
      report_.add(row);
    }
    std::optional<Target> target;
    if (replicas_ == 4) target = at_most(0.65);
    report_.add(Figure{where + "bytes, of all-reduce and slice",
                       static_cast<double>(sent_[scatter]) / static_cast<double>(sent_[all]), "",
                       target});
    report_.add(Figure{where + "time, of all-reduce and slice",
                       1 / paired_speed(times_[all], times_[scatter]), ""});
  }

  const Options& options_;
  Report& report_;
  std::size_t elements_;
  int replicas_;
  std::size_t part_;  // elements that a rank keeps
  Network network_;
  SharedStore store_;
  Shared<Board> board_;
  std::array<Samples, way_count> times_;
  std::array<std::uint64_t, way_count> sent_{};
};

}  // namespace

nlohmann::json run_reduce(const Options& options) {
  Report report("reduce", options);
  report.set_option("dtype", "f32");
  report.set_option("rate", options.rate);
  for (const std::string& rate : rates(options))
    for (const int replicas : kReplicas) Reduce(options, rate, replicas, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
