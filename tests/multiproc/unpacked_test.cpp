// A trainer's own allocations as slots: nothing allocated, nothing copied. GPU memory, simulated.
#include <support/support.hpp>
#include <tenon/unpacked.hpp>

namespace tenon::test {
namespace {

constexpr auto kCuda = MemoryKind::cuda;

// Two allocations of the trainer's, parameters at odd offsets in them, and two that cannot be
// shared.
class Unpacked : public ::testing::Test {
 protected:
  ~Unpacked() override {
    if (managed_ != nullptr) {
      EXPECT_EQ(cudaFree(managed_), cudaSuccess);
      EXPECT_EQ(cudaFreeAsync(pool_, own_stream()), cudaSuccess);
      EXPECT_EQ(cudaStreamSynchronize(own_stream()), cudaSuccess);
    }
  }
  static std::vector<Parameter> parameters() {
    return {{"a.0", Dtype::f32, {100}},         {"a.1", Dtype::bf16, {7}},
            {"b.0", Dtype::u8, {4096}},         {"a.2", Dtype::f32, {10}},
            {"tied", Dtype::f32, {100}, "a.0"}, {"empty", Dtype::f32, {0}},
            {"managed", Dtype::f32, {64}},      {"pool", Dtype::f32, {64}}};
  }
  /// Must not run before a fork: it uses CUDA.
  std::vector<Source> allocate() {
    a_.emplace(kCuda, 8192);
    b_.emplace(kCuda, 1 << 20);
    EXPECT_EQ(cudaMallocManaged(&managed_, 256, cudaMemAttachGlobal), cudaSuccess);
    EXPECT_EQ(cudaMallocAsync(&pool_, 256, own_stream()), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(own_stream()), cudaSuccess);
    return {{a_->data() + 300}, {a_->data() + 702}, {b_->data() + 1001}, {a_->data() + 4000},
            {a_->data() + 300}, {nullptr},          {managed_},          {pool_}};
  }
  static std::vector<std::byte> content(std::size_t i, std::uint64_t v, std::uint64_t bytes) {
    return std::vector<std::byte>(bytes, static_cast<std::byte>(16 * v + i + 1));
  }
  static void write(std::span<const Source> sources, const Layout& layout, std::uint64_t v) {
    for (std::size_t i = 0; i < layout.size(); ++i) {
      if (layout.tied_to(i) || layout[i].bytes == 0) continue;
      Bytes::put(kCuda, static_cast<std::byte*>(const_cast<void*>(sources[i].data)),
                 content(i, v, layout[i].bytes));
    }
  }
  static std::uint64_t wrong(const Lease& lease, std::uint64_t v) {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < lease.size(); ++i) {
      const std::size_t original = lease.layout().tied_to(i).value_or(i);
      const auto got = Bytes::get(kCuda, lease[i].data(), lease[i].bytes());
      count += got != content(original, v, lease[i].bytes()) ? 1 : 0;
    }
    return count;
  }
  // What a trainer does in each step.
  static void step(Publisher& pub, const UnpackedPlan& plan, std::span<const Source> sources,
                   std::uint64_t v) {
    auto update = pub.begin({.deadline = kPatience});
    const Layout& layout = plan.layout;
    for (std::size_t b = 0; b < layout.bucket_count(); ++b)
      if (plan.slots[b].allocation != nullptr) (void)update.open(b);
    write(sources, layout, v);
    for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
      const auto [first, last] = layout.bucket_parameters(b);
      if (plan.slots[b].allocation != nullptr)
        update.seal(b);
      else
        update.put(b, sources.subspan(first, last - first));
    }
    EXPECT_EQ(update.commit(), v);
  }

  Node node_;
  std::string name_ = unique_name("unpacked");
  std::optional<Bytes> a_, b_;
  void* managed_ = nullptr;
  void* pool_ = nullptr;
};

TEST_F(Unpacked, ParametersAreReadWhereTheTrainerKeepsThem) {
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    for (std::uint64_t v = 1; v <= 3; ++v) {
      const Lease lease = sub.wait(exactly(v), kPatience);
      EXPECT_EQ(wrong(lease, v), 0U) << "version " << v;
    }
    EXPECT_EQ(sim::calls("cudaIpcOpenMemHandle"), 3U) << "two allocations and one gathered bucket";
    return 0;
  });
  const auto sources = allocate();
  const UnpackedPlan plan = plan_unpacked(parameters(), sources);
  Publisher pub = Publisher::create(name_, plan);
  for (std::uint64_t v = 1; v <= 3; ++v) {
    for (int i = 0; v == 1 && i < 3000 && pub.subscribers().empty(); ++i)
      std::this_thread::sleep_for(10ms);
    step(pub, plan, sources, v);
    for (int i = 0; i < 3000; ++i) {
      const auto readers = pub.subscribers();  // none when it has left behind the last
      if (readers.empty() || readers[0].last_version >= v) break;
      std::this_thread::sleep_for(1ms);
    }
  }
  EXPECT_EQ(reader.wait(), 0);
}

TEST_F(Unpacked, RunsOfParametersOfOneAllocationAreBucketsThatShareItsHandle) {
  const auto sources = allocate();
  const UnpackedPlan plan = plan_unpacked(parameters(), sources);
  const Layout& layout = plan.layout;
  ASSERT_EQ(layout.bucket_count(), 4U) << "a, b, a again, and what is gathered";
  EXPECT_EQ(layout[0].bucket, layout[1].bucket);
  EXPECT_EQ(plan.slots[0].allocation, a_->data());
  EXPECT_EQ(plan.slots[1].allocation, b_->data());
  EXPECT_EQ(plan.slots[2].allocation, a_->data());
  EXPECT_EQ(plan.slots[3].allocation, nullptr);
  EXPECT_EQ(plan.slots[0].offset, 256U);
  EXPECT_EQ(layout[0].offset, 44U);
  ASSERT_EQ(plan.gathered.size(), 2U);
  EXPECT_NE(plan.gathered[0].find("'managed': managed memory"), std::string::npos);
  EXPECT_NE(plan.gathered[1].find("'pool': memory of a pool"), std::string::npos);

  const std::uint64_t before = sim::calls("cudaIpcGetMemHandle");
  const std::uint64_t bytes = sim::bytes_in_use(0);
  Publisher pub = Publisher::create(name_, plan);
  EXPECT_EQ(sim::calls("cudaIpcGetMemHandle") - before, 3U);
  EXPECT_LT(sim::bytes_in_use(0) - bytes, 2 * format::kSlotGranularity)
      << "one slot, for what is gathered";
  step(pub, plan, sources, 1);
  pub.wait_current(kPatience);
  sim::reset_calls();
  step(pub, plan, sources, 2);
  pub.wait_current(kPatience);
  EXPECT_EQ(
      sim::bytes_copied() -
          [&] {
            std::uint64_t written = 0;
            for (std::size_t i = 0; i < layout.size(); ++i)
              if (!layout.tied_to(i)) written += layout[i].bytes;
            return written;
          }(),
      0U)
      << "the trainer's own writes are all that copies bytes; the gather is a kernel";
  auto sub = Subscriber::attach(name_);
  const Lease lease = sub.wait(exactly(2), kPatience);
  EXPECT_EQ(lease["a.1"].data(), sources[1].data) << "in its own process: the trainer's pointer";
  EXPECT_EQ(wrong(lease, 2), 0U);
}

TEST_F(Unpacked, WhatCannotBeSharedIsRefusedWhenAsked) {
  const auto sources = allocate();
  EXPECT_THROWS(NotShareable, "'managed': managed memory",
                (void)plan_unpacked(parameters(), sources, {.unexportable = Unexportable::refuse}));
  std::vector<float> host(64);
  const std::vector<Parameter> one{{"w", Dtype::f32, {64}}};
  EXPECT_THROWS(NotShareable, "'w': host memory",
                (void)plan_unpacked(one, std::vector<Source>{{host.data()}},
                                    {.unexportable = Unexportable::refuse}));
  EXPECT_THROWS(NotShareable, "memory of device 0, not 1",
                (void)plan_unpacked(one, std::vector<Source>{{a_->data()}},
                                    {.device = 1, .unexportable = Unexportable::refuse}));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(Unpacked, SourcesThatCannotStayAreRefused) {
  const auto sources = allocate();
  const std::vector<Parameter> one{{"w", Dtype::bf16, {64}}};
  EXPECT_THROWS(InvalidArgument, "what is not copied is not cast",
                (void)plan_unpacked(one, std::vector<Source>{{a_->data(), Dtype::f32}}));
  EXPECT_THROWS(InvalidArgument, "not aligned",
                (void)plan_unpacked(one, std::vector<Source>{{a_->data() + 1}}));
  EXPECT_THROWS(InvalidArgument, "1 sources for 8 parameters",
                (void)plan_unpacked(parameters(), std::span(sources).first(1)));
  EXPECT_THROWS(InvalidArgument, "which is mode in-place",
                (void)Publisher::create(name_, plan_unpacked(parameters(), sources),
                                        {.mode = Mode::double_buffered}));
  const UnpackedPlan plan = plan_unpacked(parameters(), sources);
  Publisher pub = Publisher::create(name_, plan);
  auto moved = sources;
  moved[2].data = b_->data() + 2000;
  EXPECT_THROWS(InvalidArgument, "'b.0' is unpacked and has moved", (void)pub.publish(moved));
}

TEST_F(Unpacked, ChecksumsAndLoadPlansWorkOnThem) {
  const auto sources = allocate();
  const UnpackedPlan plan = plan_unpacked(parameters(), sources);
  Publisher pub = Publisher::create(name_, plan, {.checksums = true});
  step(pub, plan, sources, 1);
  auto sub = Subscriber::attach(name_);
  EXPECT_EQ(sub.wait(exactly(1), kPatience).verify(), std::vector<std::string>{});
  const Bytes half(kCuda, 50 * 4);
  auto load = LoadPlan(sub.layout()).into("a.0", half.data()).slice(0, 1, 2);
  EXPECT_EQ(sub.load(load, kPatience), 1U);
  EXPECT_EQ(half.download(), content(0, 1, 200));
}

}  // namespace
}  // namespace tenon::test
