// subscribers (R15): what one more subscriber costs the publisher, in host memory; in GPU memory it
// is the same but for what gpu_subscribers.cpp has.
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
#include "subscribers_parts.hpp"

namespace tenon::bench {
namespace {

using namespace std::chrono_literals;

constexpr const char* kModel = "llama-3.2-1b";
constexpr std::uint64_t kShrink = 24;
constexpr std::size_t kWarmUp = 10;
constexpr std::size_t kRounds = 1000;
/// Opening a GPU's contexts in many processes takes its time.
constexpr std::chrono::minutes kRowPatience{10};

struct Seat {
  Turn armed;  // about to wait for the version of that round, or not to
  Turn done;   // has it
  std::uint64_t wrong = 0;
};
struct Table {
  Turn go;
  alignas(64) std::atomic<std::uint32_t> word{0};  // of the bare futex
  std::array<Seat, kMostSubscribers> seats;
  Series publishes;
  Series bare_wakes;
};

class Subscribers {
 public:
  Subscribers(const Options& options, Report& report, const Layout& layout,
              const SubscribersMemory& memory)
      : options_(options), report_(report), layout_(layout), memory_(memory) {}

  void run(bool asleep) {
    std::vector<std::pair<double, double>> publishes;
    std::vector<std::pair<double, double>> bare_wakes;
    for (const unsigned n : memory_.subscribers) {
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
    return options_.warm_up(kWarmUp) + options_.samples(memory_.rounds);
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
    family.fork([&] { publish(*table, subscribers, asleep); });
    family.join(kRowPatience);
    for (unsigned s = 0; s < subscribers; ++s) row.wrong += table->seats[s].wrong;
    row.samples = table->publishes.samples();
    bare.samples = table->bare_wakes.samples();
    report_.add(row);
    if (asleep) report_.add(bare);
    return {row.samples.p50(), bare.samples.p50()};
  }

  void publish(Table& table, unsigned subscribers, bool asleep) {
    const SubscribersMemory::Publish publish = memory_.publisher();
    Publisher publisher = Publisher::create(options_.publication(0), layout_, memory_.publication);
    publish(publisher, {.deadline = kPatience, .require = subscribers});
    std::uint64_t turn = 0;
    const auto in_turn = [&](Series& samples, bool counts, const auto& action) {
      ++turn;
      for (unsigned s = 0; s < subscribers; ++s) table.seats[s].armed.await(turn);
      if (asleep) std::this_thread::sleep_for(500us);  // until all of them sleep
      const std::uint64_t from = monotonic_ns();
      action();
      const std::uint64_t to = monotonic_ns();
      table.go.set(turn);
      for (unsigned s = 0; s < subscribers; ++s) table.seats[s].done.await(turn);
      if (counts) samples.add_ns(from, to);
    };
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      const bool counts = round > options_.warm_up(kWarmUp);
      in_turn(table.publishes, counts, [&] { publish(publisher, {}); });
      if (asleep) in_turn(table.bare_wakes, counts, [&] { wake_all(table.word); });
    }
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
    const SubscribersMemory::CountWrong count_wrong = memory_.subscriber();
    Subscriber subscriber = Subscriber::attach(options_.publication(0),
                                               {.deadline = kPatience, .spin = Duration::zero()});
    (void)subscriber.wait(newest(), kPatience);
    std::uint64_t turn = 0;
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      seat.armed.set(++turn);
      if (!asleep) table.go.await(turn);
      const Lease lease = subscriber.wait(newer_than(round), kPatience);
      seat.wrong += lease.version() == round + 1 ? count_wrong(lease) : 1U;
      seat.done.set(turn);
      if (!asleep) continue;
      sleep_on(table.word, seat, ++turn);
      seat.done.set(turn);
    }
  }

  const Options& options_;
  Report& report_;
  const Layout& layout_;
  const SubscribersMemory& memory_;
};

}  // namespace

Layout subscribers_layout(Report& report) {
  Layout layout = plan_with_buckets(scaled_model(kModel, kShrink), natural_buckets(kModel));
  report.set_option("model", {{"model", kModel},
                              {"shrink", kShrink},
                              {"tensors", layout.size()},
                              {"buckets", layout.bucket_count()}});
  return layout;
}

void measure_subscribers(const Options& options, Report& report, const Layout& layout,
                         const SubscribersMemory& memory) {
  Subscribers subscribers(options, report, layout, memory);
  for (const bool asleep : {false, true}) subscribers.run(asleep);
}

nlohmann::json run_subscribers(const Options& options) {
  Report report("subscribers", options);
  const Layout layout = subscribers_layout(report);
  const Payload payload(layout);
  const auto publisher = [&] {
    return [&, unchanged = payload.unchanged(), first = true](Publisher& publication,
                                                              const PublishOptions& how) mutable {
      publication.publish(std::exchange(first, false) ? payload.sources() : unchanged, how);
    };
  };
  const auto subscriber = [&] {
    return [&](const Lease& lease) { return payload.count_stale(lease); };
  };
  measure_subscribers(options, report, layout,
                      {.publication = {.mode = Mode::in_place, .threads = 1},
                       .subscribers = {1, 2, 4, 8, 16},
                       .rounds = kRounds,
                       .publisher = publisher,
                       .subscriber = subscriber});
  return std::move(report).json();
}

}  // namespace tenon::bench
