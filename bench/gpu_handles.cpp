// handles: what handing weights over costs with CUDA's handles opened every step, beside Tenon's
// way, on one GPU and in the same rounds.
//
//   R3  one handle per tensor: got, opened, waited for, closed (what most systems did)
//   R4  a record per tensor, the handles opened once and kept
//   R5  one flat bucket per handle: got, opened, waited for, closed (what they do now)
//   R6  Tenon: parameters that live in the slots, adopted
//   R7  Tenon: gathered, then adopted
//
// Timed by CLOCK_MONOTONIC, from the trainer's first call to the moment at which the other process
// has used everything. R3 to R5 are treated kindly: handles travel in shared memory, with no
// pickling and one message per step, no barrier per tensor, and the copy into R5's buckets is not
// counted. Each way has an engine process of its own, because a handle that a process has open
// already is only counted. Every tensor is an allocation of its own, of whole 2 MiB.
//
// R3 stops when it has used up its share of time; at least two samples are taken.
#include "gpu_handles.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "child.hpp"
#include "gpu_calls.hpp"
#include "gpu_payload.hpp"

namespace tenon::bench {
namespace {

namespace cuda = detail::cuda;
using namespace std::chrono_literals;
using Order = GpuStorage::Order;

constexpr std::chrono::seconds kShareOfR3{20};
constexpr unsigned kProcesses = 4;

enum class Task : std::uint32_t { open_tensors, look_up_tensors, open_buckets, adopt, look, stop };

/// Something that lies in an allocation of the trainer's.
struct Record {
  std::array<char, 96> name;
  cudaIpcMemHandle_t handle;
  std::uint64_t offset;
  std::uint64_t bytes;
};

/// Where the trainer leaves an engine its work.
struct Desk {
  Turn posted;
  Turn armed;
  Turn finished;
  Task task = Task::stop;
  std::uint64_t finished_at = 0;
  std::uint64_t calls = 0;
  std::uint64_t wrong = 0;
};

/// One row's way through a round.
struct Way {
  const char* name;
  std::size_t desk;
  Task task;
};
enum WayIndex : std::size_t { kR3, kR4, kR5, kR6, kR7, kWays };
enum DeskIndex : std::size_t { kReopening, kCaching, kTenon, kDesks };
constexpr std::array<Way, kWays> kAllWays{
    {{"R3 a handle per tensor, opened every step", kReopening, Task::open_tensors},
     {"R4 a record per tensor, handles kept", kCaching, Task::look_up_tensors},
     {"R5 flat buckets, opened every step", kReopening, Task::open_buckets},
     {"R6 adopt (beside R3 and R5)", kTenon, Task::adopt},
     {"R7 gather and adopt (beside R3 and R5)", kTenon, Task::adopt}}};

struct Board {
  std::array<Desk, kDesks> desks;
  std::array<Series, kWays> series;
  std::array<std::uint64_t, kWays> wrong{};
  std::array<std::uint64_t, kWays> trainer_calls{};
  std::array<std::uint64_t, kWays> engine_calls{};
  bool counted = false;
};

template <class T>
class SharedArray {
 public:
  explicit SharedArray(std::size_t count) : bytes_(count * sizeof(T)), count_(count) {}
  [[nodiscard]] std::span<T> get() const noexcept {
    return {reinterpret_cast<T*>(bytes_.data()), count_};
  }

 private:
  SharedBytes bytes_;
  std::size_t count_;
};

class Mapping {
 public:
  explicit Mapping(const cudaIpcMemHandle_t& handle) {
    cuda::check(cudaIpcOpenMemHandle(&base_, handle, cudaIpcMemLazyEnablePeerAccess),
                "cudaIpcOpenMemHandle");
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { (void)cuda::forgotten(cudaIpcCloseMemHandle(base_)); }
  [[nodiscard]] const std::byte* base() const noexcept {
    return static_cast<const std::byte*>(base_);
  }

 private:
  void* base_ = nullptr;
};

// --- Engines: wait at their desk, do what is posted ---

class Engine {
 public:
  Engine(const Options& options, Desk& desk, const Layout& layout)
      : stream_(*options.device), desk_(desk), sums_(*options.device, layout.size()) {}
  virtual ~Engine() = default;

  void serve() {
    for (std::uint64_t turn = 1;; ++turn) {
      desk_.posted.await(turn, detail::kDefaultSpin);
      if (desk_.task == Task::stop) return;
      const auto calls = cuda_calls();
      work(desk_.task, turn);
      desk_.finished_at = monotonic_ns();
      if (calls) desk_.calls = *cuda_calls() - *calls;
      desk_.finished.set(turn);
    }
  }

 protected:
  virtual void work(Task task, std::uint64_t turn) = 0;
  [[nodiscard]] std::uint64_t sum(const std::byte* data, std::uint64_t bytes) {
    const device::ChecksumItem item{data, bytes};
    return sums_.take(std::span(&item, 1), stream_)[0];
  }

  GpuStream stream_;
  Desk& desk_;
  GpuSums sums_;
};

struct Shelf {
  SharedArray<Record> tensors;
  SharedArray<Record> buckets;
  SharedArray<std::uint64_t> expected;  ///< a checksum per parameter
};

// R3 and R5.
class Reopening final : public Engine {
 public:
  Reopening(const Options& options, Desk& desk, const Layout& layout, const Shelf& shelf)
      : Engine(options, desk, layout), layout_(layout), shelf_(shelf) {}

 private:
  void work(Task task, std::uint64_t) override {
    if (task == Task::look) return look();
    for (const Record& record :
         (task == Task::open_tensors ? shelf_.tensors : shelf_.buckets).get()) {
      const Mapping mapping(record.handle);
      stream_.synchronize();
    }
  }
  void look() {
    desk_.wrong = 0;
    const auto compare = [&](std::size_t i, const std::byte* data) {
      desk_.wrong += sum(data, layout_[i].bytes) == shelf_.expected.get()[i] ? 0U : 1U;
    };
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      const Record& record = shelf_.tensors.get()[i];
      compare(i, Mapping(record.handle).base() + record.offset);
    }
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b) {
      const Record& record = shelf_.buckets.get()[b];
      const Mapping mapping(record.handle);
      const auto [first, last] = layout_.bucket_parameters(b);
      for (std::size_t i = first; i < last; ++i)
        compare(i, mapping.base() + record.offset + layout_[i].offset);
    }
  }

  const Layout& layout_;
  const Shelf& shelf_;
};

// R4.
class Caching final : public Engine {
 public:
  Caching(const Options& options, Desk& desk, const Layout& layout, const Shelf& shelf)
      : Engine(options, desk, layout), layout_(layout), shelf_(shelf), found_(layout.size()) {}

 private:
  using Key = std::array<char, sizeof(cudaIpcMemHandle_t)>;

  void work(Task task, std::uint64_t) override {
    if (task == Task::look) return look();
    std::size_t i = 0;
    for (const Record& record : shelf_.tensors.get()) {
      Key key;
      std::memcpy(key.data(), &record.handle, key.size());
      const Mapping& mapping = open_.try_emplace(key, record.handle).first->second;
      found_[i++] = mapping.base() + record.offset;
    }
    stream_.synchronize();
  }
  void look() {
    desk_.wrong = count_different(shelf_.expected.get(),
                                  sums_.take(
                                      layout_, [&](std::size_t i) { return found_[i]; }, stream_));
  }

  const Layout& layout_;
  const Shelf& shelf_;
  std::map<Key, Mapping> open_;
  std::vector<const std::byte*> found_;
};

// R6 and R7.
class Adopting final : public Engine {
 public:
  Adopting(const Options& options, Desk& desk, const Layout& layout, const Shelf& shelf)
      : Engine(options, desk, layout),
        layout_(layout),
        shelf_(shelf),
        last_name_(layout[layout.size() - 1].name),
        subscriber_(attach(options)) {}

 private:
  static Subscriber attach(const Options& options) {
    AttachOptions attach_options;
    attach_options.deadline = kPatience;
    attach_options.spin = 1s;
    return Subscriber::attach(options.publication(0), attach_options);
  }
  void work(Task task, std::uint64_t turn) override {
    if (task == Task::look) return look();
    desk_.armed.set(turn);
    lease_ = subscriber_.wait(newer_than(version_), kPatience);
    (void)(*lease_)[last_name_].data();
  }
  void look() {
    desk_.wrong =
        count_different(shelf_.expected.get(),
                        sums_.take(
                            layout_, [&](std::size_t i) { return (*lease_)[i].data(); }, stream_));
    version_ = lease_->version();
    lease_.reset();
  }

  const Layout& layout_;
  const Shelf& shelf_;
  std::string last_name_;
  Subscriber subscriber_;
  std::optional<Lease> lease_;
  std::uint64_t version_ = 0;
};

// --- The trainer ---

class Trainer {
 public:
  Trainer(const Options& options, Board& board, const Layout& layout, const Shelf& shelf)
      : options_(options),
        board_(board),
        layout_(layout),
        shelf_(shelf),
        stream_(*options.device),
        payload_(options, layout, Order::apart, stream_),
        publisher_(
            Publisher::create(options.publication(0), layout,
                              {.memory = tenon::cuda(*options.device), .mode = Mode::in_place})) {
    fill_records();
  }

  void run() {
    const std::size_t warm_up = options_.warm_up(kGpuWarmUp);
    const std::size_t rounds = warm_up + options_.samples(kGpuRounds);
    for (std::size_t round = 0; round < rounds; ++round) {
      payload_.stamp(round + 1);
      const std::vector<std::uint64_t> sums = payload_.sums();
      std::copy(sums.begin(), sums.end(), shelf_.expected.get().begin());
      const bool counts = round >= warm_up;
      time(kR7, counts, [&] { publisher_.publish(payload_.sources(), stream_, {.require = 1}); });
      look(kR7);
      Publisher::Update update = open_all();
      time(kR6, counts, [&] {
        for (std::size_t b = 0; b < layout_.bucket_count(); ++b) update.seal(b);
        update.commit();
      });
      look(kR6);
      time(kR5, counts, [&] { export_all(shelf_.buckets, buckets_); });
      time(kR4, counts, [&] { write_tensor_records(); });
      look(kR4);
      if (r3_goes_on()) time(kR3, round >= 1, [&] { export_all(shelf_.tensors, tensors_); });
    }
    look(kR3);  // with R5, which the same engine did
    for (std::size_t d = 0; d < kDesks; ++d) post(d, Task::stop);
  }

 private:
  [[nodiscard]] bool r3_goes_on() const {
    const Samples so_far = board_.series[kR3].samples();
    double us = 0;
    for (const double sample : so_far.values()) us += sample;
    return so_far.size() < 2 || us < std::chrono::microseconds(kShareOfR3).count();
  }

  // The bytes of the version before are those of the next one: the trainer wrote in place.
  [[nodiscard]] Publisher::Update open_all() {
    Publisher::Update update = publisher_.begin(stream_, {.require = 1});
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b) (void)update.open(b);
    return update;
  }

  static Record record_of(std::string_view name, const std::byte* data, std::uint64_t bytes) {
    Record record{};
    name.copy(record.name.data(), record.name.size() - 1);
    record.offset = static_cast<std::uint64_t>(data - cuda::allocation_of(data).base);
    record.bytes = bytes;
    return record;
  }
  // Everything but the handles of R3 and R5, and a first set of all handles.
  void fill_records() {
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      const auto* data = static_cast<const std::byte*>(payload_.sources()[i].data);
      tensors_.push_back(data - record_of("", data, 0).offset);
      shelf_.tensors.get()[i] = record_of(layout_[i].name, data, layout_[i].bytes);
    }
    Publisher::Update update = publisher_.begin(stream_);
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b) {
      const std::byte* data = update.open(b);
      buckets_.push_back(data - record_of("", data, 0).offset);
      shelf_.buckets.get()[b] = record_of("", data, layout_.bucket_bytes(b));
    }
    update.abort();
    export_all(shelf_.tensors, tensors_);
    for (const Record& record : shelf_.tensors.get()) kept_.push_back(record.handle);
  }
  static void export_all(const SharedArray<Record>& records,
                         const std::vector<const std::byte*>& bases) {
    std::size_t k = 0;
    for (Record& record : records.get())
      cuda::check(cudaIpcGetMemHandle(&record.handle, const_cast<std::byte*>(bases[k++])),
                  "cudaIpcGetMemHandle");
  }
  void write_tensor_records() {
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      Record record{};
      layout_[i].name.copy(record.name.data(), record.name.size() - 1);
      record.handle = kept_[i];
      record.offset = shelf_.tensors.get()[i].offset;
      record.bytes = layout_[i].bytes;
      shelf_.tensors.get()[i] = record;
    }
  }

  void post(std::size_t d, Task task) {
    board_.desks[d].task = task;
    board_.desks[d].posted.set(++turns_[d]);
  }
  // What the trainer does, until the engine has finished. Who adopts waits before, others behind.
  void time(std::size_t way, bool counts, const std::function<void()>& hand_over) {
    const auto [name, d, task] = kAllWays[way];
    Desk& desk = board_.desks[d];
    if (task == Task::adopt) {
      post(d, task);
      desk.armed.await(turns_[d]);
      std::this_thread::sleep_for(1ms);
    }
    const auto calls = cuda_calls();
    const std::uint64_t from = monotonic_ns();
    hand_over();
    if (calls) board_.trainer_calls[way] = *cuda_calls() - *calls;
    if (task != Task::adopt) post(d, task);
    desk.finished.await(turns_[d], detail::kDefaultSpin);
    board_.counted = calls.has_value();
    board_.engine_calls[way] = desk.calls;
    if (counts) board_.series[way].add_ns(from, desk.finished_at);
  }
  void look(std::size_t way) {
    const std::size_t d = kAllWays[way].desk;
    post(d, Task::look);
    board_.desks[d].finished.await(turns_[d]);
    board_.wrong[way] += board_.desks[d].wrong;
  }

  const Options& options_;
  Board& board_;
  const Layout& layout_;
  const Shelf& shelf_;
  GpuStream stream_;
  GpuPayload payload_;
  Publisher publisher_;
  std::vector<const std::byte*> tensors_;  ///< allocations
  std::vector<const std::byte*> buckets_;
  std::vector<cudaIpcMemHandle_t> kept_;
  std::array<std::uint64_t, kDesks> turns_{};
};

void add_results(Report& report, const Board& board, const Layout& layout) {
  std::array<double, kWays> p50{};
  for (std::size_t way = 0; way < kWays; ++way) {
    Row row{.name = kAllWays[way].name,
            .bytes = way == kR7 ? layout.payload_bytes() : 0,  // the others move none
            .tensors = layout.size(),
            .samples = board.series[way].samples(),
            .wrong = board.wrong[way == kR5 ? kR3 : way]};
    row.gpu["buckets"] = layout.bucket_count();
    if (board.counted) {
      row.gpu["cuda_calls_per_step"] = board.trainer_calls[way];
      row.gpu["cuda_calls_per_step_engine"] = board.engine_calls[way];
    }
    p50[way] = row.samples.p50();
    report.add(row);
  }
  report.add(Figure{"R3 / R6: a handle per tensor against adopting", p50[kR3] / p50[kR6], ""});
  report.add(Figure{"R5 / R6: reopened buckets against adopting", p50[kR5] / p50[kR6], ""});
  report.add(
      Figure{"R3 / R7: a handle per tensor against gather and adopt", p50[kR3] / p50[kR7], ""});
}

template <class E>
void run_engine(const Options& options, Desk& desk, const Layout& layout, const Shelf& shelf) {
  E(options, desk, layout, shelf).serve();
}

void measure_handles(const Options& options, Report& report) {
  const Layout layout = gpu_layout(options);
  report.set_option("model", gpu_model(options, layout));
  const std::uint64_t bytes = GpuStorage::bytes(layout, Order::apart) + layout.payload_bytes();
  if (const auto why = too_large(options, bytes, kProcesses)) {
    for (const Way& way : kAllWays) report.skip(way.name, *why);
    return;
  }
  say("handles every step, against adopting");
  const Shared<Board> board;
  const Shelf shelf{SharedArray<Record>(layout.size()), SharedArray<Record>(layout.bucket_count()),
                    SharedArray<std::uint64_t>(layout.size())};
  Family family;
  using Body = void (*)(const Options&, Desk&, const Layout&, const Shelf&);
  constexpr std::array<Body, kDesks> kEngines{run_engine<Reopening>, run_engine<Caching>,
                                              run_engine<Adopting>};
  for (std::size_t d = 0; d < kDesks; ++d)
    family.fork([&] { kEngines[d](options, board->desks[d], layout, shelf); });
  family.fork([&] { Trainer(options, *board, layout, shelf).run(); });
  family.join(kGpuPatience);
  add_results(report, *board, layout);
}

}  // namespace

nlohmann::json run_gpu_handles(const Options& options) {
  Report report("handles", options);
  measure_handles(options, report);
  measure_cold_handles(options, report);
  return std::move(report).json();
}

}  // namespace tenon::bench
