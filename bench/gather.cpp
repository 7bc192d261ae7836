// gather: copying a model's parameters into warm slots, against plain copies of as many bytes.
//
// Timed: Publisher::publish() of a model whose every bucket changed, nobody attached; and, in the
// same rounds, in rotating order, the copy of one block of as many bytes out of the same source
// memory into warm memory of the same kind (shared, 4 KiB pages unless the machine says otherwise).
// Before each timed publish every page of every source gets new bytes; all bytes are compared after
// it, outside the timed part. The plain copies are compared in the poisoned first and last round.
//
// Cold rows are shown apart: each sample creates the publication anew, five seconds after the last
// one went, because a virtual machine gives freed memory back to its host meanwhile.
#include <fmt/core.h>

#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <thread>

#include "fit.hpp"
#include "payload.hpp"
#include "plain_copy.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

using namespace std::chrono_literals;

constexpr double kCopies = 3.1;  // sources, slots and the plain copy's destination
constexpr std::size_t kWarmUp = 3;
constexpr std::size_t kRounds = 30;
constexpr std::size_t kColdRounds = 3;
constexpr std::size_t kUnchangedRounds = 1000;
constexpr auto kGiveBackPause = 5s;

struct Contender {
  Row row;
  std::function<void()> run;
};

class Gather {
 public:
  Gather(const Options& options, Report& report)
      : options_(options),
        report_(report),
        layout_(plan(fitting_model(options, room_for(kCopies), "what fits into memory", report))),
        payload_(layout_),
        target_(layout_.payload_bytes()),
        copier_(usable_cpus().size()) {
    report_.set_option("model", options_.model);
    report_.set_option("buckets", layout_.bucket_count());
    report_.set_option("plain_copy_threads", copier_.threads());
  }

  void run() {
    cold();
    say("creating the warm publication");
    Publisher publisher = create();
    warm(publisher);
    unchanged(publisher);
  }

 private:
  [[nodiscard]] Publisher create() const {
    return Publisher::create(options_.publication(0), layout_, {.mode = Mode::in_place});
  }

  void cold() {
    Row create_row = row("R10 create (slots pre-faulted), cold");
    Row first_row = row("R10 first publish after create");
    for (std::size_t i = 0; i < (options_.quick ? 1 : kColdRounds); ++i) {
      say(fmt::format("cold round {}", i + 1));
      std::this_thread::sleep_for(kGiveBackPause);
      payload_.stamp(i + 1);
      const std::uint64_t t0 = monotonic_ns();
      Publisher publisher = create();
      const std::uint64_t t1 = monotonic_ns();
      publisher.publish(payload_.sources());
      const std::uint64_t t2 = monotonic_ns();
      create_row.samples.add_ns(t0, t1);
      first_row.samples.add_ns(t1, t2);
      first_row.wrong += payload_.count_different(publisher);
    }
    report_.add(create_row);
    report_.add(first_row);
  }

  void warm(Publisher& publisher) {
    using Store = PlainCopy::Store;
    std::vector<Contender> all;
    all.push_back(
        {row("R1 publish (gather, warm slots)"), [&] { publisher.publish(payload_.sources()); }});
    const auto plain = [&](const char* name, Store store, bool alone) {
      all.push_back({row(name), [this, store, alone] {
                       const std::uint64_t bytes = layout_.payload_bytes();
                       if (alone)
                         PlainCopy::copy_alone(target_.data(), payload_.block(), bytes, store);
                       if (!alone) copier_.copy(target_.data(), payload_.block(), bytes, store);
                     }});
    };
    plain("R0 memcpy, 1 thread", Store::normal, true);
    plain("R0 memcpy, all threads", Store::normal, false);
    if (PlainCopy::has_non_temporal()) {
      plain("R0 non-temporal, 1 thread", Store::non_temporal, true);
      plain("R0 non-temporal, all threads", Store::non_temporal, false);
    }
    say("poisoning and comparing");
    check_all(publisher, all);
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    const std::size_t rounds = options_.samples(kRounds);
    for (std::size_t i = 0; i < warm_up + rounds; ++i) {
      if (i % 10 == 0) say(fmt::format("round {} of {}", i + 1, warm_up + rounds));
      round(publisher, all, i, i >= warm_up);
    }
    say("poisoning and comparing");
    check_all(publisher, all);
    for (const Contender& c : all) report_.add(c.row);
    add_figures(all);
  }

  // One sample of each, beginning with another one each time.
  void round(Publisher& publisher, std::vector<Contender>& all, std::size_t number, bool counts) {
    payload_.stamp(100 + number);
    for (std::size_t k = 0; k < all.size(); ++k) {
      Contender& c = all[(number + k) % all.size()];
      const std::uint64_t t0 = monotonic_ns();
      c.run();
      const std::uint64_t t1 = monotonic_ns();
      if (counts) c.row.samples.add_ns(t0, t1);
    }
    all.front().row.wrong += payload_.count_different(publisher);
  }

  // Into poisoned destinations, everything compared.
  void check_all(Publisher& publisher, std::vector<Contender>& all) {
    poison_slots(publisher);
    for (Contender& c : all) {
      std::memset(target_.data(), 0xA5, target_.size());
      c.run();
      if (&c == &all.front()) {
        c.row.wrong += payload_.count_different(publisher);
      } else if (std::memcmp(target_.data(), payload_.block(), target_.size()) != 0) {
        ++c.row.wrong;
      }
    }
  }

  void unchanged(Publisher& publisher) {
    Row unchanged_row = row("publish, all sources unchanged");
    unchanged_row.bytes = 0;
    const std::vector<Source> sources = payload_.unchanged();
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    for (std::size_t i = 0; i < warm_up + options_.samples(kUnchangedRounds); ++i) {
      const std::uint64_t t0 = monotonic_ns();
      publisher.publish(sources);
      const std::uint64_t t1 = monotonic_ns();
      if (i >= warm_up) unchanged_row.samples.add_ns(t0, t1);
    }
    unchanged_row.wrong = payload_.count_different(publisher);
    report_.add(unchanged_row);
  }

  void add_figures(const std::vector<Contender>& all) {
    const Row& gather = all.front().row;
    const Row* best = &all[1].row;
    for (std::size_t i = 2; i < all.size(); ++i) {
      if (all[i].row.samples.p50() < best->samples.p50()) best = &all[i].row;
    }
    report_.set_option("best_plain_copy", best->name);
    report_.add(Figure{"gather speed / best plain copy (medians)",
                       best->samples.p50() / gather.samples.p50(), "", at_least(0.9)});
    report_.add(Figure{"gather speed / best plain copy (median of rounds)",
                       paired_speed(best->samples, gather.samples), ""});
  }

  [[nodiscard]] Row row(std::string name) const {
    return {.name = std::move(name), .bytes = layout_.payload_bytes(), .tensors = layout_.size()};
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Payload payload_;
  SharedBytes target_;
  PlainCopy copier_;
};

}  // namespace

nlohmann::json run_gather(const Options& options) {
  Report report("gather", options);
  say("preparing random sources");
  Gather(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
