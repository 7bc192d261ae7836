// handoff, part memory: what publisher and subscriber need beyond the slots.
//
// Measured in a process each: RssAnon of /proc/self/status (private memory that is resident) before
// and after, with what the heap keeps in reserve given back before. The publisher's part contains
// its layout and the segment, both counted by their size (the segment is shared memory), and what
// create() and publish() make resident; not the slots, and not the heap that plan() used and freed.
// The subscriber's part contains its copy of the layout and what a lease needs. Page tables (VmPTE)
// are shown apart: they grow with the slots that are mapped. The bytes of the model itself are in
// shared memory here and so do not count.
#include <malloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <tenon/name.hpp>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <vector>

#include "child.hpp"
#include "handoff_parts.hpp"
#include "payload.hpp"

namespace tenon::bench {
namespace {

constexpr double kMB = 1e6;
constexpr std::uint64_t kDivisor = 24;
constexpr std::uint64_t kVersions = 3;

struct Usage {
  std::int64_t anonymous = 0;
  std::int64_t page_tables = 0;
};

// Bytes, by a line such as "RssAnon:     1234 kB".
Usage usage() {
  Usage u;
  std::ifstream in("/proc/self/status");
  for (std::string key; in >> key;) {
    if (key == "RssAnon:" || key == "VmPTE:") {
      std::int64_t kib = 0;
      in >> kib;
      (key == "RssAnon:" ? u.anonymous : u.page_tables) = kib * 1024;
    }
    in.ignore(1U << 16U, '\n');
  }
  return u;
}

Usage baseline() {
  (void)::malloc_trim(0);
  (void)usage();  // whatever reading it needs is there now
  return usage();
}

Usage since(const Usage& before) {
  const Usage now = usage();
  return {now.anonymous - before.anonymous, now.page_tables - before.page_tables};
}

// One subscriber's side.
struct Seat {
  Turn done;  // with that version
  Usage usage;
  std::uint64_t wrong = 0;
};

struct Board {
  Usage planning;            // the layout, and what plan() left on the heap
  Usage publisher;           // after that
  std::int64_t segment = 0;  // bytes of the publication's object
  Turn measured;
  Seat reader;  // adopts versions
  Seat loader;  // copies them into storage of its own
};

class MemoryBench {
 public:
  MemoryBench(const Options& options, Report& report, const std::string& model)
      : options_(options),
        report_(report),
        model_(model),
        parameters_(scaled_model(model, kDivisor)),
        layout_(plan_with_buckets(parameters_, natural_buckets(model))),
        payload_(layout_),
        destination_(layout_) {
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b)
      bucket_bytes_ = std::max(bucket_bytes_, layout_.bucket_bytes(b));
  }

  void run() {
    say("memory, " + model_);
    Family family;
    family.fork([this] { publish(); });
    family.fork([this] { read(); });
    family.fork([this] { load(); });
    family.join();
    add_results();
  }

 private:
  void publish() {
    const Layout layout = plan(parameters_, {.bucket_bytes = bucket_bytes_});
    const Usage before = baseline();
    Publisher publisher =
        Publisher::create(options_.publication(0), layout, {.mode = Mode::in_place});
    for (std::uint64_t v = 1; v <= kVersions; ++v) {
      payload_.stamp(v);
      publisher.publish(payload_.sources(), {.require = 2});
      board_->publisher = since(before);
      board_->reader.done.await(v);
      board_->loader.done.await(v);
    }
    struct ::stat st {};
    const std::string object = detail::publication_object(::geteuid(), publisher.name());
    if (::stat(("/dev/shm/" + object).c_str(), &st) == 0) board_->segment = st.st_size;
    board_->measured.set(1);  // now the subscribers may go
  }

  Subscriber attach() {
    AttachOptions attach_options;
    attach_options.deadline = kPatience;
    return Subscriber::attach(options_.publication(0), attach_options);
  }

  void read() {
    const Usage before = baseline();
    Subscriber subscriber = attach();
    for (std::uint64_t v = 1; v <= kVersions; ++v) {
      {
        const Lease lease = subscriber.wait(newer_than(v - 1), kPatience);
        board_->reader.wrong += payload_.count_different(lease);
        board_->reader.usage = since(before);
      }
      board_->reader.done.set(v);
    }
    board_->measured.await(1);
  }

  void load() {
    const Usage before = baseline();
    Subscriber subscriber = attach();
    LoadPlan plan = destination_.plan(subscriber.layout());
    for (std::uint64_t v = 1; v <= kVersions; ++v) {
      board_->loader.wrong += subscriber.load(plan, kPatience) == v ? 0U : 1U;
      board_->loader.wrong +=
          payload_.count_different([this](std::size_t i) { return destination_[i]; });
      board_->loader.usage = since(before);
      board_->loader.done.set(v);
    }
    board_->measured.await(1);
  }

  void add_results() {
    const auto parameters = static_cast<double>(layout_.size());
    const std::string of = ", " + std::to_string(layout_.size()) + " parameters";
    const auto layout_bytes = static_cast<std::int64_t>(layout_.bytes().second);
    const std::int64_t publisher = layout_bytes + board_->publisher.anonymous + board_->segment;
    const auto allowance = at_most(4 + 256 * parameters / kMB);
    const auto add = [&](const std::string& what, std::int64_t bytes,
                         std::optional<Target> target) {
      report_.add(Figure{"memory: " + what + of, static_cast<double>(bytes) / kMB, "MB", target});
    };
    add("publisher beyond the slots", publisher, at_most(8));
    add("publisher's segment (in the above)", board_->segment, {});
    add("subscriber that adopts", board_->reader.usage.anonymous, allowance);
    add("subscriber that loads, with its plan", board_->loader.usage.anonymous, allowance);
    add("subscriber's page tables", board_->reader.usage.page_tables, {});
    report_.add(Row{
        .name = "memory run, adopted", .tensors = layout_.size(), .wrong = board_->reader.wrong});
    report_.add(Row{
        .name = "memory run, loaded", .tensors = layout_.size(), .wrong = board_->loader.wrong});
  }

  const Options& options_;
  Report& report_;
  std::string model_;
  std::vector<Parameter> parameters_;
  Layout layout_;
  Payload payload_;
  Destination destination_;
  std::uint64_t bucket_bytes_ = 0;
  Shared<Board> board_;
};

}  // namespace

void measure_memory(const Options& options, Report& report) {
  for (const char* model : {"llama-3.2-1b", "qwen3-30b-a3b"})
    MemoryBench(options, report, model).run();
}

}  // namespace tenon::bench
