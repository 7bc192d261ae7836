// attach: becoming a subscriber of a publication with 18,867 parameters.
//
// The publication has the names, dtypes and ranks of qwen3-30b-a3b with every dimension divided, so
// that it needs about 100 MB: once in as many buckets (and so slots to map) as the model has at its
// real size, once in one bucket.
//
// Timed, first attach: Subscriber::attach() in a process that was forked for this one sample, so
// that nothing is cached: the object is found and judged, its layout copied, checked completely and
// hashed, a place taken, every slot mapped. For scale, in such processes too: opening, mapping and
// copying the same object with no check. Timed, re-attach: the same call in a process that has read
// this layout before and has detached again, so that every slot is mapped anew.
#include <fmt/core.h>
#include <malloc.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <tenon/detail/shared_object.hpp>
#include <tenon/name.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <utility>
#include <vector>

#include "child.hpp"
#include "payload.hpp"
#include "report.hpp"

namespace tenon::bench {
namespace {

constexpr const char* kModel = "qwen3-30b-a3b";
constexpr std::uint64_t kDivisor = 24;
constexpr std::size_t kWarmUp = 3;
constexpr std::size_t kFirst = 100;  // samples, each a process
constexpr std::size_t kAgain = 1000;
constexpr std::size_t kParses = 100;
constexpr std::size_t kPasses = 100;  // over all names

struct Subject {
  std::string publication;
  Layout layout;
  Payload payload;
  Subject(std::string name, const Layout& l) : publication(std::move(name)), layout(l), payload(l) {
    payload.stamp(1);
  }
};

// Whether to compare every byte, or every page's stamp, which leaves the caches of the next sample
// alone. The layout is always compared.
enum class Look { closely, briefly };

// What a process that was forked for one sample reports.
struct Result {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  std::uint64_t busy = 0;  // processor time in between
  std::uint64_t wrong = 0;
  Look look = Look::closely;  // in: how to check
};

std::uint64_t processor_ns() {
  struct ::timespec t {};
  (void)::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(t.tv_nsec);
}

Subscriber attach_to(const Subject& subject) {
  AttachOptions options;
  options.deadline = kPatience;
  options.label = "bench";
  return Subscriber::attach(subject.publication, options);
}

std::uint64_t count_wrong_in(Subscriber& subscriber, const Subject& subject, Look look) {
  const auto [ours, bytes] = subject.layout.bytes();
  const auto [theirs, their_bytes] = subscriber.layout().bytes();
  if (bytes != their_bytes || std::memcmp(ours, theirs, bytes) != 0) return subject.layout.size();
  const Lease lease = subscriber.wait(newest(), kPatience);
  return look == Look::closely ? subject.payload.count_different(lease)
                               : subject.payload.count_stale(lease);
}

void first_attach(const Subject& subject, Result& result) {
  const std::uint64_t busy = processor_ns();
  result.from = monotonic_ns();
  Subscriber subscriber = attach_to(subject);
  result.to = monotonic_ns();
  result.busy = processor_ns() - busy;
  result.wrong = count_wrong_in(subscriber, subject, result.look);
}

// The bare minimum: the same bytes in private memory, believed.
void copy_unchecked(const Subject& subject, Result& result) {
  result.from = monotonic_ns();
  auto object =
      detail::SharedObject::open(detail::publication_object(::geteuid(), subject.publication),
                                 detail::SharedObject::Access::read_only);
  const auto bytes = static_cast<std::uint64_t>(object->status().st_size);
  object->map(bytes);
  const std::unique_ptr<std::byte[]> copy(new std::byte[bytes]);
  std::memcpy(copy.get(), object->data(), bytes);
  result.to = monotonic_ns();
}

// Forks a process per sample, on request. Was itself forked before the publishers made threads.
class Spawner {
 public:
  struct Job {
    const char* name;
    const Subject* subject;
    void (*body)(const Subject&, Result&);
  };

  Spawner(Family& family, std::vector<Job> jobs) : family_(family), jobs_(std::move(jobs)) {
    family.fork([this] { serve(); });
  }
  Spawner(const Spawner&) = delete;
  Spawner& operator=(const Spawner&) = delete;
  ~Spawner() { request(jobs_.size()); }

  [[nodiscard]] const std::vector<Job>& jobs() const noexcept { return jobs_; }
  Result run(std::size_t job, Look look) {
    board_->result = {.look = look};
    request(job);
    board_->done.await(round_, Duration::zero(), [this] { family_.check(); });
    return board_->result;
  }

 private:
  struct Board {
    Turn asked;
    Turn done;
    std::size_t job = 0;
    Result result;
  };

  void request(std::size_t job) {
    board_->job = job;
    board_->asked.set(++round_);
  }
  void serve() {
    // What this process inherited as free heap would be copied page by page where a new process
    // gets zeroed pages, which costs less.
    (void)::malloc_trim(0);
    for (std::uint64_t round = 1;; ++round) {
      board_->asked.await(round);
      if (board_->job == jobs_.size()) return;
      const Job& job = jobs_[board_->job];
      Family one;
      one.fork([&] { job.body(*job.subject, board_->result); });
      one.join();
      board_->done.set(round);
    }
  }

  Family& family_;
  std::vector<Job> jobs_;
  Shared<Board> board_;
  std::uint64_t round_ = 0;
};

// What the process that attaches again and again reports.
struct AgainBoard {
  Turn start;
  Turn finished;
  Series detached;  // nothing of the publication was mapped
  Series detached_one_bucket;
  Series attached;  // another subscriber of the process has the slots mapped
  Series random_names;
  Series names_in_order;
};

class AttachBench {
 public:
  AttachBench(const Options& options, Report& report)
      : options_(options),
        report_(report),
        many_(options.publication(0),
              plan_with_buckets(scaled_model(kModel, kDivisor), natural_buckets(kModel))),
        one_(options.publication(1), plan_with_buckets(scaled_model(kModel, kDivisor), 1)) {
    report_.set_option("model", kModel);
    report_.set_option("dimensions_divided_by", kDivisor);
    report_.set_option("buckets", {many_.layout.bucket_count(), one_.layout.bucket_count()});
    report_.set_option("layout_bytes", many_.layout.bytes().second);
  }

  void run() {
    Family family;
    family.fork([this] { attach_again(); });
    Spawner spawner(family, {{"R10 first attach, new process", &many_, first_attach},
                             {"R10 first attach, new process, 1 bucket", &one_, first_attach},
                             {"open, map, copy unchecked, new process", &many_, copy_unchecked}});
    say("publishing");
    Publisher many = publish(many_);
    Publisher one = publish(one_);
    first_attaches(spawner);
    say("attaching again, looking names up");
    board_->start.set(1);
    board_->finished.await(1, Duration::zero(), [&] { family.check(); });
    add_again();
    parse();
  }

 private:
  static Publisher publish(const Subject& subject) {
    Publisher publisher =
        Publisher::create(subject.publication, subject.layout, {.mode = Mode::in_place});
    publisher.publish(subject.payload.sources());
    return publisher;
  }

  void first_attaches(Spawner& spawner) {
    say("first attaches, a process each");
    std::vector<Row> rows;
    for (const Spawner::Job& job : spawner.jobs()) rows.push_back(row(job.name, {}));
    Row busy = row("R10 first attach, new process: processor time", {});
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    for (std::size_t i = 0; i < warm_up + options_.samples(kFirst); ++i) {
      for (std::size_t k = 0; k < rows.size(); ++k) {
        const std::size_t job = (i + k) % rows.size();
        const Result r = spawner.run(job, i < warm_up ? Look::closely : Look::briefly);
        rows[job].wrong += r.wrong;
        if (i < warm_up) continue;
        rows[job].samples.add_ns(r.from, r.to);
        if (job == 0) busy.samples.add_ns(0, r.busy);
      }
    }
    for (const Row& r : rows) report_.add(r);
    report_.add(busy);
    const auto ms = [](const Row& r) { return r.samples.p50() / 1e3; };
    report_.add(Figure{"first attach, p50", ms(rows[0]), "ms", at_most(2)});
    report_.add(Figure{"first attach, 1 bucket, p50", ms(rows[1]), "ms", at_most(2)});
  }

  // In a child: attaches, detaches, attaches.
  void attach_again() {
    board_->start.await(1);
    const auto timed = [](const Subject& subject, Series& series, bool counts) {
      const std::uint64_t from = monotonic_ns();
      Subscriber subscriber = attach_to(subject);
      const std::uint64_t to = monotonic_ns();
      if (counts) series.add_ns(from, to);
    };
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    const std::size_t rounds = warm_up + options_.samples(kAgain);
    for (std::size_t i = 0; i < rounds; ++i) {
      timed(many_, board_->detached, i >= warm_up);
      timed(one_, board_->detached_one_bucket, i >= warm_up);
    }
    Subscriber stays = attach_to(many_);
    for (std::size_t i = 0; i < rounds; ++i) timed(many_, board_->attached, i >= warm_up);
    board_->detached.wrong = count_wrong_in(stays, many_, Look::closely);
    Subscriber other = attach_to(one_);
    board_->detached_one_bucket.wrong = count_wrong_in(other, one_, Look::closely);
    look_up(stays);
    board_->finished.set(1);
  }

  // In the same child: every name once per sample, views checked against the layout.
  void look_up(Subscriber& subscriber) {
    const Lease lease = subscriber.wait(newest(), kPatience);
    std::vector<std::pair<std::string, const std::byte*>> names;
    for (std::size_t i = 0; i < lease.size(); ++i)
      names.emplace_back(std::string(lease[i].name()), lease[i].data());
    const auto pass = [&](Series& series, bool counts) {
      std::uint64_t wrong = 0;
      const std::uint64_t from = monotonic_ns();
      for (const auto& [name, data] : names) wrong += lease[name].data() == data ? 0U : 1U;
      const std::uint64_t to = monotonic_ns();
      series.wrong += wrong;
      if (counts)
        series.add_us(static_cast<double>(to - from) / 1e3 / static_cast<double>(names.size()));
    };
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    const std::size_t passes = warm_up + options_.samples(kPasses);
    for (std::size_t i = 0; i < passes; ++i) pass(board_->names_in_order, i >= warm_up);
    std::shuffle(names.begin(), names.end(), std::mt19937_64(names.size()));
    for (std::size_t i = 0; i < passes; ++i) pass(board_->random_names, i >= warm_up);
  }

  void add_again() {
    const auto add = [this](const char* name, const Series& series) {
      report_.add(row(name, series.samples(), series.wrong));
    };
    add("re-attach", board_->detached);
    add("re-attach, 1 bucket", board_->detached_one_bucket);
    add("re-attach beside another subscriber", board_->attached);
    add("look up by name, random order (each)", board_->random_names);
    add("look up by name, layout order (each)", board_->names_in_order);
    const auto ms = [](const Series& series) { return series.samples().p50() / 1e3; };
    report_.add(Figure{"re-attach, layout cached, p50", ms(board_->detached), "ms", at_most(0.2)});
    report_.add(Figure{"re-attach, layout cached, 1 bucket, p50", ms(board_->detached_one_bucket),
                       "ms", at_most(0.2)});
  }

  // The part of a first attach that does not depend on the process being new.
  void parse() {
    Row parse_row = row("check and hash the layout (in warm memory)", {});
    const auto [block, bytes] = many_.layout.bytes();
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    for (std::size_t i = 0; i < warm_up + options_.samples(kParses); ++i) {
      detail::Block copy = detail::allocate_block(bytes);
      std::memcpy(copy.get(), block, bytes);
      const std::uint64_t from = monotonic_ns();
      const Layout layout = Layout::parse(std::move(copy), bytes);
      const std::uint64_t to = monotonic_ns();
      if (i >= warm_up) parse_row.samples.add_ns(from, to);
      parse_row.wrong += layout.hash() == many_.layout.hash() ? 0U : 1U;
    }
    report_.add(parse_row);
  }

  [[nodiscard]] Row row(std::string name, const Samples& samples, std::uint64_t wrong = 0) const {
    return {.name = std::move(name),
            .tensors = many_.layout.size(),
            .samples = samples,
            .wrong = wrong};
  }

  const Options& options_;
  Report& report_;
  Subject many_;
  Subject one_;
  Shared<AgainBoard> board_;
};

}  // namespace

nlohmann::json run_attach(const Options& options) {
  Report report("attach", options);
  say("preparing random sources");
  AttachBench(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
