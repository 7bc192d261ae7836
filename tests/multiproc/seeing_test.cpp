// Where the time goes, told by real processes: counts and bytes are those of what was done, and
// whoever writes nonsense into the statistics harms nobody.
#include <filesystem>
#include <fstream>
#include <random>
#include <support/support.hpp>
#include <tenon/inspect.hpp>
#include <tenon/load_plan.hpp>

namespace tenon::test {
namespace {

struct Way {
  const char* name;
  MemoryKind memory;
  Mode mode;
};
std::vector<Way> ways() {
  std::vector<Way> all;
  for (const MemoryKind kind : kinds()) {
    const bool host = kind == MemoryKind::host;
    all.push_back({host ? "hostInPlace" : "cudaInPlace", kind, Mode::in_place});
    all.push_back({host ? "hostDouble" : "cudaDouble", kind, Mode::double_buffered});
    all.push_back({host ? "hostStreaming" : "cudaStreaming", kind, Mode::streaming});
  }
  return all;
}

class StagesAt : public ::testing::TestWithParam<Way> {
 protected:
  Publisher create() {
    return Publisher::create(
        name_, model_.layout,
        {.memory = {GetParam().memory}, .mode = GetParam().mode, .label = "trainer"});
  }
  std::string name_ = unique_name("stages");
  Node node_;
  Model model_{GetParam().memory};
};
INSTANTIATE_TEST_SUITE_P(Kinds, StagesAt, ::testing::ValuesIn(ways()),
                         [](const auto& p) { return std::string(p.param.name); });

bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

void expect(const Stages& stages, Stage stage, std::uint64_t count, std::uint64_t bytes) {
  EXPECT_EQ(stages[stage].count, count) << name_of(stage);
  EXPECT_EQ(stages[stage].bytes, bytes) << name_of(stage);
  EXPECT_LE(stages[stage].longest, stages[stage].total) << name_of(stage);
}

TEST_P(StagesAt, AddUpInEveryProcess) {
  constexpr std::uint64_t kVersions = 5;
  Publisher pub = create();
  const std::uint64_t bytes = model_.layout.payload_bytes();
  std::uint64_t loaded = 0;  // a tied parameter has a destination of its own
  for (std::size_t i = 0; i < model_.layout.size(); ++i) loaded += model_.layout[i].bytes;
  const Signal done;
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience, .label = "engine"});
    Destination to(model_);
    sub.join();
    for (std::uint64_t v = 0; v < kVersions;) v = sub.load(to.plan, kPatience);
    (void)done.wait();  // until then its place is there to be looked at
    return 0;
  });
  std::optional<Stages> told;
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    model_.publish(pub, v, {.deadline = kPatience, .require = 1});
    const auto taken = [&] {
      const auto all = pub.subscribers();
      if (all.empty() || !all[0].stages) return false;
      told = all[0].stages;
      return (*told)[Stage::load].count == v;
    };
    ASSERT_TRUE(eventually(taken)) << v;
  }
  done.poke();
  EXPECT_EQ(reader.wait(), 0);
  expect(*told, Stage::load, kVersions, kVersions * loaded);
  EXPECT_EQ((*told)[Stage::wait_for_ready].count, kVersions);

  const auto gathered = [&] { return (*inspect(name_).stages)[Stage::wake].count == kVersions; };
  ASSERT_TRUE(eventually(gathered));
  const Stages mine = *inspect(name_).stages;
  expect(mine, Stage::gather, kVersions, kVersions * bytes);
  EXPECT_EQ(mine[Stage::publish].count, kVersions);
  const std::uint64_t waits = GetParam().mode == Mode::streaming
                                  ? kVersions * (1 + model_.layout.bucket_count())
                                  : kVersions;
  EXPECT_EQ(mine[Stage::wait_for_slots].count, waits);
  EXPECT_EQ(mine.now, std::nullopt);
}

TEST_P(StagesAt, TheDeviceMeasuresTheGatherWhileItIsTraced) {
  std::string folder = "/tmp/" + name_ + "-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  ::setenv("TENON_TRACE", folder.c_str(), 1);
  {
    Publisher pub = create();
    ::unsetenv("TENON_TRACE");
    for (std::uint64_t v = 1; v <= 3; ++v) model_.publish(pub, v);
    const Stages stages = *inspect(name_).stages;
    const StageSum device = stages[Stage::gather_device];
    EXPECT_EQ(device.count, GetParam().memory == MemoryKind::cuda ? 3u : 0u);
    EXPECT_EQ(device.total > 0ns, device.count > 0);
    EXPECT_LE(device.total, stages[Stage::gather].total + 100us) << "it is a part of that";
    EXPECT_EQ(device.bytes, device.count * model_.layout.payload_bytes());
  }
  std::size_t lines = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(file.path());
    for (std::string line; std::getline(in, line);)
      lines += line.find("gather_device") < 40 ? 1 : 0;
  }
  std::filesystem::remove_all(folder);
  EXPECT_EQ(lines > 0, GetParam().memory == MemoryKind::cuda);
}

TEST_P(StagesAt, AnAbortedVersionCountsForNothingButItsWait) {
  Publisher pub = create();
  model_.publish(pub, 1);
  const Stages before = *inspect(name_).stages;
  {
    auto update = pub.begin();
    (void)update.open(0);
    EXPECT_EQ(inspect(name_).stages->now, Stage::gather);
  }
  (void)pub.wait_current(kPatience);
  const Stages stages = *inspect(name_).stages;
  for (std::size_t i = 0; i < format::kStages; ++i) {
    const auto stage = static_cast<Stage>(i);
    if (stage == Stage::wait_for_slots) {
      EXPECT_GT(stages[stage].count, before[stage].count);
    } else {
      EXPECT_EQ(stages[stage].count, before[stage].count) << name_of(stage);
    }
  }
  EXPECT_EQ(stages.now, std::nullopt);
}

// GPU memory: the version before is still on its stream when the wait begins, and ends in it.
TEST_P(StagesAt, WhoIsWaitedForIsSaid) {
  if (GetParam().mode == Mode::streaming) GTEST_SKIP() << "nothing is held";
  ::setenv("TENON_SIM_DELAY_US", "20000", 1);
  Publisher pub = create();
  (void)pub.publish(model_.sources(1));
  auto sub = Subscriber::attach(name_);
  const Lease lease = sub.wait(newer_than(0), kPatience);
  EXPECT_FALSE(inspect(name_).subscribers.at(0).wanted);
  Model later(GetParam().memory);  // with sources of its own: an upload would wait for all streams
  const std::vector<Source> last = later.sources(3);
  if (GetParam().mode == Mode::double_buffered) (void)pub.publish(model_.sources(2));
  bool seen = false;
  EXPECT_THROWS(DeadlinePassed, "waiting for subscribers to let go",
                pub.publish(last, {.deadline = 1s, .check = [&] {
                                     const PublicationInfo info = inspect(name_);
                                     seen = info.subscribers.at(0).wanted &&
                                            info.stages->now == Stage::wait_for_slots;
                                   }}));
  ::unsetenv("TENON_SIM_DELAY_US");
  EXPECT_TRUE(seen);
  EXPECT_EQ(inspect(name_).stages->now, std::nullopt);
}

// What fills the slots has the name that whoever fills them gave it.
TEST_P(StagesAt, OfThoseWhoFillOffAWireAreNoGather) {
  Publisher pub =
      Publisher::create(name_, model_.layout,
                        {.memory = {GetParam().memory}, .mode = GetParam().mode, .received = true});
  {
    auto update = pub.begin();
    (void)update.open(0);
    EXPECT_EQ(inspect(name_).stages->now, Stage::receive);
  }
  model_.publish(pub, 2);
  const Stages stages = *inspect(name_).stages;
  EXPECT_EQ(stages[Stage::gather].count, 0u);
  expect(stages, Stage::receive, 1, model_.layout.payload_bytes());
}

// Invariant 11: the blocks are the parent's.
TEST_P(StagesAt, AForkedChildTellsNothing) {
  Publisher pub = create();
  model_.publish(pub, 1);
  auto sub = Subscriber::attach(name_);
  Child child([&] {
    for (detail::StageRecorder* stages : {&pub.stages(), &sub.stages()}) {
      stages->record(Stage::load, 1, 1, 2, 3);
      stages->enter(Stage::load, 1);
    }
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  const PublicationInfo info = inspect(name_);
  for (const Stages& stages : {*info.stages, *info.subscribers.at(0).stages}) {
    EXPECT_EQ(stages[Stage::load].count, 0u);
    EXPECT_EQ(stages.now, std::nullopt);
  }
}

class StagesOnHost : public ::testing::Test {
 protected:
  std::string name_ = unique_name("stages");
  Model model_;
  Publisher pub_ = Publisher::create(name_, model_.layout, {.mode = Mode::double_buffered});
  detail::SharedObject object() const {
    auto object = detail::SharedObject::open(detail::publication_object(::geteuid(), name_),
                                             detail::SharedObject::Access::read_write);
    object->map(static_cast<std::uint64_t>(object->status().st_size));
    return std::move(*object);
  }
};

TEST_F(StagesOnHost, LeasesAreTimedFromTakingToTheLastEnd) {
  model_.publish(pub_, 1);
  auto sub = Subscriber::attach(name_);
  {
    const auto one = sub.try_acquire();
    const auto two = sub.try_acquire();
    std::this_thread::sleep_for(5ms);
    EXPECT_EQ((*pub_.subscribers().at(0).stages)[Stage::hold].count, 0u);
  }
  const Stages stages = *pub_.subscribers().at(0).stages;
  EXPECT_EQ(stages[Stage::hold].count, 1u);
  EXPECT_GE(stages[Stage::hold].total, 5ms);
  EXPECT_EQ(stages[Stage::release].count, 1u);
  EXPECT_LT(stages[Stage::release].total, stages[Stage::hold].total);
}

TEST_F(StagesOnHost, OfAPublicationWithoutThemAreNotWritten) {
  const detail::SharedObject mapped = object();
  reinterpret_cast<format::Header*>(mapped.data())->statistics_at = 0;
  model_.publish(pub_, 1);
  auto sub = Subscriber::attach(name_);
  EXPECT_TRUE(sub.try_acquire());
  EXPECT_FALSE(inspect(name_).stages);
  EXPECT_FALSE(inspect(name_).subscribers.at(0).stages);
}

// Their own block is all that subscribers write there, so it must not be anything else.
TEST_F(StagesOnHost, APlaceForThemThatCannotBeCountsAsNone) {
  const detail::SharedObject mapped = object();
  auto& header = *reinterpret_cast<format::Header*>(mapped.data());
  const std::uint64_t right = header.statistics_at;
  const std::uint64_t size = mapped.mapped_bytes();
  for (const std::uint64_t wrong :
       {std::uint64_t{64}, header.total_bytes - 8, right + 1, right + 8, size,
        size - format::kStatisticsBytes + 64, ~std::uint64_t{0}, ~std::uint64_t{0} - 63}) {
    header.statistics_at = wrong;
    EXPECT_FALSE(inspect(name_).stages) << wrong;
    (void)Subscriber::attach(name_);
  }
  header.statistics_at = right;
  EXPECT_TRUE(inspect(name_).stages);
}

TEST_F(StagesOnHost, NonsenseInThemHarmsNobody) {
  const detail::SharedObject mapped = object();
  auto sub = Subscriber::attach(name_);
  std::mt19937_64 random(7);
  std::byte* first =
      mapped.data() + reinterpret_cast<format::Header*>(mapped.data())->statistics_at;
  for (std::uint64_t v = 1; v <= 30; ++v) {
    for (std::uint64_t i = 0; i + 8 <= format::kStatisticsBytes; i += 8) {
      const std::uint64_t word = random() >> (random() % 64);
      std::memcpy(first + i, &word, sizeof(word));
    }
    model_.publish(pub_, v);
    const auto lease = sub.try_acquire();
    ASSERT_TRUE(lease);
    EXPECT_EQ(lease->version(), v);
    EXPECT_FALSE(inspect(name_).stages) << "whose they are is nonsense too";
    auto* blocks = reinterpret_cast<format::StageBlock*>(first);
    const format::Process owner = reinterpret_cast<const format::Header*>(mapped.data())->publisher;
    for (std::size_t b = 0; b < format::kStageBlocks; ++b)
      detail::store_owner(blocks[b].owner, owner);
    const PublicationInfo info = inspect(name_);
    ASSERT_TRUE(info.stages);
    for (const StageSum& sum : info.stages->sums) EXPECT_GE(sum.total.count(), 0);
    EXPECT_EQ((*info.stages)[Stage::gather].count, v) << "its writer keeps its own count";
    detail::StageReader reader(owner);
    std::vector<StageEvent> events;
    for (std::size_t b = 0; b < format::kStageBlocks; ++b) reader.read(blocks[b], events);
    EXPECT_LE(events.size(), format::kStageBlocks * format::kStageRing);
  }
}

TEST_F(StagesOnHost, ASubscriberKilledInTheMiddleLeavesItsPlaceToOthers) {
  model_.publish(pub_, 1);
  Child killed([&] {
    auto sub = Subscriber::attach(name_);
    for (;;) (void)sub.try_acquire();
    return 0;
  });
  ASSERT_TRUE(eventually([&] {
    const auto all = pub_.subscribers();
    return !all.empty() && all[0].stages && (*all[0].stages)[Stage::hold].count > 1000;
  }));
  killed.kill();
  auto sub = Subscriber::attach(name_, {.label = "next"});
  EXPECT_TRUE(sub.try_acquire());
  for (const SubscriberInfo& s : pub_.subscribers()) {
    if (s.label == "next") {
      EXPECT_EQ((*s.stages)[Stage::hold].count, 1u);
    }
  }
}

}  // namespace
}  // namespace tenon::test
