// subscribers (R15): what one more subscriber costs the publisher.
//
// Timed: publish() of a version with every source unchanged, of a publication in place with few
// small buckets, while 1 to 16 processes are attached: that look elsewhere, as engines do that run
// a step, or that sleep in wait() until the version comes. The figure is the slope of the medians
// over the number of subscribers. Those that look elsewhere cost the publisher a look at their row;
// those that sleep must be woken by the kernel, one by one.
#include <fmt/core.h>

#include <array>
#include <chrono>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <vector>

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
    std::vector<double> medians;
    for (const unsigned n : kSubscribers) medians.push_back(median_with(n, asleep));
    const double slope = (medians.back() - medians.front()) /
                         static_cast<double>(kSubscribers.back() - kSubscribers.front());
    report_.add(Figure{fmt::format("R15 publish(), per subscriber, {}", how(asleep)), slope, "us",
                       at_most(1)});
  }

 private:
  [[nodiscard]] static const char* how(bool asleep) { return asleep ? "asleep" : "busy"; }
  [[nodiscard]] std::size_t rounds() const {
    return options_.warm_up(kWarmUp) + options_.samples(kRounds);
  }

  double median_with(unsigned subscribers, bool asleep) {
    Row row{.name = fmt::format("R15 publish(), {} subscriber{}, {}", subscribers,
                                subscribers == 1 ? "" : "s", how(asleep)),
            .tensors = layout_.size()};
    say(row.name);
    const Shared<Table> table;
    Family family;
    for (unsigned s = 0; s < subscribers; ++s)
      family.fork([&, s] { subscribe(*table, table->seats[s], asleep); });
    Publisher publisher =
        Publisher::create(options_.publication(0), layout_, {.mode = Mode::in_place, .threads = 1});
    publisher.publish(payload_.sources(), {.require = subscribers});
    const std::vector<Source> unchanged = payload_.unchanged();
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      for (unsigned s = 0; s < subscribers; ++s)
        table->seats[s].armed.await(round, 0ns, [&] { family.check(); });
      if (asleep) std::this_thread::sleep_for(500us);  // until all of them sleep
      const std::uint64_t from = monotonic_ns();
      publisher.publish(unchanged);
      const std::uint64_t to = monotonic_ns();
      table->go.set(round);
      for (unsigned s = 0; s < subscribers; ++s)
        table->seats[s].done.await(round, 0ns, [&] { family.check(); });
      if (round > options_.warm_up(kWarmUp)) row.samples.add_ns(from, to);
    }
    family.join();
    for (unsigned s = 0; s < subscribers; ++s) row.wrong += table->seats[s].wrong;
    report_.add(row);
    return row.samples.p50();
  }

  void subscribe(Table& table, Seat& seat, bool asleep) {
    Subscriber subscriber = Subscriber::attach(options_.publication(0),
                                               {.deadline = kPatience, .spin = Duration::zero()});
    (void)subscriber.wait(newest(), kPatience);
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      seat.armed.set(round);
      if (!asleep) table.go.await(round);
      const Lease lease = subscriber.wait(newer_than(round), kPatience);
      seat.wrong += lease.version() == round + 1 ? payload_.count_stale(lease) : 1U;
      seat.done.set(round);
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
