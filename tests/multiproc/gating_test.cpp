// Who holds up whom: slow readers, deadlines, un-retire, wanted leases, aborted versions.
#include <support/support.hpp>

namespace tenon::test {
namespace {

class Gating : public ::testing::TestWithParam<MemoryKind> {
 protected:
  Publisher create(Mode mode) {
    return Publisher::create(name_, model_.layout, {.memory = {GetParam()}, .mode = mode});
  }
  /// A child that holds version `v` from `held` to `let_go`, then checks that it never changed.
  Child holder(std::uint64_t v) {
    return Child([this, v] {
      auto sub = Subscriber::attach(name_, {.deadline = kPatience, .label = "slow-engine"});
      Lease lease = sub.wait(exactly(v), kPatience);
      held_.poke();
      if (!let_go_.wait()) return 2;
      return model_.wrong(lease) == 0 ? 0 : 1;
    });
  }
  std::string name_ = unique_name("gate");
  Node node_;
  Model model_{GetParam()};
  Signal held_;
  Signal let_go_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, Gating, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(Gating, DeadlineNamesTheHolderAndTheOldVersionStaysCurrent) {
  Publisher pub = create(Mode::in_place);
  Child slow = holder(1);
  model_.publish(pub, 1, {.require = 1});
  ASSERT_TRUE(held_.wait());
  const std::string pid = "pid " + std::to_string(slow.pid());
  EXPECT_THROWS(DeadlinePassed, pid + " (slow-engine) holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 50ms}));
  EXPECT_EQ(pub.version(), 1U) << "no byte was written: the old version is as good as before";
  auto other = Subscriber::attach(name_);
  EXPECT_EQ(model_.wrong(other.wait(newest(), kPatience), 1), 0U);
  let_go_.poke();
  EXPECT_EQ(slow.wait(), 0);
  EXPECT_EQ(model_.publish(pub, 2), 2U) << "the number of the attempt that failed is used again";
  EXPECT_EQ(model_.wrong(other.wait(exactly(2), kPatience)), 0U);
}

TEST_P(Gating, DoubleBufferedReaderKeepsItsVersionWhileTheNextIsWritten) {
  Publisher pub = create(Mode::double_buffered);
  Child slow = holder(1);
  model_.publish(pub, 1, {.require = 1});
  ASSERT_TRUE(held_.wait());
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = 0s}), 2U);
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 3, {.deadline = 50ms}));
  auto other = Subscriber::attach(name_);
  EXPECT_EQ(model_.wrong(other.wait(newest(), kPatience), 2), 0U);
  let_go_.poke();
  EXPECT_EQ(slow.wait(), 0) << "version 1 changed while it was held";
  EXPECT_EQ(model_.publish(pub, 3), 3U);
}

TEST_P(Gating, HolderLearnsThatItIsWantedAndWaitingInsteadReturnsAtOnce) {
  Publisher pub = create(Mode::in_place);
  Signal told;
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    Lease lease = sub.wait(exactly(1), kPatience);
    EXPECT_FALSE(lease.wanted());
    held_.poke();
    // Waiting for the next version while holding this one can only deadlock: it is said instead.
    EXPECT_THROWS(ReleaseWanted, "release it", (void)sub.wait(newer_than(1), kPatience));
    EXPECT_TRUE(lease.wanted());
    lease.release();
    return model_.wrong(sub.wait(newer_than(1), kPatience), 2) == 0 ? 0 : 1;
  });
  model_.publish(pub, 1, {.require = 1});
  ASSERT_TRUE(held_.wait());
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(Gating, KillingTheHolderFreesThePublisher) {
  Publisher pub = create(Mode::in_place);
  Child slow = holder(1);
  model_.publish(pub, 1, {.require = 1});
  ASSERT_TRUE(held_.wait());
  std::jthread killer([&] {
    std::this_thread::sleep_for(30ms);
    slow.signal(SIGKILL);  // not reaped: a zombie holds nothing either
  });
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
  EXPECT_TRUE(pub.subscribers().empty()) << "the dead subscriber's place is free again";
}

/// "… for 2.1 s": the seconds; -1 where nothing of the kind is said.
double seconds_held(const std::string& text) {
  const std::size_t at = text.rfind(" for ");
  return at == std::string::npos ? -1 : std::atof(text.c_str() + at + 5);
}
double seconds_since(std::uint64_t then) {
  return static_cast<double>(detail::monotonic_ns() - then) * 1e-9;
}
constexpr double kRounded = 0.06;  // it is said to a tenth

TEST_P(Gating, DeadlineSaysHowLongTheVersionHasBeenHeld) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  Lease first = sub.wait(exactly(1), kPatience);
  std::this_thread::sleep_for(400ms);
  model_.publish(pub, 2, {.deadline = 0s});
  const std::uint64_t taken = detail::monotonic_ns();
  const Lease second = sub.wait(exactly(2), kPatience);
  std::this_thread::sleep_for(200ms);
  const std::string of_first = thrown([&] { model_.publish(pub, 3, {.deadline = 0s}); });
  EXPECT_NE(of_first.find("holds version 1 for "), std::string::npos) << of_first;
  EXPECT_GE(seconds_held(of_first), 0.6 - kRounded);
  first.release();
  // Of the same subscriber, which has held something all the time: version 2 it took later.
  model_.publish(pub, 3, {.deadline = 0s});
  const std::string of_second = thrown([&] { model_.publish(pub, 4, {.deadline = 0s}); });
  EXPECT_NE(of_second.find("holds version 2 for "), std::string::npos) << of_second;
  EXPECT_GE(seconds_held(of_second), 0.2 - kRounded);
  EXPECT_LE(seconds_held(of_second), seconds_since(taken) + kRounded);
}

TEST_P(Gating, DeadlineWhenStreamingNamesTheBucketAndHowLongItHasStoodThere) {
  Publisher pub = create(Mode::streaming);
  Destination into(model_);
  auto sub = Subscriber::attach(name_, {.label = "engine-0"});
  sub.join();
  std::this_thread::sleep_for(400ms);
  std::uint64_t loading = 0;
  std::jthread reader([&] {
    loading = detail::monotonic_ns();
    (void)sub.load(into.plan, kPatience);
  });
  model_.publish(pub, 1, {.deadline = kPatience});
  reader.join();
  std::this_thread::sleep_for(200ms);
  const std::string stalled = thrown([&] { model_.publish(pub, 2, {.deadline = 50ms}); });
  EXPECT_NE(stalled.find("(engine-0) holds version 2 from bucket 0 on for "), std::string::npos)
      << stalled;
  EXPECT_GE(seconds_held(stalled), 0.2 - kRounded);
  EXPECT_LE(seconds_held(stalled), seconds_since(loading) + kRounded) << "not since it joined";
  // It does not stand where the version after the next begins: who is required is named too.
  const std::string missing =
      thrown([&] { model_.publish(pub, 3, {.deadline = 50ms, .require = 1}); });
  EXPECT_NE(missing.find("behind it: place "), std::string::npos) << missing;
  EXPECT_NE(missing.find("(engine-0) holds version 2 from bucket 0 on for "), std::string::npos);
}

// Between a deadline's un-retirement and the next attempt everything is as before, for everybody.
TEST_P(Gating, VersionThatWasTakenBackIsServedAndNobodyIsWanted) {
  for (const Mode mode : {Mode::in_place, Mode::double_buffered}) {
    Publisher pub = create(mode);
    auto sub = Subscriber::attach(name_);
    auto slow = Subscriber::attach(name_);
    model_.publish(pub, 1);
    const Lease held = slow.wait(newest(), kPatience);
    if (mode == Mode::double_buffered) model_.publish(pub, 2, {.deadline = 0s});
    const std::uint64_t v = pub.version();
    for (int attempt = 0; attempt < 3; ++attempt) {
      EXPECT_THROWS(DeadlinePassed, "holds version 1",
                    (void)model_.publish(pub, v + 1, {.deadline = 5ms}));
      EXPECT_EQ(pub.version(), v);
      EXPECT_EQ(model_.wrong(sub.wait(exactly(v), kPatience)), 0U);
      EXPECT_EQ(model_.wrong(held, 1), 0U);
      EXPECT_FALSE(held.wanted());
    }
    EXPECT_THROWS(DeadlinePassed, "no version newer than", (void)sub.wait(newer_than(v), 5ms));
  }
}

TEST_P(Gating, StoppedHolderIsSlowNotDead) {
  Publisher pub = create(Mode::in_place);
  Child slow = holder(1);
  model_.publish(pub, 1, {.require = 1});
  ASSERT_TRUE(held_.wait());
  slow.signal(SIGSTOP);
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 250ms}));
  slow.signal(SIGCONT);
  let_go_.poke();
  EXPECT_EQ(slow.wait(), 0);
}

TEST_P(Gating, SeveralLeasesOfOneSubscriberHoldTheLowest) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  Lease first = sub.wait(exactly(1), kPatience);
  Lease again = sub.wait(exactly(1), kPatience);
  model_.publish(pub, 2, {.deadline = 0s});
  Lease second = sub.wait(exactly(2), kPatience);
  EXPECT_EQ(pub.subscribers().at(0).holds, 1U);
  first.release();
  EXPECT_THROWS(DeadlinePassed, "holds version 1", (void)model_.publish(pub, 3, {.deadline = 0s}));
  EXPECT_EQ(model_.wrong(again), 0U);
  EXPECT_EQ(model_.wrong(second), 0U);
  again.release();
  EXPECT_EQ(pub.subscribers().at(0).holds, 2U);
  EXPECT_EQ(model_.publish(pub, 3, {.deadline = 0s}), 3U);
  EXPECT_EQ(model_.wrong(second), 0U) << "version 2 is still held and must not change";
}

TEST_P(Gating, LeasesEndOnOtherThreadsWhileTheReaderTakesNewOnes) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_, {.spin = 0ns});
  constexpr std::uint64_t kVersions = 300;
  std::atomic<std::uint64_t> torn{0};
  std::jthread reader([&] {
    std::vector<std::jthread> releasing;
    for (std::uint64_t seen = 0; seen < kVersions;) {
      std::optional<Lease> lease;
      try {
        lease = sub.wait(newer_than(seen), kPatience);
      } catch (const Error& e) {
        if (e.code() != Errc::ReleaseWanted) throw;  // one of the other threads is about to release
        std::this_thread::yield();
        continue;
      }
      seen = lease->version();
      releasing.emplace_back([&, held = std::move(*lease)]() mutable {
        torn += model_.wrong(held);
        held.release();
      });
      if (releasing.size() > 4) releasing.erase(releasing.begin());
    }
  });
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    try {
      model_.publish(pub, v, {.deadline = kPatience});
    } catch (const Error& e) {
      FAIL() << e.what();
    }
  }
  reader.join();
  EXPECT_EQ(torn, 0U);
}

TEST_P(Gating, AbortedVersionInPlaceLeavesNoneUntilTheNext) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  {
    auto update = pub.begin();
    const auto sources = model_.sources(2);
    const auto [first, last] = model_.layout.bucket_parameters(0);
    update.put(0, std::span(sources).subspan(first, last - first));
  }  // destroyed without commit: aborted
  EXPECT_EQ(pub.version(), 0U) << "bucket 0 was overwritten: there is no whole version";
  EXPECT_FALSE(sub.try_acquire());
  std::vector<Source> unchanged(model_.layout.size(), Source{.unchanged = true});
  EXPECT_THROWS(DirtyBucket, "bucket 0", (void)publish(pub, unchanged));
  {
    auto update = pub.begin();
    EXPECT_THROWS(DirtyBucket, "bucket 0", update.keep(0));
    EXPECT_NO_THROW(update.keep(1)) << "bucket 1 was never touched";
    EXPECT_THROWS(IncompleteVersion, "bucket 0", (void)update.commit());
  }
  EXPECT_EQ(model_.publish(pub, 2), 2U);
  EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience), 2), 0U);
}

TEST_P(Gating, AbortedVersionDoubleBufferedLeavesThePreviousCurrent) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  {
    auto update = pub.begin();
    const auto sources = model_.sources(2);
    const auto [first, last] = model_.layout.bucket_parameters(0);
    update.put(0, std::span(sources).subspan(first, last - first));
    update.abort();
  }
  EXPECT_EQ(pub.version(), 1U);
  EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience), 1), 0U);
  // The trainer means "unchanged since the attempt"; only "since version 1" would be right: no
  // guess is made.
  auto sources = model_.sources(2);
  for (Source& s : sources) s.unchanged = true;
  EXPECT_EQ(publish(pub, sources), 2U);
  const Lease lease = sub.wait(exactly(2), kPatience);
  EXPECT_EQ(lease.written_in(0), 2U) << "bucket 0 must have been copied again";
  EXPECT_EQ(lease.written_in(1), 1U);
}

TEST_P(Gating, BeginWithoutAByteWrittenTakesNothingAway) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  {
    auto update = pub.begin();
    EXPECT_EQ(pub.version(), 0U);
  }
  EXPECT_EQ(pub.version(), 1U);
}

TEST_P(Gating, WrongSourcesAreRefusedBeforeAnythingIsRetired) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  auto sources = model_.sources(2);
  EXPECT_THROWS(InvalidArgument, "10 sources for 11 parameters",
                (void)publish(pub, std::span(sources).first(10)));
  sources[3].dtype = Dtype::i32;
  EXPECT_THROWS(InvalidArgument, "'layer.0.q': its dtype is I32, the layout has BF16",
                (void)publish(pub, sources));
  sources = model_.sources(2);
  sources[0].bytes = 1;
  EXPECT_THROWS(InvalidArgument, "it has 1 bytes, the layout has 2108",
                (void)publish(pub, sources));
  sources = model_.sources(2);
  sources[5].data = nullptr;
  EXPECT_THROWS(InvalidArgument, "'layer.0.norm': its pointer is null",
                (void)publish(pub, sources));
  EXPECT_EQ(pub.version(), 1U);
}

TEST_P(Gating, PublisherWaitsForTheSubscribersItRequires) {
  Publisher pub = create(Mode::in_place);
  EXPECT_THROWS(DeadlinePassed, "fewer than 1 subscribers",
                (void)model_.publish(pub, 1, {.deadline = 20ms, .require = 1}));
  EXPECT_EQ(pub.version(), 0U);
}

TEST_P(Gating, CheckIsCalledWhileWaitingAndCanEndTheWait) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  const Lease lease = sub.wait(newest(), kPatience);
  struct Interrupted {};
  int calls = 0;
  const PublishOptions options{.deadline = Duration::max(), .check = [&] {
                                 if (++calls == 2) throw Interrupted{};
                               }};
  EXPECT_THROW((void)model_.publish(pub, 2, options), Interrupted);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(pub.version(), 1U) << "as at a deadline: nothing was written, nothing is lost";
  EXPECT_FALSE(lease.wanted());
}

TEST_P(Gating, LabelThatWouldBeCutIsRefused) {
  const std::string label(64, 'x');
  EXPECT_THROWS(
      InvalidArgument, "up to 63 fit",
      (void)Publisher::create(name_, model_.layout, {.memory = {GetParam()}, .label = label}));
  Publisher pub = create(Mode::in_place);
  EXPECT_THROWS(InvalidArgument, "up to 63 fit", (void)Subscriber::attach(name_, {.label = label}));
  auto sub = Subscriber::attach(name_, {.label = label.substr(1)});
  EXPECT_EQ(pub.subscribers().at(0).label, label.substr(1));
}

// Two threads take versions at once: the one that saw an older version current must not hold it
// once the other holds a newer one.
TEST_P(Gating, ThreadsThatAcquireAtOnceNeverCrossVersions) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  constexpr std::uint64_t kVersions = 2000;
  std::atomic<bool> failed{false};
  std::atomic<bool> done{false};
  const auto take = [&] {
    try {
      while (!done) (void)sub.try_acquire();
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
      failed = true;
    }
  };
  std::vector<std::jthread> readers;
  for (int i = 0; i < 3; ++i) readers.emplace_back(take);
  const std::vector<Source> unchanged(model_.layout.size(), Source{.unchanged = true});
  model_.publish(pub, 1);
  for (std::uint64_t v = 2; v <= kVersions && !failed; ++v)
    publish(pub, unchanged, {.deadline = kPatience});
  done = true;
}

TEST_P(Gating, CursorOfADeadPlaceIsNotHeldAgainstAnybody) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  Child liar([&] {
    auto sub = Subscriber::attach(name_);
    auto found =
        detail::find_publication(name_, ::geteuid(), detail::SharedObject::Access::read_write);
    found.segment->place(sub.place()).cursor = 1'000'000;
    held_.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(held_.wait());
  liar.signal(SIGKILL);
  ASSERT_EQ(liar.wait(), 1000 + SIGKILL);
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
}

TEST_P(Gating, PublisherNeverReadsItsOwnWordsBack) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  const Lease lease = sub.wait(newest(), kPatience);
  auto found =
      detail::find_publication(name_, ::geteuid(), detail::SharedObject::Access::read_write);
  // Whoever can subscribe can write here. A publisher that believed it would write to the slots of
  // version 1.
  found.segment->header().current = 0;
  found.segment->header().oldest = format::start_of(2, model_.layout.bucket_count());
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = 0s}), 2U);
  EXPECT_EQ(model_.wrong(lease), 0U);
  EXPECT_EQ(model_.wrong(sub.wait(exactly(2), kPatience)), 0U);
}

TEST_P(Gating, PinBelowTheRetireLineIsTakenBack) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  auto found =
      detail::find_publication(name_, ::geteuid(), detail::SharedObject::Access::read_write);
  // As between the first two stores of a retirement: `oldest` moved, `current` not yet withdrawn.
  found.segment->header().oldest = format::start_of(2, model_.layout.bucket_count());
  EXPECT_FALSE(sub.try_acquire());
  EXPECT_EQ(found.segment->place(sub.place()).cursor, format::kIdle)
      << "a refused pin gates nothing";
}

TEST_P(Gating, CursorThatCannotBeIsAProtocolError) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_, {.label = "liar"});
  model_.publish(pub, 1);
  auto found =
      detail::find_publication(name_, ::geteuid(), detail::SharedObject::Access::read_write);
  found.segment->place(sub.place()).cursor = 1'000'000;
  EXPECT_THROWS(ProtocolError, "'liar'", (void)model_.publish(pub, 2, {.deadline = 50ms}));
  EXPECT_EQ(pub.version(), 1U);
}

}  // namespace
}  // namespace tenon::test
