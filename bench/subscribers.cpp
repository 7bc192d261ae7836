// subscribers (R15): what one more subscriber costs the publisher.
//
// Timed: publish() of a version with every source unchanged, of a publication in place with few
// small buckets, while 1 to 16 processes are attached: that look elsewhere, as engines do that run
// a step, or that sleep in wait() until the version comes. The figure is the slope of the medians
// over the number of subscribers (least squares). Nobody is pinned. No byte is rewritten, so what
// is checked is the version and that its bytes stayed. Those that look elsewhere cost the publisher
// a look at their row; those that sleep must be woken by the kernel, one by one, and may take the
// publisher's processor at once. Hence a bare FUTEX_WAKE of as many sleeping processes is timed in
// the same rounds.
#include <fmt/core.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "bare_futex.hpp"
#include "child.hpp"
#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

using namespace std::chrono_literals;

constexpr const char* kModel = "llama-3.2-1b";
constexpr std::uint64_t kShrink = 24;
constexpr std::size_t kWarmUp = 10;
constexpr std::size_t kRounds = 1000;
constexpr std::array<unsigned, 5> kSubscribers{1, 2, 4, 8, 16};

struct Seat {
  Turn armed;  // about to wait for the version of that round, or not to
  Turn done;   // has it
  std::uint64_t wrong = 0;
};
struct Table {
  Turn go;
  alignas(64) std::atomic<std::uint32_t> word{0};  // of the bare futex
  std::array<Seat, 16> seats;
};

class Subscribers {
 public:
  Subscribers(const Options& options, Report& report)
      : options_(options),
        report_(report),
        layout_(plan_with_buckets(scaled_model(kModel, kShrink), natural_buckets(kModel))),
        payload_(layout_) {
    report.set_option("model", {{"model", kModel},
                                {"shrink", kShrink},
                                {"tensors", layout_.size()},
                                {"buckets", layout_.bucket_count()}});
  }

  void run(bool asleep) {
    std::vector<std::pair<double, double>> publishes;
    std::vector<std::pair<double, double>> bare_wakes;
    for (const unsigned n : kSubscribers) {
      const Medians medians = medians_with(n, asleep);
      publishes.emplace_back(n, medians.publish);
      bare_wakes.emplace_back(n, medians.bare_wake);
    }
    report_.add(Figure{fmt::format("R15 publish(), per subscriber, {}", how(asleep)),
                       line_through(publishes).first, "us", at_most(1)});
    if (asleep)
      report_.add(Figure{"R15 bare FUTEX_WAKE, per sleeper", line_through(bare_wakes).first, "us"});
  }

 private:
  struct Medians {
    double publish = 0;
    double bare_wake = 0;
  };
  [[nodiscard]] static const char* how(bool asleep) { return asleep ? "asleep" : "elsewhere"; }
  [[nodiscard]] std::size_t rounds() const {
    return options_.warm_up(kWarmUp) + options_.samples(kRounds);
  }

  Medians medians_with(unsigned subscribers, bool asleep) {
    const std::string who =
        fmt::format("{} subscriber{}, {}", subscribers, subscribers == 1 ? "" : "s", how(asleep));
    Row row{.name = fmt::format("R15 publish(), {}", who), .tensors = layout_.size()};
    Row bare{.name = fmt::format("R15 bare FUTEX_WAKE, {} sleepers", subscribers)};
    say(row.name);
    const Shared<Table> table;
    Family family;
    for (unsigned s = 0; s < subscribers; ++s)
      family.fork([&, s] { subscribe(*table, table->seats[s], asleep); });
    Publisher publisher =
        Publisher::create(options_.publication(0), layout_, {.mode = Mode::in_place, .threads = 1});
    publisher.publish(payload_.sources(), {.require = subscribers});
    const std::vector<Source> unchanged = payload_.unchanged();
    std::uint64_t turn = 0;
    const auto in_turn = [&](Samples& samples, bool counts, const auto& action) {
      ++turn;
      for (unsigned s = 0; s < subscribers; ++s)
        table->seats[s].armed.await(turn, 0ns, [&] { family.check(); });
      if (asleep) std::this_thread::sleep_for(500us);  // until all of them sleep
      const std::uint64_t from = monotonic_ns();
      action();
      const std::uint64_t to = monotonic_ns();
      table->go.set(turn);
      for (unsigned s = 0; s < subscribers; ++s)
        table->seats[s].done.await(turn, 0ns, [&] { family.check(); });
      if (counts) samples.add_ns(from, to);
    };
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      const bool counts = round > options_.warm_up(kWarmUp);
      in_turn(row.samples, counts, [&] { publisher.publish(unchanged); });
      if (asleep) in_turn(bare.samples, counts, [&] { wake_all(table->word); });
    }
    family.join();
    for (unsigned s = 0; s < subscribers; ++s) row.wrong += table->seats[s].wrong;
    report_.add(row);
    if (asleep) report_.add(bare);
    return {row.samples.p50(), bare.samples.p50()};
  }

  static void wake_all(std::atomic<std::uint32_t>& word) {
    word.fetch_add(1, std::memory_order_release);
    bare_wake(word);
  }
  static void sleep_on(std::atomic<std::uint32_t>& word, Seat& seat, std::uint64_t turn) {
    const std::uint32_t before = word.load(std::memory_order_acquire);
    seat.armed.set(turn);
    while (word.load(std::memory_order_acquire) == before) bare_wait(word, before);
  }

  void subscribe(Table& table, Seat& seat, bool asleep) {
    Subscriber subscriber = Subscriber::attach(options_.publication(0),
                                               {.deadline = kPatience, .spin = Duration::zero()});
    (void)subscriber.wait(newest(), kPatience);
    std::uint64_t turn = 0;
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      seat.armed.set(++turn);
      if (!asleep) table.go.await(turn);
      const Lease lease = subscriber.wait(newer_than(round), kPatience);
      seat.wrong += lease.version() == round + 1 ? payload_.count_stale(lease) : 1U;
      seat.done.set(turn);
      if (!asleep) continue;
      sleep_on(table.word, seat, ++turn);
      seat.done.set(turn);
    }
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Payload payload_;
};

}  // namespace

nlohmann::json run_subscribers(const Options& options) {
  Report report("subscribers", options);
  Subscribers subscribers(options, report);
  for (const bool asleep : {false, true}) subscribers.run(asleep);
  return std::move(report).json();
}

}  // namespace tenon::bench
