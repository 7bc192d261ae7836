// K slots for all buckets: readers load each bucket as it passes.
#include <support/support.hpp>

namespace tenon::test {
namespace {

class Streaming : public ::testing::TestWithParam<MemoryKind> {
 protected:
  Publisher create(std::uint32_t slots = 0) {
    return Publisher::create(name_, model_.layout,
                             {.memory = {GetParam()}, .mode = Mode::streaming, .slots = slots});
  }
  /// A child that loads versions 1..last and checks each one whole.
  Child loader(std::uint64_t last) {
    return Child([this, last] {
      auto sub = Subscriber::attach(name_, {.deadline = kPatience, .label = "loader"});
      Destination into(model_);
      for (std::uint64_t v = 0; v < last;) {
        v = sub.load(into.plan, kPatience);
        EXPECT_EQ(into.wrong(v), 0U) << "version " << v;
        EXPECT_EQ(into.plan.state(), LoadState::loaded);
      }
      return 0;
    });
  }
  std::string name_ = unique_name("stream");
  Node node_;
  Model model_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Kinds, Streaming, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(Streaming, ReadersLoadEveryVersionThroughFewSlots) {
  constexpr std::uint64_t kVersions = 100;
  ASSERT_GE(model_.layout.bucket_count(), 4U);
  for (const std::uint32_t slots : {2U, 3U}) {
    Publisher pub = create(slots);
    Child a = loader(kVersions);
    Child b = loader(kVersions);
    for (std::uint64_t v = 1; v <= kVersions; ++v) {
      pub.publish(model_.sources(v), {.deadline = kPatience, .require = 2});
    }
    EXPECT_EQ(a.wait(), 0);
    EXPECT_EQ(b.wait(), 0);
  }
}

TEST_P(Streaming, LateJoinerBeginsWithTheNextVersion) {
  Publisher pub = create();
  Child first = loader(3);
  model_.publish(pub, 1, {.require = 1});
  model_.publish(pub, 2);
  auto sub = Subscriber::attach(name_);
  sub.join();
  Destination into(model_);
  std::jthread publishing([&] {
    model_.publish(pub, 3, {.deadline = kPatience, .require = 2});
    model_.publish(pub, 4, {.deadline = kPatience});
  });
  EXPECT_EQ(sub.load(into.plan, kPatience), 3U);
  EXPECT_EQ(into.wrong(3), 0U);
  EXPECT_EQ(sub.load(into.plan, kPatience), 4U);
  EXPECT_EQ(first.wait(), 0);
}

TEST_P(Streaming, WholeVersionsAreNotOffered) {
  Publisher pub = create();
  auto sub = Subscriber::attach(name_);
  EXPECT_THROWS(StreamingOnly, "use load()", (void)sub.wait(newest(), 0s));
  EXPECT_THROWS(StreamingOnly, "use load()", (void)sub.try_acquire());
  EXPECT_THROWS(InvalidArgument, "only in place", (void)pub.storage("embed"));
}

TEST_P(Streaming, FewBucketsArePublishedInPlaceAndItSaysSo) {
  const Model two(GetParam(), 1ULL << 20U);
  Publisher pub =
      Publisher::create(name_, two.layout, {.memory = {GetParam()}, .mode = Mode::streaming});
  EXPECT_EQ(pub.mode(), Mode::in_place);
  ASSERT_EQ(pub.notes().size(), 1U);
  EXPECT_NE(pub.notes()[0].find("published in place"), std::string::npos);
}

TEST_P(Streaming, SlotCountMustFit) {
  const auto buckets = static_cast<std::uint32_t>(model_.layout.bucket_count());
  EXPECT_THROWS(InvalidArgument, "slots", (void)create(1));
  EXPECT_THROWS(InvalidArgument, "slots", (void)create(buckets));
  EXPECT_TRUE(shm_objects(name_).empty());
}

TEST_P(Streaming, StalledReaderIsNamedAndTheVersionAborted) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_, {.label = "stalled"});
  sub.join();
  EXPECT_THROWS(DeadlinePassed, "(stalled) holds version 1",
                (void)model_.publish(pub, 1, {.deadline = 50ms}));
  Destination into(model_);
  std::jthread next([&] { model_.publish(pub, 2, {.deadline = kPatience}); });
  EXPECT_EQ(sub.load(into.plan, kPatience), 2U) << "version 1 was aborted: its number is burnt";
  EXPECT_EQ(into.wrong(2), 0U);
}

TEST_P(Streaming, AbortedVersionLeavesTheDestinationTornUntilTheNext) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_);
  Destination into(model_);
  sub.join();
  {
    auto update = pub.begin();
    const auto sources = model_.sources(1);
    const auto [first, last] = model_.layout.bucket_parameters(0);
    update.put(0, std::span(sources).subspan(first, last - first));
    EXPECT_THROWS(DeadlinePassed, "did not arrive", (void)sub.load(into.plan, 20ms));
    EXPECT_EQ(into.plan.state(), LoadState::torn);
  }
  std::jthread next([&] { model_.publish(pub, 2, {.deadline = kPatience}); });
  EXPECT_EQ(sub.load(into.plan, kPatience), 2U);
  EXPECT_EQ(into.plan.state(), LoadState::loaded);
  EXPECT_EQ(into.wrong(2), 0U);
}

TEST_P(Streaming, AbortMidLoadIsSeenByAWaitingReader) {
  Publisher pub = create(2);
  Signal loading;
  Child reader([&] {
    auto sub = Subscriber::attach(name_);
    sub.join();
    loading.poke();
    Destination into(model_);
    const std::uint64_t v = sub.load(into.plan, kPatience);
    return v == 2 && into.wrong(2) == 0 ? 0 : 1;
  });
  ASSERT_TRUE(loading.wait());
  {
    auto update = pub.begin({.require = 1});
    const auto sources = model_.sources(1);
    const auto [first, last] = model_.layout.bucket_parameters(0);
    update.put(0, std::span(sources).subspan(first, last - first));
    std::this_thread::sleep_for(
        20ms);  // lets the reader copy bucket 0 and sleep; either way must be right
  }
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(Streaming, AVersionAbortedBehindItsLastBucketIsNotLoaded) {
  Publisher pub = create(2);
  Signal loading;
  Child reader([&] {
    auto sub = Subscriber::attach(name_);
    sub.join();
    loading.poke();
    Destination into(model_);
    const std::uint64_t v = sub.load(into.plan, kPatience);
    return v == 2 && into.wrong(2) == 0 ? 0 : 1;
  });
  ASSERT_TRUE(loading.wait());
  {
    auto update = pub.begin({.require = 1});
    const auto sources = model_.sources(1);
    for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) {
      const auto [first, last] = model_.layout.bucket_parameters(b);
      update.put(b, std::span(sources).subspan(first, last - first));
    }
    std::this_thread::sleep_for(20ms);  // lets the reader have what it can
  }
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(Streaming, UnchangedBucketsAreSkippedByThoseWhoHaveThem) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_);
  Destination into(model_);
  const auto load_beside = [&](const std::vector<Source>& sources) {
    sub.join();
    std::jthread publishing([&] { publish(pub, sources, {.deadline = kPatience}); });
    return sub.load(into.plan, kPatience);
  };
  EXPECT_EQ(load_beside(model_.sources(1)), 1U);
  const std::size_t embed = model_.layout.at("embed");
  into.bytes[embed].spoil();
  auto sources = model_.sources(1);
  for (Source& s : sources) s.unchanged = true;
  EXPECT_EQ(load_beside(sources), 2U);
  EXPECT_EQ(into.wrong(1), 1U) << "an unchanged bucket was copied again";
  Destination fresh(model_);
  auto other = Subscriber::attach(name_);
  other.join();
  sub.pause();
  std::jthread publishing([&] { publish(pub, sources, {.deadline = kPatience}); });
  EXPECT_EQ(other.load(fresh.plan, kPatience), 3U);
  EXPECT_EQ(fresh.wrong(1), 0U) << "whoever has nothing yet loads unchanged buckets too";
}

// "Unchanged" is relative to what the publisher sent last, not to what this reader has: only the
// number of the version that wrote the bytes can tell.
TEST_P(Streaming, ReaderThatMissedAChangeLoadsABucketFrozenSince) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_);
  Destination into(model_);
  sub.join();
  {
    std::jthread publishing([&] { model_.publish(pub, 1, {.deadline = kPatience}); });
    EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
  }
  sub.pause();
  model_.publish(pub, 2);  // missed
  sub.join();
  auto sources = model_.sources(2);
  for (Source& s : sources) s.unchanged = true;
  std::jthread publishing([&] { publish(pub, sources, {.deadline = kPatience}); });
  EXPECT_EQ(sub.load(into.plan, kPatience), 3U);
  EXPECT_EQ(into.wrong(2), 0U);
}

TEST_P(Streaming, TornLoadForgetsWhatItHad) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_);
  Destination into(model_);
  sub.join();
  {
    std::jthread publishing([&] { model_.publish(pub, 1, {.deadline = kPatience}); });
    EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
  }
  {  // version 2 is aborted after bucket 0, with the bytes of version 2, arrived
    auto update = pub.begin();
    const auto sources = model_.sources(2);
    const auto [first, last] = model_.layout.bucket_parameters(0);
    update.put(0, std::span(sources).subspan(first, last - first));
    EXPECT_THROWS(DeadlinePassed, "did not arrive", (void)sub.load(into.plan, 20ms));
  }
  EXPECT_EQ(into.plan.state(), LoadState::torn);
  // A torn destination trusts nothing: even what looks loaded is copied again.
  const std::size_t last_parameter = model_.layout.size() - 1;
  into.bytes[last_parameter].spoil();
  auto sources = model_.sources(1);
  for (std::size_t i = 0; i < sources.size(); ++i)
    sources[i].unchanged = model_.layout[i].bucket != 0;
  std::jthread publishing([&] { publish(pub, sources, {.deadline = kPatience}); });
  EXPECT_EQ(sub.load(into.plan, kPatience), 3U);
  EXPECT_EQ(into.wrong(1), 0U);
}

TEST_P(Streaming, PausedReaderGatesNothing) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_);
  sub.join();
  sub.pause();
  for (std::uint64_t v = 1; v <= 3; ++v) EXPECT_EQ(model_.publish(pub, v, {.deadline = 0s}), v);
  sub.join();
  Destination into(model_);
  std::jthread next([&] { model_.publish(pub, 4, {.deadline = kPatience}); });
  EXPECT_EQ(sub.load(into.plan, kPatience), 4U);
}

TEST_P(Streaming, WhoLoadsAndLeavesIsNotCountedOn) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_);
  Destination into(model_);
  EXPECT_EQ(sub.join(), 1U);
  std::jthread publishing([&] { model_.publish(pub, 1, {.deadline = kPatience}); });
  EXPECT_EQ(sub.load(into.plan, kPatience, AfterLoad::leave), 1U);
  publishing.join();
  EXPECT_EQ(into.wrong(1), 0U);
  EXPECT_THROWS(DeadlinePassed, "fewer than 1 subscribers are waiting for it",
                (void)pub.begin({.deadline = 20ms, .require = 1}));
  EXPECT_THROWS(DeadlinePassed, "did not arrive",
                (void)sub.load(into.plan, 20ms, AfterLoad::leave));
  EXPECT_THROWS(DeadlinePassed, "fewer than 1 subscribers are waiting for it",
                (void)pub.begin({.deadline = 20ms, .require = 1}));
  EXPECT_EQ(sub.join(), 2U) << "no version was begun: the next one is still to come";
}

TEST_P(Streaming, JoiningLateTellsWhichVersionComesNext) {
  Publisher pub = create(2);
  auto sub = Subscriber::attach(name_);
  auto update = pub.begin();
  const auto sources = model_.sources(1);
  for (std::size_t b = 0; b < 3; ++b) {  // one more than there are slots: the first one is gone
    const auto [first, last] = model_.layout.bucket_parameters(b);
    update.put(b, std::span(sources).subspan(first, last - first));
  }
  EXPECT_EQ(sub.join(), 2U);
}

TEST(LoadPlans, ADestinationAddedAfterALoadHasNotArrived) {
  Model model;
  const std::string name = unique_name("added");
  Publisher pub = Publisher::create(name, model.layout);
  model.publish(pub, 1);
  auto sub = Subscriber::attach(name);
  Destination into(model);
  EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
  std::vector<std::byte> more(model.layout[0].bytes);
  into.plan.into(model.layout[0].name, more.data());
  EXPECT_EQ(into.plan.state(), LoadState::torn);
  EXPECT_EQ(sub.load(into.plan, kPatience), 1U) << "the version that is there is loaded again";
  EXPECT_EQ(into.plan.state(), LoadState::loaded);
  EXPECT_EQ(model.wrong(0, more.data(), 1), 0U);
}

TEST_P(Streaming, BucketsAreWrittenInOrder) {
  Publisher pub = create(2);
  auto update = pub.begin();
  EXPECT_THROWS(InvalidArgument, "before bucket 0 is sealed", (void)update.open(1));
  EXPECT_THROWS(InvalidArgument, "keeps no whole version", update.keep(0));
}

}  // namespace
}  // namespace tenon::test
