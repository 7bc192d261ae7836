// handoff, part adopt: what a subscriber pays to take a version that is there.
//
// Timed, in a process of its own: try_acquire(), one view by name, release(). Publications of 146
// and of 18,867 parameters with equally many buckets take turns within each round, the first one
// changing; a third has 18,867 parameters in as many buckets as the real model. Of these the view
// is of `model.norm.weight`; of a fourth it is another parameter each time, whose name and record
// no cache holds; a fifth is the first again, whose subscriber finds no statistics to keep. Every
// sample adopts a version that was published since the last one. Calls of operator new on the path
// are counted. The publisher's process and this one are pinned to a processor each.
#include <unistd.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <tenon/detail/shared_object.hpp>
#include <tenon/name.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <utility>
#include <vector>

#include "allocations.hpp"
#include "child.hpp"
#include "handoff_parts.hpp"
#include "payload.hpp"

namespace tenon::bench {
namespace {

constexpr std::size_t kWarmUp = 100;
constexpr std::size_t kRounds = 2000;
constexpr std::size_t kSubjects = 5;
constexpr std::size_t kPrime = 7919;  // steps through all names
constexpr const char* kFixedName = "model.norm.weight";

struct Subject {
  const char* row;
  std::string publication;
  Layout layout;
  Payload payload;
  bool statistics = true;
  Subject(const char* r, std::string name, const Layout& l)
      : row(r), publication(std::move(name)), layout(l), payload(l) {}
};

// As a publisher of format 1.1 leaves its segment. For subscribers that attach later.
void take_statistics_out(const std::string& publication) {
  std::optional<detail::SharedObject> object =
      detail::SharedObject::open(detail::publication_object(::geteuid(), publication),
                                 detail::SharedObject::Access::read_write);
  object->map(sizeof(format::Header));
  reinterpret_cast<format::Header*>(object->data())->statistics_at = 0;
}

struct Board {
  Turn created;
  Turn published;
  Turn adopted;
  std::array<Series, kSubjects> series;
  std::uint64_t allocations = 0;
};

class AdoptBench {
 public:
  AdoptBench(const Options& options, Report& report) : options_(options), report_(report) {
    const auto small = scaled_model("llama-3.2-1b", 24);
    const auto large = scaled_model("qwen3-30b-a3b", 24);
    const std::size_t few = natural_buckets("llama-3.2-1b");
    const auto add = [&](const char* row, const std::vector<Parameter>& parameters,
                         std::size_t buckets) {
      subjects_.push_back(std::make_unique<Subject>(
          row, options.publication(static_cast<unsigned>(subjects_.size())),
          plan_with_buckets(parameters, buckets)));
    };
    add("adopt a version", small, few);
    add("adopt a version, same number of buckets", large, few);
    add("adopt a version, buckets of the real model", large, natural_buckets("qwen3-30b-a3b"));
    add("adopt a version, no statistics", small, few);
    subjects_.back()->statistics = false;
    add("adopt a version, view of a random parameter", large, few);
    nlohmann::json buckets;
    for (const auto& s : subjects_) buckets.push_back(s->layout.bucket_count());
    report.set_option("adopt_buckets", buckets);
  }

  void run() {
    say("adopting versions");
    Family family;
    family.fork([this] { adopt(); });
    std::vector<Publisher> publishers;
    std::vector<std::vector<Source>> unchanged;
    for (const auto& s : subjects_) {
      publishers.push_back(
          Publisher::create(s->publication, s->layout, {.mode = Mode::in_place, .threads = 1}));
      publishers.back().publish(s->payload.sources());
      unchanged.push_back(s->payload.unchanged());
      if (!s->statistics) take_statistics_out(s->publication);
    }
    board_->created.set(1);
    board_->adopted.await(1, spin_, [&] { family.check(); });  // it has attached to all of them
    if (options_.pin) pin_to(0);
    for (std::uint64_t turn = 1; turn <= rounds(); ++turn) {
      for (std::size_t k = 0; k < kSubjects; ++k) publishers[k].publish(unchanged[k]);
      board_->published.set(turn);
      board_->adopted.await(turn + 1, spin_, [&] { family.check(); });
    }
    family.join();
    add_results();
  }

 private:
  [[nodiscard]] std::size_t rounds() const {
    return options_.warm_up(kWarmUp) + options_.samples(kRounds);
  }

  void adopt() {
    AttachOptions attach_options;
    attach_options.deadline = kPatience;
    std::vector<Subscriber> subscribers;
    std::vector<std::vector<std::string>> names;
    board_->created.await(1, Duration::zero());
    for (const auto& s : subjects_) {
      subscribers.push_back(Subscriber::attach(s->publication, attach_options));
      names.push_back({kFixedName});
      (void)subscribers.back().wait(newest(), kPatience);
    }
    const Layout& random = subjects_.back()->layout;
    for (std::size_t i = 0; i < random.size(); ++i) names.back().emplace_back(random[i].name);
    board_->adopted.set(1);
    if (options_.pin) pin_to(1);
    for (std::uint64_t turn = 1; turn <= rounds(); ++turn) {
      board_->published.await(turn, spin_);
      for (std::size_t k = 0; k < kSubjects; ++k) {
        const std::size_t subject = (turn + k) % kSubjects;
        const std::string& name = names[subject][turn * kPrime % names[subject].size()];
        adopt_one(subject, subscribers[subject], name, turn);
      }
      board_->adopted.set(turn + 1);
    }
    for (std::size_t k = 0; k < kSubjects; ++k)
      board_->series[k].wrong +=
          subjects_[k]->payload.count_different(subscribers[k].wait(newest(), kPatience));
  }

  void adopt_one(std::size_t subject, Subscriber& subscriber, const std::string& name,
                 std::uint64_t turn) {
    const std::uint64_t allocations_before = allocations();
    const std::uint64_t from = monotonic_ns();
    std::optional<Lease> lease = subscriber.try_acquire(newer_than(turn));
    const View view = (*lease)[name];
    const std::uint64_t version = lease->version();
    lease->release();
    const std::uint64_t to = monotonic_ns();
    const std::uint64_t allocated = allocations() - allocations_before;
    Series& series = board_->series[subject];
    series.wrong += version == turn + 1 && view.name() == name ? 0U : 1U;
    if (turn <= options_.warm_up(kWarmUp)) return;
    series.add_ns(from, to);
    board_->allocations += allocated;
  }

  void add_results() {
    std::array<Samples, kSubjects> samples;
    for (std::size_t k = 0; k < kSubjects; ++k) {
      const Series& series = board_->series[k];
      samples[k] = series.samples();
      report_.add(Row{.name = subjects_[k]->row,
                      .tensors = subjects_[k]->layout.size(),
                      .samples = samples[k],
                      .wrong = series.wrong});
    }
    report_.add(Figure{"adopt: 18,867 / 146 parameters, p50", samples[1].p50() / samples[0].p50(),
                       "", at_most(1.5)});
    report_.add(
        Figure{"adopt: statistics kept / none, p50", samples[0].p50() / samples[3].p50(), "", {}});
    report_.add(Figure{"adopt: allocations on the path", static_cast<double>(board_->allocations),
                       "", at_most(0)});
  }

  const Options& options_;
  Report& report_;
  std::vector<std::unique_ptr<Subject>> subjects_;
  Duration spin_ = usable_cpus().size() < 2 ? Duration::zero() : Duration(std::chrono::seconds(1));
  Shared<Board> board_;
};

}  // namespace

void measure_adopt(const Options& options, Report& report) { AdoptBench(options, report).run(); }

}  // namespace tenon::bench
