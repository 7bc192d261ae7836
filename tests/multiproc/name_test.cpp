// Names: who may have one, and what happens to a second claimant.
#include <support/support.hpp>

namespace tenon::test {
namespace {

TEST(Name, InvalidOnesAreRefusedOnBothSides) {
  const Model model;
  for (const std::string& name : {std::string(), std::string("a/b"), std::string("../x"),
                                  std::string(".x"), std::string(65, 'a'), std::string("a b")}) {
    EXPECT_THROWS(InvalidName, "is not a publication name",
                  (void)Publisher::create(name, model.layout));
    EXPECT_THROWS(InvalidName, "is not a publication name", (void)Subscriber::attach(name));
  }
}

TEST(Name, LiveOneIsRefusedAndItsOwnerNamed) {
  const Model model;
  const std::string name = unique_name("used");
  Signal ready;
  Child owner([&] {
    Publisher pub = Publisher::create(name, model.layout);
    ready.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(ready.wait());
  EXPECT_THROWS(NameInUse, "process " + std::to_string(owner.pid()),
                (void)Publisher::create(name, model.layout));
  owner.kill();
  EXPECT_NO_THROW((void)Publisher::create(name, model.layout));
}

TEST(Name, TwoPublishersOfOneProcessConflictToo) {
  const Model model;
  const std::string name = unique_name("twice");
  Publisher pub = Publisher::create(name, model.layout);
  EXPECT_THROWS(NameInUse, "in use", (void)Publisher::create(name, model.layout));
}

TEST(Name, CleanerAtWorkIsWaitedForAndIsNoLivePublisher) {
  const Model model;
  const std::string name = unique_name("cleaned");
  Child owner([&] {
    Publisher pub = Publisher::create(name, model.layout);
    ::_exit(0);  // leaves everything behind
    return 1;
  });
  ASSERT_EQ(owner.wait(), 0);
  auto cleaner = detail::SharedObject::open(detail::publication_object(::geteuid(), name),
                                            detail::SharedObject::Access::read_write);
  ASSERT_TRUE(detail::try_lock_byte(cleaner->fd(), format::kPublisherByte));
  EXPECT_THROWS(DeadlinePassed, "being created, closed or cleaned",
                (void)Publisher::create(name, model.layout, {.deadline = 50ms}));
  std::jthread finishing([&] {
    std::this_thread::sleep_for(50ms);
    cleaner.reset();
  });
  Publisher pub = Publisher::create(name, model.layout, {.deadline = kPatience});
  ASSERT_EQ(pub.notes().size(), 1U);
  EXPECT_NE(pub.notes()[0].find("which is gone"), std::string::npos) << pub.notes()[0];
}

// A cleaner holds the lock that was the dead publisher's. That makes nobody alive again.
TEST(Name, DeadPublisherStaysDeadWhileACleanerIsAtWork) {
  Model model;
  const std::string name = unique_name("cleaned");
  const Signal ready;
  Child owner([&] {
    Publisher pub = Publisher::create(name, model.layout);
    model.publish(pub, 1);
    ready.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(ready.wait());
  auto sub = Subscriber::attach(name);
  const Lease lease = sub.wait(newest(), kPatience);
  owner.kill();
  auto cleaner = detail::SharedObject::open(detail::publication_object(::geteuid(), name),
                                            detail::SharedObject::Access::read_write);
  ASSERT_TRUE(detail::try_lock_byte(cleaner->fd(), format::kPublisherByte));
  EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
  EXPECT_EQ(lease.publisher(), PublisherStatus::gone);
  EXPECT_EQ(Subscriber::probe(name), Attach::stale);
  EXPECT_THROWS(PublisherGone, "left behind by process",
                (void)Subscriber::attach(name, {.deadline = 50ms}));
  cleaner.reset();
  Publisher next = Publisher::create(name, model.layout);
}

// Trainers fork data loaders at any moment. A child forked while slots are made must not keep the
// name locked when its parent has died.
TEST(Name, ChildForkedDuringCreationDoesNotKeepTheLock) {
  const Model model;
  const std::string name = unique_name("forks");
  const Signal created;
  const Signal end;
  Child owner([&] {
    bool forked = false;
    Publisher pub = Publisher::create(name, model.layout, {.progress = [&](auto, auto) {
                                        if (std::exchange(forked, true) || ::fork() != 0) return;
                                        ::_exit(end.wait() ? 0 : 1);
                                      }});
    created.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(created.wait());
  owner.kill();
  EXPECT_NO_THROW((void)Publisher::create(name, model.layout, {.deadline = 2s}));
  end.poke();
}

TEST(Name, ManyClaimantsOneWinner) {
  const Model model;
  const std::string name = unique_name("race");
  Signal go;
  Signal won;
  std::vector<Child> children;
  for (int i = 0; i < 8; ++i) {
    children.emplace_back([&] {
      if (!go.wait()) return 2;
      try {
        Publisher pub = Publisher::create(name, model.layout);
        won.poke();
        std::this_thread::sleep_for(200ms);
        return 0;
      } catch (const Error& e) {
        return e.code() == Errc::NameInUse ? 1 : 3;
      }
    });
  }
  for (int i = 0; i < 8; ++i) go.poke();
  int winners = 0;
  for (Child& c : children) {
    const int status = c.wait();
    EXPECT_TRUE(status == 0 || status == 1) << status;
    winners += status == 0 ? 1 : 0;
  }
  EXPECT_GE(winners, 1);
  EXPECT_TRUE(shm_objects(name).empty());
}

TEST(Name, ClosedOneIsFreeAtOnce) {
  const Model model;
  const std::string name = unique_name("again");
  for (int i = 0; i < 20; ++i) {
    Publisher pub = Publisher::create(name, model.layout);
    EXPECT_TRUE(pub.notes().empty()) << pub.notes()[0];
  }
  EXPECT_TRUE(shm_objects(name).empty());
}

TEST(Name, ClosedPublicationsLeaveNoSlots) {
  const Model model;
  const std::string name = unique_name("slots");
  std::string instance;
  {
    Publisher pub = Publisher::create(name, model.layout, {.mode = Mode::double_buffered});
    instance = inspect(name).instance;
    EXPECT_EQ(shm_objects(instance).size(), 1U);
    pub.close();
    EXPECT_TRUE(shm_objects(instance).empty()) << "though the publisher object still lives";
  }
}

TEST(Name, AbsentOneIsSaidAtTheDeadline) {
  EXPECT_THROWS(NotFound, "there is no /dev/shm/",
                (void)Subscriber::attach(unique_name("none"), {.deadline = 10ms}));
}

TEST(Name, FailedCreationLeavesNothingBehind) {
  const std::string name = unique_name("big");
  const std::vector<Parameter> huge{{"w", Dtype::u8, {1ULL << 45U}}};
  EXPECT_THROWS(OutOfSpace, "MiB of shared memory are needed",
                (void)Publisher::create(name, plan(huge)));
  EXPECT_TRUE(shm_objects(name).empty());
}

TEST(Name, InspectAndListTakeNoPlace) {
  Model model;
  const std::string name = unique_name("look");
  Publisher pub =
      Publisher::create(name, model.layout, {.mode = Mode::double_buffered, .label = "tr\nainer"});
  model.publish(pub, 1);
  auto sub = Subscriber::attach(name, {.label = "engine-7"});
  const Lease lease = sub.wait(newest(), kPatience);
  const PublicationInfo info = inspect(name);
  EXPECT_EQ(info.state, Attach::ready);
  EXPECT_EQ(info.version, 1U);
  EXPECT_EQ(info.pid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(info.label, "tr?ainer") << "what others wrote is shown as plain text";
  EXPECT_EQ(info.mode, Mode::double_buffered);
  EXPECT_EQ(info.slots, 2 * model.layout.bucket_count());
  ASSERT_TRUE(info.layout);
  EXPECT_EQ(info.layout->size(), model.layout.size());
  ASSERT_EQ(info.subscribers.size(), 1U);
  EXPECT_EQ(info.subscribers[0].label, "engine-7");
  EXPECT_EQ(info.subscribers[0].holds, 1U);
  EXPECT_EQ(pub.subscribers().size(), 1U);
  const auto all = list();
  EXPECT_TRUE(std::any_of(all.begin(), all.end(),
                          [&](const PublicationInfo& p) { return p.name == name; }));
  EXPECT_EQ(inspect(unique_name("nobody")).state, Attach::absent);
}

}  // namespace
}  // namespace tenon::test
