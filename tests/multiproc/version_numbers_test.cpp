// Versions that carry a caller's numbers: training steps, or what a relay's source calls them.
#include <support/support.hpp>

namespace tenon::test {
namespace {

class VersionNumbers : public ::testing::TestWithParam<MemoryKind> {
 protected:
  Publisher create(Mode mode) {
    return Publisher::create(name_, model_.layout, {.memory = {GetParam()}, .mode = mode});
  }
  std::string name_ = unique_name("numbers");
  Signal joined_;
  Node node_;
  Model model_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Kinds, VersionNumbers, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(VersionNumbers, AreTheCallersInEveryMode) {
  for (const Mode mode : {Mode::in_place, Mode::double_buffered}) {
    SCOPED_TRACE(name_of(mode));
    Publisher pub = create(mode);
    auto sub = Subscriber::attach(name_);
    for (const std::uint64_t v : {57U, 58U, 60U, 63U, 1001U}) {
      EXPECT_EQ(model_.publish(pub, v, {.version = v}), v);
      const Lease lease = sub.wait(newest(), kPatience);
      EXPECT_EQ(lease.version(), v);
      EXPECT_EQ(model_.wrong(lease, v), 0U);
    }
    EXPECT_EQ(model_.publish(pub, 1002), 1002U) << "without a number the next";
  }
}

TEST_P(VersionNumbers, OfAStreamAreSkippedByReadersThatWaitForTheNext) {
  Publisher pub = create(Mode::streaming);
  auto sub = Subscriber::attach(name_);
  Destination destination(model_);
  EXPECT_EQ(sub.join(), 1U);
  for (const std::uint64_t v : {3U, 4U, 90U}) {
    Child loads([&] {
      auto other = Subscriber::attach(name_);
      Destination theirs(model_);
      other.join();
      joined_.poke();
      return other.load(theirs.plan, kPatience) == v && theirs.wrong(v) == 0 ? 0 : 1;
    });
    ASSERT_TRUE(joined_.wait());
    std::thread reader([&] { EXPECT_EQ(sub.load(destination.plan, kPatience), v); });
    EXPECT_EQ(model_.publish(pub, v, {.deadline = kPatience, .version = v}), v);
    reader.join();
    EXPECT_EQ(destination.wrong(v), 0U);
    EXPECT_EQ(loads.wait(), 0);
  }
}

TEST_P(VersionNumbers, OfTheSameParityWaitForReadersOfTheCurrentVersion) {
  Publisher pub = create(Mode::double_buffered);
  model_.publish(pub, 1);
  auto sub = Subscriber::attach(name_);
  Lease held = sub.wait(exactly(1), kPatience);
  // Versions 1 and 3 share their records: 3 may not overwrite those that are being read.
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 3, {.deadline = 50ms, .version = 3}));
  EXPECT_EQ(pub.version(), 1U) << "the version before is current again";
  EXPECT_EQ(Subscriber::attach(name_).wait(newest(), kPatience).version(), 1U);
  EXPECT_EQ(model_.wrong(held, 1), 0U);
  std::thread trainer(
      [&] { EXPECT_EQ(model_.publish(pub, 3, {.deadline = kPatience, .version = 3}), 3U); });
  while (!held.wanted()) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(model_.wrong(held, 1), 0U);
  held.release();
  trainer.join();
  EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience), 3), 0U);
}

TEST_P(VersionNumbers, NeverGoBack) {
  Publisher pub = create(Mode::double_buffered);
  model_.publish(pub, 5, {.version = 5});
  EXPECT_THROWS(InvalidArgument, "as version 5: it takes 6 to",
                (void)model_.publish(pub, 5, {.version = 5}));
  EXPECT_THROWS(InvalidArgument, "it takes 6 to",
                (void)model_.publish(pub, 6, {.version = ~std::uint64_t{0}}));
  EXPECT_EQ(model_.publish(pub, 6), 6U);
}

TEST_P(VersionNumbers, ThatWereAskedForAndPassedOverAreNotRetained) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 4, {.version = 4});
  EXPECT_THROWS(NotRetained, "", (void)sub.wait(exactly(3), kPatience));
}

}  // namespace
}  // namespace tenon::test
