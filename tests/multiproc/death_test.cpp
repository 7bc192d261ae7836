// SIGKILL, at any moment, of either side: the others are told, nothing hangs, the name works again.
#include <support/support.hpp>

namespace tenon::test {
namespace {

class Death : public ::testing::TestWithParam<MemoryKind> {
 protected:
  ~Death() override { (void)gc(false); }
  /// A child that publishes version 1 and then stays.
  Child trainer(Mode mode = Mode::in_place) {
    return Child([this, mode] {
      Publisher pub =
          Publisher::create(name_, model_.layout, {.memory = {GetParam()}, .mode = mode});
      model_.publish(pub, 1);
      ready_.poke();
      for (;;) ::pause();
      return 0;
    });
  }
  /// Holds the newest version until it is killed.
  Child holder() {
    return Child([this] {
      auto sub = Subscriber::attach(name_);
      const Lease lease = sub.wait(newest(), kPatience);
      ready_.poke();
      for (;;) ::pause();
      return 0;
    });
  }
  std::string name_ = unique_name("death");
  Node node_;
  Model model_{GetParam()};
  Signal ready_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, Death, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(Death, WaitingSubscriberIsToldThatThePublisherIsGone) {
  Child pub = trainer();
  ASSERT_TRUE(ready_.wait());
  Child reader([&] {
    auto sub = Subscriber::attach(name_);
    const Lease lease = sub.wait(newest(), kPatience);
    ready_.poke();
    EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
    EXPECT_EQ(lease.publisher(), PublisherStatus::gone);
    EXPECT_EQ(model_.wrong(lease), 0U) << "host memory stays readable";
    return 0;
  });
  ASSERT_TRUE(ready_.wait());
  pub.signal(SIGKILL);  // not reaped: a zombie is dead
  EXPECT_EQ(reader.wait(1s), 0) << "must be noticed within 1 s";
}

TEST_P(Death, LoadingSubscriberIsToldToo) {
  Child pub([&] {
    Publisher p = Publisher::create(name_, model_.layout,
                                    {.memory = {GetParam()}, .mode = Mode::streaming, .slots = 2});
    auto update = p.begin({.require = 1});
    const auto sources = model_.sources(1);
    const auto [first, last] = model_.layout.bucket_parameters(0);
    update.put(0, std::span(sources).subspan(first, last - first));
    ready_.poke();
    for (;;) ::pause();
    return 0;
  });
  auto sub = Subscriber::attach(name_, {.deadline = kPatience});
  Destination into(model_);
  sub.join();
  ASSERT_TRUE(ready_.wait());
  std::jthread killer([&] {
    std::this_thread::sleep_for(20ms);
    pub.signal(SIGKILL);
  });
  EXPECT_THROWS(PublisherGone, "died", (void)sub.load(into.plan, kPatience));
  EXPECT_EQ(into.plan.state(), LoadState::torn);
}

TEST_P(Death, CloseIsToldApartFromDeath) {
  auto pub = std::make_unique<Publisher>(
      Publisher::create(name_, model_.layout, {.memory = {GetParam()}}));
  model_.publish(*pub, 1);
  auto sub = Subscriber::attach(name_);
  const Lease lease = sub.wait(newest(), kPatience);
  std::jthread closer([&] {
    std::this_thread::sleep_for(20ms);
    pub.reset();
  });
  EXPECT_THROWS(Closed, "closed the publication", (void)sub.wait(newer_than(1), kPatience));
  closer.join();
  EXPECT_EQ(lease.publisher(), PublisherStatus::closed);
  EXPECT_EQ(model_.wrong(lease), 0U) << "the mapping outlives the name";
  EXPECT_TRUE(shm_objects(name_).empty());
}

TEST_P(Death, SuccessorReplacesTheDeadPublishersLeftovers) {
  Child dead = trainer();
  ASSERT_TRUE(ready_.wait());
  auto old = Subscriber::attach(name_);
  const Lease held = old.wait(newest(), kPatience);
  dead.kill();
  EXPECT_EQ(Subscriber::probe(name_), Attach::stale);
  EXPECT_THROWS(PublisherGone, "left behind by process",
                (void)Subscriber::attach(name_, {.deadline = 10ms}));

  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
  ASSERT_EQ(pub.notes().size(), 1U);
  EXPECT_NE(pub.notes()[0].find("which is gone"), std::string::npos);
  model_.publish(pub, 1);
  model_.publish(pub, 2);  // not the bytes that the dead one left
  auto sub = Subscriber::attach(name_);
  EXPECT_EQ(model_.wrong(sub.wait(exactly(2), kPatience)), 0U);
  EXPECT_EQ(model_.wrong(held), 0U) << "a reader of the old instance keeps its bytes";
}

TEST_P(Death, AttachWaitsForTheSuccessor) {
  Child dead = trainer();
  ASSERT_TRUE(ready_.wait());
  dead.kill();
  Child next([&] {
    std::this_thread::sleep_for(50ms);
    Publisher pub = Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
    model_.publish(pub, 1);
    for (;;) ::pause();
    return 0;
  });
  auto sub = Subscriber::attach(name_, {.deadline = kPatience});
  EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience)), 0U);
}

TEST_P(Death, DeadSubscribersPlaceIsReclaimedAndGatesNothing) {
  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
  model_.publish(pub, 1);
  for (int round = 0; round < 70; ++round) {  // more than there are places
    Child reader = holder();
    ASSERT_TRUE(ready_.wait());
    reader.kill();
  }
  // However short the deadline: it is for the living.
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = 1ms}), 2U);
  EXPECT_TRUE(pub.subscribers().empty());
}

TEST_P(Death, ForkedChildThatLivesOnDoesNotKeepItsParentAlive) {
  Signal forked;
  Signal end;
  Child pub([&] {
    Publisher p = Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
    model_.publish(p, 1);
    const pid_t loader = ::fork();
    if (loader == 0) {  // a data loader: knows nothing of Tenon, outlives its parent
      ::prctl(PR_SET_PDEATHSIG, 0);
      forked.poke();
      ::_exit(end.wait() ? 0 : 1);
    }
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(forked.wait());
  auto sub = Subscriber::attach(name_);
  pub.kill();
  EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), 2s));
  end.poke();
}

// The same for a place: the child of a dead engine must not gate the publisher.
TEST_P(Death, ForkedChildOfASubscriberDoesNotKeepItsPlace) {
  Signal forked;
  Signal end;
  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
  model_.publish(pub, 1);
  Child engine([&] {
    auto sub = Subscriber::attach(name_);
    const Lease lease = sub.wait(newest(), kPatience);
    if (::fork() == 0) {
      ::prctl(PR_SET_PDEATHSIG, 0);
      forked.poke();
      ::_exit(end.wait() ? 0 : 1);
    }
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(forked.wait());
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 50ms}));
  engine.kill();
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = 2s}), 2U);
  end.poke();
}

TEST_P(Death, PublisherKilledAnywhereLeavesNothingThatHurts) {
  // Kills at random moments of create, publish and close; whoever comes next must always get
  // through.
  for (int round = 0; round < 40; ++round) {
    Child pub([&] {
      for (;;) {
        Publisher p =
            Publisher::create(name_, model_.layout,
                              {.mode = round % 2 == 0 ? Mode::in_place : Mode::double_buffered});
        for (std::uint64_t v = 1; v <= 3; ++v) model_.publish(p, v);
      }
      return 0;
    });
    Child reader([&] {
      for (;;) {
        try {
          auto sub = Subscriber::attach(name_, {.deadline = kPatience});
          for (std::uint64_t seen = 0;;) {
            const Lease lease = sub.wait(newer_than(seen), kPatience);
            seen = lease.version();
            if (model_.wrong(lease) != 0) return 1;
          }
        } catch (const Error& e) {
          if (e.code() != Errc::PublisherGone && e.code() != Errc::Closed) throw;
        }
      }
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(2000 + round * 731));
    pub.kill();
    Publisher next = Publisher::create(name_, model_.layout, {.deadline = kPatience});
    next.publish(model_.sources(1), {.deadline = kPatience});
    auto sub = Subscriber::attach(name_);
    EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience)), 0U);
    EXPECT_EQ(reader.wait(0ms), -1) << "the reader died or saw a torn version";
  }
  EXPECT_TRUE(shm_objects(name_).empty());
}

TEST_P(Death, GcRemovesLeftoversAndNothingElse) {
  Child dead = trainer(Mode::double_buffered);
  ASSERT_TRUE(ready_.wait());
  const std::string instance = inspect(name_).instance;
  const std::string living_name = unique_name("alive");
  Publisher living = Publisher::create(living_name, model_.layout, {.memory = {GetParam()}});
  model_.publish(living, 1);
  dead.kill();
  EXPECT_EQ(shm_objects(instance).empty(), GetParam() != MemoryKind::host);
  const auto mentions = [&](const std::vector<Leftover>& found, const std::string& text) {
    return std::any_of(found.begin(), found.end(),
                       [&](const Leftover& l) { return l.object.find(text) != std::string::npos; });
  };
  const auto dry = gc(true);
  EXPECT_TRUE(mentions(dry, name_));
  EXPECT_FALSE(mentions(dry, living_name));
  EXPECT_FALSE(shm_objects(name_).empty()) << "a dry run removes nothing";
  EXPECT_TRUE(mentions(gc(false), name_));
  EXPECT_TRUE(shm_objects(name_).empty());
  EXPECT_TRUE(shm_objects(instance).empty());
  auto sub = Subscriber::attach(living_name);
  EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience)), 0U);
}

TEST_P(Death, GcFindsSlotsWithoutAPublication) {
  if (GetParam() != MemoryKind::host) GTEST_SKIP() << "the driver frees what a dead process had";
  Child dead = trainer();
  ASSERT_TRUE(ready_.wait());
  const std::string instance = inspect(name_).instance;
  dead.kill();
  detail::SharedObject::unlink(detail::publication_object(::geteuid(), name_));
  // While somebody else's publication is being created, gc cannot know whose slots these are, and
  // waits.
  for (int i = 0; i < 1000 && !shm_objects(instance).empty(); ++i) {
    (void)gc(false);
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(shm_objects(instance).empty());
}

// What cannot be removed (a directory, or somebody else's in a sticky /dev/shm) was not removed.
TEST(Gc, SaysNothingOfWhatItCannotRemove) {
  const std::string slot = detail::slot_prefix(::geteuid()) + std::string(24, 'd') +
                           std::to_string(10'000'000 + ::getpid() % 10'000'000) + ".0";
  const std::string path = "/dev/shm/" + slot;
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  for (const Leftover& l : gc(false)) EXPECT_NE(l.object, slot);
  EXPECT_EQ(::rmdir(path.c_str()), 0);
}

/// What is logged of places that were somebody's who died, while it lives.
class ReclaimedPlaces {
 public:
  ReclaimedPlaces() {
    set_log_level(LogLevel::warn);
    set_log_callback(keep, this);
  }
  ReclaimedPlaces(const ReclaimedPlaces&) = delete;
  ReclaimedPlaces& operator=(const ReclaimedPlaces&) = delete;
  ~ReclaimedPlaces() {
    set_log_callback(nullptr);
    set_log_level(before_);
  }
  std::vector<std::string> lines;

 private:
  static void keep(LogLevel, std::string_view line, void* self) {
    if (line.find("is free again") != std::string_view::npos)
      static_cast<ReclaimedPlaces*>(self)->lines.emplace_back(line);
  }
  LogLevel before_ = log_level();
};

TEST_P(Death, APlaceGivenBackIsNoDeath) {
  ReclaimedPlaces places;
  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
  {
    auto first = Subscriber::attach(name_);
    auto second = Subscriber::attach(name_);
  }
  auto one = Subscriber::attach(name_);  // and its process's former places are looked at
  auto two = Subscriber::attach(name_);
  model_.publish(pub, 1);
  EXPECT_TRUE(places.lines.empty()) << places.lines.front();
}

TEST_P(Death, WhoseDeathFreedAPlaceIsLogged) {
  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
  model_.publish(pub, 1);
  for (const bool by_publisher : {true, false}) {
    Child reader = holder();
    ASSERT_TRUE(ready_.wait());
    ReclaimedPlaces places;
    const std::string who =
        "place 0 is free again: process " + std::to_string(reader.pid()) + ", which had it, died";
    reader.kill();
    if (by_publisher)
      (void)pub.publish(model_.sources(2), {.deadline = kPatience});
    else
      (void)Subscriber::attach(name_);
    EXPECT_EQ(places.lines, std::vector<std::string>{who});
  }
}

}  // namespace
}  // namespace tenon::test
