// What a step costs in CUDA calls: a few per bucket, whatever the number of parameters; nothing is
// opened, allocated or waited for after the first.
#include <algorithm>
#include <sim/sim_support.hpp>

namespace tenon::test {
namespace {

constexpr std::size_t kBuckets = 5;
constexpr std::uint64_t kBudget = 4 * kBuckets + 4;
constexpr std::uint64_t kSteps = 12;

/// `count` parameters in five full buckets, and GPU memory for them.
struct Weights {
  explicit Weights(std::uint64_t count)
      : layout(plan(parameters(count), {.bucket_bytes = kBucketBytes})),
        memory(MemoryKind::cuda, kBuckets * kBucketBytes) {}
  static std::vector<Parameter> parameters(std::uint64_t count) {
    const std::uint64_t room = kBuckets * kBucketBytes / count;
    std::vector<Parameter> all;
    for (std::uint64_t i = 0; i < count; ++i)
      all.push_back({"p" + std::to_string(i), Dtype::u8, {room - (count > 100 ? 131 : 0)}});
    return all;
  }
  [[nodiscard]] std::byte* at(std::size_t i) const {
    return memory.data() + layout[i].bucket * kBucketBytes + layout[i].offset;
  }
  [[nodiscard]] std::vector<Source> sources() const {
    std::vector<Source> all;
    for (std::size_t i = 0; i < layout.size(); ++i) all.push_back({at(i)});
    return all;
  }
  [[nodiscard]] LoadPlan load_plan() const {
    LoadPlan plan(layout);
    for (std::size_t i = 0; i < layout.size(); ++i) plan.into(layout[i].name, at(i));
    return plan;
  }
  void fill(std::uint64_t version) const {
    memory.upload(std::vector<std::byte>(kBuckets * kBucketBytes, static_cast<std::byte>(version)));
  }
  [[nodiscard]] bool holds(const std::byte* data, std::size_t i, std::uint64_t version) const {
    return Bytes::get(MemoryKind::cuda, data, layout[i].bytes) ==
           std::vector<std::byte>(layout[i].bytes, static_cast<std::byte>(version));
  }
  static constexpr std::uint64_t kBucketBytes = 102400;
  Layout layout;
  Bytes memory;
};

std::string text_of_log() {
  std::string text;
  for (const sim::LoggedCall& call : sim::call_log()) text += " " + call.function;
  return text;
}

/// Judges the calls of each step but the first.
class Steps {
 public:
  void measure(const std::function<void()>& step) {
    sim::reset_calls();
    step();
    if (++count_ == 1) return;
    // Compared between layouts, so without what depends on time: whether a release of the step
    // before is still pending, and the device therefore asked, which takes two calls. Within the
    // budget they count.
    fewest_ = std::min(fewest_, sim::total_calls() - 2 * sim::calls("cudaStreamQuery"));
    EXPECT_LE(sim::total_calls(), kBudget) << "step " << count_ << ":" << text_of_log();
    EXPECT_EQ(sim::legacy_stream_uses(), 0U) << text_of_log();
    for (const char* function : {"cudaIpcOpenMemHandle",
                                 "cudaIpcGetMemHandle",
                                 "cudaIpcCloseMemHandle",
                                 "cudaIpcOpenEventHandle",
                                 "cudaIpcGetEventHandle",
                                 "cudaMalloc",
                                 "cudaMallocAsync",
                                 "cudaMallocManaged",
                                 "cudaMallocHost",
                                 "cudaHostAlloc",
                                 "cudaFree",
                                 "cudaFreeAsync",
                                 "cudaFreeHost",
                                 "cudaDeviceSynchronize",
                                 "cudaStreamSynchronize",
                                 "cudaEventSynchronize",
                                 "cudaStreamCreate",
                                 "cudaStreamCreateWithFlags",
                                 "cudaEventCreate",
                                 "cudaEventCreateWithFlags",
                                 "cudaMemcpy",
                                 "cudaMemset",
                                 "cudaMemGetInfo",
                                 "cudaGetDeviceProperties",
                                 "cudaGetDeviceCount",
                                 "cudaPointerGetAttributes",
                                 "cuMemGetAddressRange"})
      EXPECT_EQ(sim::calls(function), 0U) << function << " in step " << count_;
  }
  [[nodiscard]] std::uint64_t fewest() const { return fewest_; }

 private:
  std::uint64_t count_ = 0;
  std::uint64_t fewest_ = ~std::uint64_t{0};
};

enum class Way { adopt, load };
struct Case {
  const char* name;
  Mode mode;
  Way way;
  GatherMethod gather = GatherMethod::kernel;
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class Calls : public ::testing::TestWithParam<Case> {
 protected:
  struct Counts {
    std::uint64_t publisher = 0;
    std::uint64_t subscriber = 0;
  };
  /// Publishes and reads `kSteps` versions in two processes.
  Counts run(std::uint64_t parameters) {
    const Node node;
    const std::string name = unique_name("calls");
    Child reader([&] { return read(name, parameters); });
    const Weights weights(parameters);
    EXPECT_EQ(weights.layout.bucket_count(), kBuckets);
    const auto sources = weights.sources();
    Publisher pub = Publisher::create(
        name, weights.layout,
        {.memory = cuda(0), .mode = GetParam().mode, .gather = GetParam().gather});
    cudaStream_t stream = make_stream();
    Steps steps;
    for (std::uint64_t v = 1; v <= kSteps; ++v) {
      weights.fill(v);
      steps.measure([&] {
        (void)pub.publish(sources, Stream(stream),
                          {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
        EXPECT_EQ(pub.wait_current(kPatience), v);
      });
      EXPECT_TRUE(taken_.wait()) << "version " << v;  // none is passed over
    }
    const int status = reader.wait();
    EXPECT_LE(status, static_cast<int>(kBudget)) << "the subscriber failed";
    std::printf("%s, %llu parameters: publisher %llu, subscriber %d calls per step\n",
                GetParam().name, static_cast<unsigned long long>(parameters),
                static_cast<unsigned long long>(steps.fewest()), status);
    return {steps.fewest(), static_cast<std::uint64_t>(status)};
  }

 private:
  /// Calls of the cheapest step.
  int read(const std::string& name, std::uint64_t parameters) const {
    auto sub = Subscriber::attach(name, {.deadline = kPatience});
    const Weights weights(parameters);
    LoadPlan plan = weights.load_plan();
    cudaStream_t stream = make_stream();
    Steps steps;
    Steps releases;
    for (std::uint64_t seen = 0; seen < kSteps;) {
      if (GetParam().way == Way::load) {
        steps.measure([&] { seen = sub.load(plan, Stream(stream), kPatience); });
        EXPECT_TRUE(weights.holds(weights.at(7), 7, seen));
        taken_.poke();
        continue;
      }
      std::optional<Lease> lease;
      steps.measure([&] { lease = sub.wait(newer_than(seen), kPatience); });
      const std::uint64_t calls = sim::total_calls();
      seen = lease->version();
      EXPECT_TRUE(weights.holds((*lease)[7].data(), 7, seen));
      releases.measure([&] { lease->release(Stream(stream)); });
      EXPECT_LE(calls + sim::total_calls(), kBudget);
      taken_.poke();
    }
    return static_cast<int>(steps.fewest() +
                            (GetParam().way == Way::adopt ? releases.fewest() : 0));
  }

  Signal taken_;  ///< a version, by the reader
};

INSTANTIATE_TEST_SUITE_P(
    Modes, Calls,
    ::testing::Values(Case{"InPlaceAdopt", Mode::in_place, Way::adopt},
                      Case{"InPlaceLoad", Mode::in_place, Way::load},
                      Case{"InPlaceAdoptCub", Mode::in_place, Way::adopt, GatherMethod::cub},
                      Case{"DoubleAdopt", Mode::double_buffered, Way::adopt},
                      Case{"DoubleLoad", Mode::double_buffered, Way::load},
                      Case{"StreamingLoad", Mode::streaming, Way::load},
                      Case{"StreamingLoadCub", Mode::streaming, Way::load, GatherMethod::cub}),
    [](const auto& p) { return std::string(p.param.name); });

TEST_P(Calls, PerStepAreFewWhateverTheNumberOfParameters) {
  const Counts few = run(10);
  const Counts many = run(1000);
  EXPECT_EQ(few.publisher, many.publisher);
  EXPECT_EQ(few.subscriber, many.subscriber);
}

// However long a wait, and however many buckets complete meanwhile: the device is asked now and
// then.
TEST(Waiting, CostsNoCallsPerBucket) {
  const Node node;
  const Weights weights(1000);
  const auto sources = weights.sources();
  const std::string name = unique_name("waiting");
  Publisher pub = Publisher::create(name, weights.layout,
                                    {.memory = cuda(0), .mode = Mode::streaming, .slots = 4});
  cudaStream_t stream = make_stream();
  (void)pub.publish(sources, Stream(stream));
  (void)pub.wait_current(kPatience);
  for (std::size_t b = 0; b < kBuckets; ++b) {  // far apart, so that a waiter sees each
    ASSERT_EQ(sim::launch(stream, [] { std::this_thread::sleep_for(4ms); }), cudaSuccess);
  }
  auto update = pub.begin(Stream(stream));
  for (std::size_t b = 0; b < kBuckets; ++b) {
    update.put(b, of_bucket(weights.layout, sources, b));
    ASSERT_EQ(sim::launch(stream, [] { std::this_thread::sleep_for(4ms); }), cudaSuccess);
  }
  (void)update.commit();
  sim::reset_calls();
  (void)pub.wait_current(kPatience);
  EXPECT_LE(sim::total_calls(), 3U) << text_of_log();
}

class Handles : public Simulated {};

TEST_F(Handles, AreOpenedOnceAndClosedBehindTheLastUser) {
  Publisher pub = create(Mode::double_buffered);
  model_.publish(pub, 1);
  const std::uint64_t slots = 2 * model_.layout.bucket_count();
  Child reader([&] {
    std::vector<Subscriber> subs;
    for (int i = 0; i < 3; ++i) subs.push_back(Subscriber::attach(name_));
    EXPECT_EQ(sim::calls("cudaIpcOpenMemHandle"), slots);
    EXPECT_EQ(sim::open_handles(), slots);
    Lease lease = subs[0].wait(newest(), kPatience);
    EXPECT_EQ(lease.bucket(0), subs[1].wait(newest(), kPatience).bucket(0));
    subs.clear();
    EXPECT_EQ(sim::open_handles(), slots) << "the lease is alive";
    EXPECT_EQ(sim::calls("cudaIpcCloseMemHandle"), 0U);
    EXPECT_EQ(model_.wrong(lease, 1), 0U);
    lease.release();
    EXPECT_EQ(sim::open_handles(), 0U);
    EXPECT_EQ(sim::calls("cudaIpcCloseMemHandle"), slots);
    auto again = Subscriber::attach(name_);
    EXPECT_EQ(sim::open_handles(), slots);
    EXPECT_EQ(model_.wrong(again.wait(newest(), kPatience), 1), 0U);
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
  EXPECT_EQ(sim::calls("cudaIpcGetMemHandle"), slots);
}

// A release behind work: the handle is in use until that has passed, and no CUDA call is made by
// the host function that ends the lease.
TEST_F(Handles, AreClosedBehindThePendingRelease) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  Child reader([&] {
    std::optional<Subscriber> sub = Subscriber::attach(name_);
    cudaStream_t stream = make_stream();
    Lease lease = sub->wait(newest(), kPatience);
    EXPECT_EQ(sim::launch(stream, [] { std::this_thread::sleep_for(50ms); }), cudaSuccess);
    lease.release(Stream(stream));
    EXPECT_EQ(sim::open_handles(), model_.layout.bucket_count());
    sub.reset();
    EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess) << "closed only behind it";
    EXPECT_EQ(sim::open_handles(), 0U);
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
}

TEST_F(Handles, AreNeverOpenedInThePublishersProcess) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  auto sub = Subscriber::attach(name_);
  const Lease lease = sub.wait(newest(), kPatience);
  EXPECT_EQ(lease["layer.0.q"].data(), pub.storage("layer.0.q"));
  EXPECT_EQ(sim::calls("cudaIpcOpenMemHandle"), 0U);
  Destination into(model_);
  EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
  EXPECT_EQ(into.wrong(1), 0U);
}

TEST_F(Handles, AndMemoryAreGoneAtTheEnd) {
  const auto sources = model_.sources(1);
  const std::uint64_t before = sim::live_allocations();
  for (const Mode mode : {Mode::in_place, Mode::double_buffered, Mode::streaming}) {
    for (const GatherMethod gather : {GatherMethod::kernel, GatherMethod::cub}) {
      Publisher pub = create(mode, {.gather = gather});
      Child reader([&] {
        auto sub = Subscriber::attach(name_);
        Destination into(model_);
        EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
        return 0;
      });
      publish(pub, sources, {.require = 1});
      EXPECT_EQ(reader.wait(), 0);
      EXPECT_GT(sim::live_allocations(), before);
    }
    EXPECT_EQ(sim::live_allocations(), before) << name_of(mode);
  }
  EXPECT_EQ(sim::calls("cudaHostAlloc"), sim::calls("cudaFreeHost"));
}

}  // namespace
}  // namespace tenon::test
