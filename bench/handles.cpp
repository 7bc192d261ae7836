// handles, on the host: what handing weights over costs with an object of shared memory per tensor,
// beside Tenon's way, in the same rounds.
//
//   R0  one plain copy of as many bytes, by one thread, as R7's gather
//   R3  an object per tensor: opened, mapped, unmapped, every step
//   R4  a record per tensor, the objects mapped once and kept
//   R5  an object per flat bucket: opened, mapped, unmapped, every step
//   R6  Tenon: parameters that live in the slots, sealed and adopted; the reader spins, or sleeps
//   R7  Tenon: gathered, then adopted
//
// Timed by CLOCK_MONOTONIC from the trainer's first call to the moment at which the engine can have
// the pointer of any tensor; the rows "touched" end when it has read a byte of each. R3 to R5 are
// treated kindly: the trainer's tensors live in the objects, their names are known before, one
// message per step, and the copy into R5's buckets is not counted. The model's dimensions are
// divided, so that all of it fits: what is measured does not depend on the bytes, but for R7.
//
// Every tensor begins with a stamp of the round, which is compared outside the timed part.
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "child.hpp"
#include "objects.hpp"
#include "payload.hpp"
#include "plain_copy.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kShrink = 24;
constexpr std::size_t kWarmUp = 3;
constexpr std::size_t kRounds = 30;

enum Way : std::size_t { kR3, kR4, kR5, kR6Spinning, kR6Asleep, kR7, kWays };
constexpr std::array<const char*, kWays> kNames{"R3 an object per tensor, opened every step",
                                                "R4 a record per tensor, mappings kept",
                                                "R5 an object per bucket, opened every step",
                                                "R6 adopt, spinning",
                                                "R6 adopt, asleep",
                                                "R7 gather and adopt, spinning"};

using Stamp = std::uint64_t;
Stamp stamp_of(std::uint64_t round, std::size_t i) {
  return (round * 1'000'003 + i) * 0x9E3779B97F4A7C15U;
}

struct Board {
  Turn armed;   // the engine waits for that step
  Turn sent;    // R3 to R5: the message
  Turn usable;  // the engine has it
  Turn done;    // and has looked
  std::uint64_t usable_at = 0, touched_at = 0;
  std::uint64_t wrong[kWays] = {};
};

class Handles {
 public:
  Handles(const Options& options, Report& report)
      : options_(options),
        report_(report),
        layout_(plan_with_buckets(scaled_model(options.model, shrink(), options.layers),
                                  natural_buckets(options.model))),
        tensors_(options.name_prefix + ".tensors", tensor_bytes(layout_)),
        buckets_(options.name_prefix + ".buckets", bucket_bytes(layout_)),
        payload_(layout_),
        target_(layout_.payload_bytes()),
        plain_{.name = "R0 plain copy, 1 thread",
               .bytes = layout_.payload_bytes(),
               .tensors = layout_.size()} {
    report_.set_option("model", {{"model", options.model},
                                 {"shrink", shrink()},
                                 {"tensors", layout_.size()},
                                 {"buckets", layout_.bucket_count()},
                                 {"bytes", layout_.payload_bytes()}});
  }

  void run() {
    Family family;
    family.fork([this] { engine(); });
    if (options_.pin) pin_to(0);
    store_ = copier_.faster_store(target_.data(), payload_.block(), target_.size());
    Publisher publisher =
        Publisher::create(options_.publication(0), layout_, {.mode = Mode::in_place, .threads = 1});
    std::array<Samples, kWays> usable, touched;
    std::array<double, kWays> first{};
    std::uint64_t step = 0;
    for (std::size_t round = 1; round <= rounds(); ++round) {
      for (std::size_t way = 0; way < kWays; ++way) {
        const std::function<void()> hand_over = prepare(static_cast<Way>(way), round, publisher);
        board_->armed.await(++step, 0ns, [&] { family.check(); });
        std::this_thread::sleep_for(1ms);  // it is in its wait, or asleep there
        const std::uint64_t from = monotonic_ns();
        hand_over();
        if (way <= kR5) board_->sent.set(step);
        board_->usable.await(step, 0ns, [&] { family.check(); });
        board_->done.await(step, 0ns, [&] { family.check(); });
        if (round == 1) first[way] = static_cast<double>(board_->usable_at - from) / 1e3;
        if (round <= options_.warm_up(kWarmUp)) continue;
        usable[way].add_ns(from, board_->usable_at);
        touched[way].add_ns(from, board_->touched_at);
      }
      copy_plainly(round);
    }
    family.join();
    add_results(usable, touched, first);
  }

 private:
  [[nodiscard]] std::uint64_t shrink() const {
    return options_.shrink > 1 ? options_.shrink : kShrink;
  }
  [[nodiscard]] std::size_t rounds() const {
    return options_.warm_up(kWarmUp) + options_.samples(kRounds);
  }
  [[nodiscard]] bool is_stamped(std::size_t i) const { return layout_[i].bytes >= sizeof(Stamp); }
  /// Stamps every tensor where `data_of(i)` says that it is.
  template <class DataOf>
  void stamp(std::uint64_t round, const DataOf& data_of) const {
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      const Stamp value = stamp_of(round, i);
      if (is_stamped(i)) std::memcpy(data_of(i), &value, sizeof(value));
    }
  }
  template <class DataOf>
  [[nodiscard]] std::uint64_t count_wrong(std::uint64_t round, const DataOf& data_of) const {
    std::uint64_t wrong = 0;
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      const Stamp value = stamp_of(round, i);
      if (is_stamped(i) && std::memcmp(data_of(i), &value, sizeof(value)) != 0) ++wrong;
    }
    return wrong;
  }

  // --- The trainer ---

  void copy_plainly(std::uint64_t round) {
    if (round == rounds()) std::memset(target_.data(), 0xA5, target_.size());
    const std::uint64_t from = monotonic_ns();
    copier_.copy(target_.data(), payload_.block(), target_.size(), store_);
    const std::uint64_t to = monotonic_ns();
    if (round > options_.warm_up(kWarmUp)) plain_.samples.add_ns(from, to);
    if (round == rounds() && std::memcmp(target_.data(), payload_.block(), target_.size()) != 0)
      ++plain_.wrong;
  }

  /// Writes this round's tensors; what it returns is timed.
  std::function<void()> prepare(Way way, std::uint64_t round, Publisher& publisher) {
    switch (way) {
      case kR3:
      case kR4:
        stamp(round, [&](std::size_t i) { return tensors_[i]; });
        return [] {};
      case kR5:
        stamp(round,
              [&](std::size_t i) { return buckets_[layout_[i].bucket] + layout_[i].offset; });
        return [] {};
      case kR7:
        stamp(round, [&](std::size_t i) {
          return static_cast<std::byte*>(const_cast<void*>(payload_.sources()[i].data));
        });
        return [&] { publisher.publish(payload_.sources()); };
      default:
        break;
    }
    update_.emplace(publisher.begin());
    std::vector<std::byte*> slots;
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b) slots.push_back(update_->open(b));
    stamp(round, [&](std::size_t i) { return slots[layout_[i].bucket] + layout_[i].offset; });
    return [&] {
      for (std::size_t b = 0; b < layout_.bucket_count(); ++b) update_->seal(b);
      update_->commit();
      update_.reset();
    };
  }

  // --- The engine ---

  void engine() {
    if (options_.pin) pin_to(1);
    const Duration spin = usable_cpus().size() < 2 ? Duration::zero() : Duration(1s);
    const auto attach = [&](Duration how) {
      return Subscriber::attach(options_.publication(0), {.deadline = kPatience, .spin = how});
    };
    Subscriber spinning = attach(spin);
    Subscriber sleeping = attach(Duration::zero());
    std::vector<Mapped> kept;
    for (std::size_t i = 0; i < tensors_.size(); ++i) kept.push_back(tensors_.map(i));
    std::uint64_t step = 0;
    std::uint64_t version = 0;
    for (std::size_t round = 1; round <= rounds(); ++round) {
      for (std::size_t way = 0; way < kWays; ++way) {
        board_->armed.set(++step);
        if (way > kR5) {
          Subscriber& subscriber = way == kR6Asleep ? sleeping : spinning;
          const Lease lease = subscriber.wait(newer_than(version), kPatience);
          version = lease.version();
          finish(way, step, round, [&](std::size_t i) { return lease[i].data(); });
          continue;
        }
        board_->sent.await(step, spin);
        if (way == kR4) {
          finish(way, step, round, [&](std::size_t i) { return kept[i].data(); });
        } else {
          const Objects& objects = way == kR3 ? tensors_ : buckets_;
          std::vector<Mapped> opened;
          opened.reserve(objects.size());
          for (std::size_t k = 0; k < objects.size(); ++k) opened.push_back(objects.map(k));
          finish(way, step, round, [&](std::size_t i) {
            return way == kR3 ? opened[i].data()
                              : opened[layout_[i].bucket].data() + layout_[i].offset;
          });
        }
      }
    }
  }
  template <class DataOf>
  void finish(std::size_t way, std::uint64_t step, std::uint64_t round, const DataOf& data_of) {
    board_->usable_at = monotonic_ns();
    for (std::size_t i = 0; i < layout_.size(); ++i)
      (void)*static_cast<const volatile std::byte*>(data_of(i));
    board_->touched_at = monotonic_ns();
    board_->usable.set(step);
    board_->wrong[way] += count_wrong(round, data_of);
    board_->done.set(step);
  }

  void add_results(const std::array<Samples, kWays>& usable,
                   const std::array<Samples, kWays>& touched,
                   const std::array<double, kWays>& first) {
    report_.add(plain_);
    for (std::size_t way = 0; way < kWays; ++way) {
      const std::uint64_t bytes = way == kR7 ? layout_.payload_bytes() : 0;
      report_.add(Row{.name = kNames[way],
                      .bytes = bytes,
                      .tensors = layout_.size(),
                      .samples = usable[way],
                      .first_us = first[way],
                      .wrong = board_->wrong[way]});
      report_.add(Row{.name = std::string(kNames[way]) + ": touched",
                      .bytes = bytes,
                      .tensors = layout_.size(),
                      .samples = touched[way]});
    }
    const auto ratio = [&](const char* name, const std::array<Samples, kWays>& of, Way a, Way b,
                           std::optional<Target> target) {
      report_.add(Figure{name, of[a].p50() / of[b].p50(), "", target});
    };
    const bool headline = options_.model == "qwen3-30b-a3b" && !options_.layers;
    const auto target = [&](double least) {
      return headline ? std::optional(at_least(least)) : std::nullopt;
    };
    ratio("R3 / R6, spinning", usable, kR3, kR6Spinning, target(10'000));
    ratio("R3 / R6, asleep", usable, kR3, kR6Asleep, target(300));
    ratio("R3 / R6, spinning, a byte of each touched", touched, kR3, kR6Spinning, {});
    ratio("R5 / R6, spinning", usable, kR5, kR6Spinning, {});
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Objects tensors_;
  Objects buckets_;
  Payload payload_;
  SharedBytes target_;
  Row plain_;
  PlainCopy copier_{1};
  PlainCopy::Store store_{};
  std::optional<Publisher::Update> update_;
  Shared<Board> board_;
};

}  // namespace

nlohmann::json run_handles(const Options& options) {
  Report report("handles", options);
  say("handles every step, against adopting");
  Handles(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
