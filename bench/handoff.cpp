// handoff: from publish() to a view that can be used, in every mode, for 1, 2 and 4 subscribers.
//
// Timed: from just before publish() to the moment at which the last subscriber has its lease and
// has read the first bytes of a view (streaming: has the whole version in storage of its own, which
// is what load() is for). publish() alone has a row of its own. Subscribers sleep when the version
// arrives, as engines do that have nothing else to do; nobody is pinned. The model keeps few
// layers, so that the copies for four loading subscribers fit into ordinary machines.
//
// Every page of every source gets new bytes before each version, and every subscriber looks at
// every page of each version; the last version is compared byte by byte. All that is outside the
// time.
#include <fmt/core.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tenon/model.hpp>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "child.hpp"
#include "handoff_parts.hpp"
#include "machine.hpp"
#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t kLayers = 2;
constexpr std::uint64_t kBucketBytes = 64ULL << 20U;  // several buckets even of few layers
constexpr std::size_t kWarmUp = 3;
constexpr std::size_t kRounds = 30;
constexpr std::array<unsigned, 3> kSubscribers{1, 2, 4};
constexpr std::array<Mode, 3> kModes{Mode::in_place, Mode::double_buffered, Mode::streaming};

/// One subscriber's side of the table.
struct Seat {
  Turn armed;   // about to wait for the version of that round
  Turn usable;  // has it
  Turn done;    // has checked it and let it go
  std::uint64_t usable_at = 0;
  std::uint64_t wrong = 0;
};

struct Table {
  Turn go;     // the round to wait for
  Turn check;  // everybody has that round's version: checking it disturbs nobody
  std::array<Seat, 4> seats;
};

class Handoff {
 public:
  Handoff(const Options& options, Report& report)
      : options_(options),
        report_(report),
        layout_(plan(model_parameters(options.model, options.layers.value_or(kLayers)),
                     {.bucket_bytes = kBucketBytes})),
        payload_(layout_) {
    report_.set_option("model", options_.model);
    report_.set_option("layers", options_.layers.value_or(kLayers));
    report_.set_option("buckets", layout_.bucket_count());
    report_.set_option("spin_us", detail::kDefaultSpin.count() / 1000);
  }

  void run(Mode mode, unsigned subscribers) {
    const std::uint64_t slots = (mode == Mode::double_buffered ? 2 : 1) * layout_.payload_bytes();
    const std::uint64_t copies =
        mode == Mode::streaming ? subscribers * layout_.payload_bytes() : 0;
    const std::string name =
        fmt::format("{}, {} subscriber{}", name_of(mode), subscribers, subscribers == 1 ? "" : "s");
    if (1.1 * static_cast<double>(slots) > static_cast<double>(available_shm()) ||
        1.1 * static_cast<double>(slots + copies) > static_cast<double>(available_memory())) {
      report_.note(name + " is left out: not enough memory");
      return;
    }
    say(name);
    const Shared<Table> table;
    Family family;
    for (unsigned s = 0; s < subscribers; ++s) {
      family.fork([&] { subscribe(*table, table->seats[s]); });
    }
    publish(*table, family, {mode, subscribers, name});
  }

 private:
  struct Setting {
    Mode mode;
    unsigned subscribers;
    std::string name;
  };

  [[nodiscard]] std::size_t rounds() const {
    return options_.warm_up(kWarmUp) + options_.samples(kRounds);
  }

  void publish(Table& table, Family& family, const Setting& setting) {
    Publisher publisher =
        Publisher::create(options_.publication(0), layout_, {.mode = setting.mode});
    if (publisher.mode() != setting.mode) report_.note(publisher.notes().front());
    Row usable = row(setting.mode == Mode::streaming ? "R8 " + setting.name + ": loaded"
                                                     : "R7 " + setting.name + ": view");
    Row alone = row(setting.name + ": publish()");
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      payload_.stamp(round);
      table.go.set(round);
      for (unsigned s = 0; s < setting.subscribers; ++s)
        table.seats[s].armed.await(round, 0ns, [&] { family.check(); });
      std::this_thread::sleep_for(1ms);  // they have fallen asleep
      const std::uint64_t from = monotonic_ns();
      publisher.publish(payload_.sources(), {.require = setting.subscribers});
      const std::uint64_t back = monotonic_ns();
      std::uint64_t last = 0;
      for (unsigned s = 0; s < setting.subscribers; ++s) {
        table.seats[s].usable.await(round, 0ns, [&] { family.check(); });
        last = std::max(last, table.seats[s].usable_at);
      }
      table.check.set(round);
      for (unsigned s = 0; s < setting.subscribers; ++s)
        table.seats[s].done.await(round, 0ns, [&] { family.check(); });
      if (round <= options_.warm_up(kWarmUp)) continue;
      usable.samples.add_ns(from, last);
      alone.samples.add_ns(from, back);
    }
    family.join();
    for (unsigned s = 0; s < setting.subscribers; ++s) usable.wrong += table.seats[s].wrong;
    report_.add(usable);
    report_.add(alone);
  }

  void subscribe(Table& table, Seat& seat) {
    AttachOptions attach_options;
    attach_options.deadline = kPatience;
    Subscriber subscriber = Subscriber::attach(options_.publication(0), attach_options);
    if (subscriber.mode() == Mode::streaming) {
      load(subscriber, table, seat);
    } else {
      adopt(subscriber, table, seat);
    }
  }

  void adopt(Subscriber& subscriber, Table& table, Seat& seat) {
    const std::string last_name(layout_[layout_.size() - 1].name);
    std::uint64_t version = 0;
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      table.go.await(round);
      seat.armed.set(round);
      const Lease lease = subscriber.wait(newer_than(version), kPatience);
      const View view = lease[last_name];
      const volatile std::byte first = *view.data();
      (void)first;
      seat.usable_at = monotonic_ns();
      seat.usable.set(round);
      table.check.await(round);
      seat.wrong += lease.version() == version + 1 ? 0U : 1U;
      seat.wrong +=
          round == rounds() ? payload_.count_different(lease) : payload_.count_stale(lease);
      version = lease.version();
      seat.done.set(round);
    }
  }

  void load(Subscriber& subscriber, Table& table, Seat& seat) {
    Destination destination(layout_);
    LoadPlan plan = destination.plan(layout_);
    subscriber.join();
    const auto data_of = [&](std::size_t i) { return destination[i]; };
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      table.go.await(round);
      if (round == rounds()) destination.poison();
      seat.armed.set(round);
      const std::uint64_t version = subscriber.load(plan, kPatience);
      seat.usable_at = monotonic_ns();
      seat.usable.set(round);
      table.check.await(round);
      seat.wrong += version == round ? 0U : 1U;
      seat.wrong +=
          round == rounds() ? payload_.count_different(data_of) : payload_.count_stale(data_of);
      seat.done.set(round);
    }
  }

  [[nodiscard]] Row row(std::string name) const {
    return {.name = std::move(name), .bytes = layout_.payload_bytes(), .tensors = layout_.size()};
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Payload payload_;
};

}  // namespace

nlohmann::json run_handoff(const Options& options) {
  Report report("handoff", options);
  measure_adopt(options, report);
  measure_memory(options, report);
  say("preparing random sources");
  Handoff handoff(options, report);
  for (const Mode mode : kModes) {
    for (const unsigned subscribers : kSubscribers) handoff.run(mode, subscribers);
  }
  return std::move(report).json();
}

}  // namespace tenon::bench
