// Who is alive, and how soon the others know: stopped, reused pids, exec, pid namespaces, users.
// What a kill does is in death_test.cpp, and at which step it may come in crash_test.cpp.
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <support/namespaces.hpp>
#include <support/support.hpp>

namespace tenon::test {
namespace {

class Liveness : public ::testing::TestWithParam<MemoryKind> {
 protected:
  [[nodiscard]] Publisher create() const {
    return Publisher::create(name_, model_.layout, {.memory = {GetParam()}});
  }
  /// Publishes version 1, and goes on with one more for each poke of `next_`.
  int publish_on_demand() {
    Publisher pub = create();
    std::uint64_t v = 0;
    do {
      model_.publish(pub, ++v, {.deadline = kPatience});
      ready_.poke();
    } while (next_.wait());
    return 1;
  }
  /// Holds the newest version until it is killed.
  int hold() {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience, .label = "holder"});
    const Lease lease = sub.wait(newest(), kPatience);
    ready_.poke();
    for (;;) ::pause();
    return 1;
  }
  std::string name_ = unique_name("live");
  Node node_;
  Model model_{GetParam()};
  Signal ready_;
  Signal next_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, Liveness, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// The child of `body` is process 1 of a pid namespace of its own; false where that may not be made.
bool enter_pid_namespace() { return ::unshare(CLONE_NEWPID) == 0; }
// With a /proc of that namespace; from within it.
bool mount_proc() {
  return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("proc", "/proc", "proc", 0, nullptr) == 0;
}
bool may_mount_proc() {
  return Child([] {
           if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) return 1;
           return Child([] {
                    return mount_proc() && ::access("/proc/sys/kernel/ns_last_pid", W_OK) == 0 ? 0
                                                                                               : 1;
                  })
               .wait();
         }).wait() == 0;
}
#define SKIP_WITHOUT_PID_NAMESPACES()                                                    \
  if (Child([] { return enter_pid_namespace() ? 0 : 1; }).wait() != 0) {                 \
    SKIP_FOR_WANT_OF_NAMESPACES("a pid namespace may not be made here (CAP_SYS_ADMIN)"); \
  }                                                                                      \
  static_assert(true, "a semicolon follows")

TEST_P(Liveness, StoppedPublisherIsSlowNotDead) {
  Child pub([&] { return publish_on_demand(); });
  ASSERT_TRUE(ready_.wait());
  auto sub = Subscriber::attach(name_);
  {
    const Lease lease = sub.wait(newest(), kPatience);
    pub.signal(SIGSTOP);
    EXPECT_THROWS(DeadlinePassed, "no version newer than 1", (void)sub.wait(newer_than(1), 350ms));
    EXPECT_EQ(lease.publisher(), PublisherStatus::alive);
    EXPECT_EQ(Subscriber::probe(name_), Attach::ready);
    EXPECT_THROWS(NameInUse, "process " + std::to_string(pub.pid()), (void)create());
  }
  next_.poke();
  pub.signal(SIGCONT);
  EXPECT_EQ(model_.wrong(sub.wait(newer_than(1), kPatience), 2), 0U);
}

TEST_P(Liveness, StoppedSubscriberThatHoldsNothingStopsNobody) {
  Publisher pub = create();
  model_.publish(pub, 1);
  Child reader([&] {
    auto sub = Subscriber::attach(name_);
    (void)sub.wait(newest(), kPatience);
    ready_.poke();
    return model_.wrong(sub.wait(newer_than(2), kPatience), 3) == 0 ? 0 : 1;
  });
  ASSERT_TRUE(ready_.wait());
  reader.signal(SIGSTOP);
  model_.publish(pub, 2, {.deadline = kPatience});
  model_.publish(pub, 3, {.deadline = kPatience});
  EXPECT_EQ(pub.subscribers().size(), 1U) << "its place is its own";
  reader.signal(SIGCONT);
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(Liveness, PublisherThatBecomesAnotherProgramIsGone) {
  Child pub([&] {
    Publisher p = create();
    model_.publish(p, 1);
    ready_.poke();
    if (!next_.wait()) return 1;
    ::execl("/bin/sleep", "sleep", "1000", nullptr);
    return 2;
  });
  ASSERT_TRUE(ready_.wait());
  auto sub = Subscriber::attach(name_);
  const Lease lease = sub.wait(newest(), kPatience);
  next_.poke();
  EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
  EXPECT_EQ(lease.publisher(), PublisherStatus::gone);
  EXPECT_EQ(pub.wait(0ms), -1) << "the process itself runs on";
  Publisher next = create();
}

TEST_P(Liveness, SubscriberThatBecomesAnotherProgramHoldsNothing) {
  Publisher pub = create();
  model_.publish(pub, 1);
  Child reader([&] {
    auto sub = Subscriber::attach(name_);
    const Lease lease = sub.wait(newest(), kPatience);
    ready_.poke();
    ::execl("/bin/sleep", "sleep", "1000", nullptr);
    return 2;
  });
  ASSERT_TRUE(ready_.wait());
  model_.publish(pub, 2, {.deadline = kPatience});
  EXPECT_TRUE(pub.subscribers().empty());
  EXPECT_EQ(reader.wait(0ms), -1) << "the process itself runs on";
}

// This program again, as the one test named. It finds the publication's name in the environment.
constexpr const char* kNameAfterExec = "TENON_TEST_AFTER_EXEC";
void become_this_program_again(const std::string& name, const char* test) {
  ::setenv(kNameAfterExec, name.c_str(), 1);
  const std::string filter = std::string("--gtest_filter=") + test;
  ::execl("/proc/self/exe", "liveness_test", filter.c_str(), "--gtest_also_run_disabled_tests",
          nullptr);
}

// The new program maps the segment that the old one had mapped, under the same pid.
TEST(AfterExec, ASubscriberThatAttachesAgainDoesNotHoldWhatItHeldBefore) {
  Model model;
  const std::string name = unique_name("exec");
  Publisher pub = Publisher::create(name, model.layout);
  model.publish(pub, 1);
  Signal held;
  Child reader([&] {
    auto first = Subscriber::attach(name);
    auto second = Subscriber::attach(name);
    const Lease one = first.wait(newest(), kPatience);
    const Lease two = second.wait(newest(), kPatience);
    held.poke();
    become_this_program_again(name, "*DISABLED_Attach");
    return 2;
  });
  ASSERT_TRUE(held.wait());
  const detail::Deadline deadline(kPatience);
  while (pub.subscribers().size() != 1 || pub.subscribers()[0].label != "again") {
    ASSERT_FALSE(deadline.passed()) << pub.subscribers().size();
    std::this_thread::sleep_for(1ms);
  }
  model.publish(pub, 2, {.deadline = kPatience});
  EXPECT_EQ(reader.wait(0ms), -1) << "it runs on";
}
TEST(AfterExec, DISABLED_Attach) {
  const auto sub = Subscriber::attach(std::getenv(kNameAfterExec), {.label = "again"});
  for (;;) ::pause();
}

TEST(AfterExec, APublisherTakesItsFormerPublicationForDead) {
  Model model;
  const std::string name = unique_name("exec");
  Child pub([&] {
    Publisher p = Publisher::create(name, model.layout);
    model.publish(p, 1);
    become_this_program_again(name, "*DISABLED_Publish");
    return 2;
  });
  EXPECT_EQ(pub.wait(), 0);
}
TEST(AfterExec, DISABLED_Publish) {
  const std::string name = std::getenv(kNameAfterExec);
  EXPECT_EQ(Subscriber::probe(name), Attach::stale);
  EXPECT_THROWS(PublisherGone, "start the publisher again",
                (void)Subscriber::attach(name, {.deadline = 50ms}));
  Model model;
  Publisher pub = Publisher::create(name, model.layout);
  model.publish(pub, 1);
  EXPECT_EQ(model.wrong(Subscriber::attach(name).wait(newest(), kPatience), 1), 0U);
}

std::string path_of(const std::string& name) {
  return "/dev/shm/" + detail::publication_object(::geteuid(), name);
}

/// The descriptors of this process that lead to a publication.
std::vector<int> descriptors_of(const std::string& name) {
  std::vector<int> found;
  for (int fd = 3; fd < 256; ++fd) {
    char to[256] = {};
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    if (::readlink(link.c_str(), to, sizeof(to) - 1) > 0 && path_of(name) == to)
      found.push_back(fd);
  }
  return found;
}

// Who loses its descriptors and not its memory may be reading: that is no death.
TEST_P(Liveness, SubscriberThatLosesItsDescriptorsStillHolds) {
  Publisher pub = create();
  model_.publish(pub, 1);
  Child reader([&] {
    auto sub = Subscriber::attach(name_);
    const Lease lease = sub.wait(newest(), kPatience);
    for (const int fd : descriptors_of(name_)) ::close(fd);
    EXPECT_THROWS(ProtocolError, "closed the descriptor", (void)sub.try_acquire());
    ready_.poke();
    for (;;) ::pause();
    return 1;
  });
  ASSERT_TRUE(ready_.wait());
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 250ms}));
}

/// A file whose inode has a given number, on a file system of its own in `folder`; -1 without.
int file_with_inode(::ino_t wanted, const std::string& folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 ||
      ::mount("tenon-test", folder.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, nullptr) != 0)
    return -1;
  for (int i = 0; i < 4096; ++i) {  // a tmpfs numbers its inodes from 1
    const int fd = ::open((folder + "/" + std::to_string(i)).c_str(), O_CREAT | O_RDWR, 0600);
    struct ::stat st {};
    if (::fstat(fd, &st) == 0 && st.st_ino == wanted) return fd;
    ::close(fd);
  }
  return -1;
}

// The number of the lost descriptor leads to a file of another file system, where the inode has the
// number that the publication's has here.
TEST(LostDescriptors, AreNotFoundAgainInAFileOfAnotherFileSystem) {
  if (Child([] { return take_private_shm() ? 0 : 1; }).wait() != 0)
    SKIP_FOR_WANT_OF_NAMESPACES("no mount namespace may be made here");
  Child alone([] {
    if (!take_private_shm()) return 97;
    const Model model;
    const std::string name = unique_name("inode");
    Publisher pub = Publisher::create(name, model.layout);
    Child reader([&] {
      auto sub = Subscriber::attach(name);
      struct ::stat ours {};
      if (::stat(path_of(name).c_str(), &ours) != 0) return 96;
      const int other = file_with_inode(ours.st_ino, "/dev/shm/elsewhere");
      if (other < 0) return 95;
      EXPECT_FALSE(sub.try_acquire()) << "all is well until then";
      for (const int fd : descriptors_of(name)) ::dup2(other, fd);
      EXPECT_THROWS(ProtocolError, "closed the descriptor", (void)sub.try_acquire());
      return 0;
    });
    return reader.wait();
  });
  EXPECT_EQ(alone.wait(), 0);
}

TEST_P(Liveness, DeathIsNoticedAcrossPidNamespaces) {
  SKIP_WITHOUT_PID_NAMESPACES();
  // Each holds the other's attention: the publisher is process 1 of one namespace, a holder that of
  // another, and this process has the usual one. Of their pids nobody knows anything.
  const auto as_process_one = [&](auto body) {
    return Child([body] {
      if (!enter_pid_namespace()) return 97;
      Child one([&] { return ::getpid() == 1 ? body() : 96; });
      return one.wait(std::chrono::hours(1));
    });
  };
  Child pub = as_process_one([&] { return publish_on_demand(); });
  ASSERT_TRUE(ready_.wait());
  auto sub = Subscriber::attach(name_);
  EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience), 1), 0U);
  EXPECT_THROWS(NameInUse, "process 1", (void)create());
  // Not itself process 1: CUDA takes two of the same pid for one process, and refuses the handle.
  Child holder = as_process_one([&] {
    Child two([&] { return hold(); });
    return two.wait(std::chrono::hours(1));
  });
  ASSERT_TRUE(ready_.wait());
  next_.poke();
  EXPECT_FALSE(ready_.wait(300ms)) << "version 2 while version 1 is held";
  holder.kill();
  EXPECT_TRUE(ready_.wait()) << "the dead holder is still waited for";
  EXPECT_EQ(model_.wrong(sub.wait(newer_than(1), kPatience), 2), 0U);
  pub.kill();
  EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(2), kPatience));
  Publisher next = create();
}

/// Kills `victim` and makes a process that sleeps under its very pid. In a pid namespace of its
/// own, with a /proc to match, where nobody else takes the number.
Child give_its_pid_away(Child victim) {
  const pid_t pid = victim.pid();
  victim.kill();
  std::this_thread::sleep_for(30ms);  // start times count in ticks of 10 ms
  for (int attempt = 0;; ++attempt) {
    const int fd = ::open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    const std::string last = std::to_string(pid - 1);
    EXPECT_EQ(::write(fd, last.data(), last.size()), static_cast<ssize_t>(last.size()));
    ::close(fd);
    Child stranger([] {
      for (;;) ::pause();
      return 1;
    });
    if (stranger.pid() == pid || attempt == 100) {
      EXPECT_EQ(stranger.pid(), pid);
      return stranger;
    }
  }
}

TEST_P(Liveness, ProcessThatHasADeadOnesPidIsSomebodyElse) {
  if (!may_mount_proc()) GTEST_SKIP() << "no pid namespace with its own /proc may be made here";
  Child outer([&] {
    if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) return 97;
    Child one([&] {
      if (!mount_proc()) return 96;
      Child pub([&] { return publish_on_demand(); });
      if (!ready_.wait()) return 95;
      auto sub = Subscriber::attach(name_);
      (void)sub.wait(newest(), kPatience);
      const Child stranger = give_its_pid_away(std::move(pub));
      EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), 2s));

      Publisher next = create();
      model_.publish(next, 1);
      Child holder([&] { return hold(); });
      if (!ready_.wait()) return 94;
      const Child other = give_its_pid_away(std::move(holder));
      EXPECT_EQ(model_.publish(next, 2, {.deadline = 2s}), 2U);
      return 0;
    });
    return one.wait();
  });
  EXPECT_EQ(outer.wait(), 0);
}

// Becomes somebody who is neither root nor in any group but `group`.
bool become_nobody(gid_t group) {
  constexpr uid_t kNobody = 65534;
  return ::setgroups(0, nullptr) == 0 && ::setgid(group) == 0 && ::setuid(kNobody) == 0;
}

TEST(Users, OthersAreRefusedUnlessTheGroupMaySubscribe) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  Model model;
  const std::string closed_name = unique_name("own");
  const std::string open_name = unique_name("group");
  const Signal held;
  Publisher closed = Publisher::create(closed_name, model.layout);
  Publisher pub = Publisher::create(open_name, model.layout, {.group = true});
  model.publish(pub, 1);
  Child stranger([&] {
    if (!become_nobody(65534)) return 97;
    EXPECT_THROWS(NotYours, "ermission",
                  (void)Subscriber::attach(closed_name, {.deadline = 0s, .owner = 0}));
    EXPECT_THROWS(NotYours, "ermission",
                  (void)Subscriber::attach(open_name, {.deadline = 0s, .owner = 0}));
    EXPECT_THROWS(NotFound, "there is no /dev/shm/tenon.65534.",
                  (void)Subscriber::attach(open_name, {.deadline = 0s}));
    return 0;
  });
  EXPECT_EQ(stranger.wait(), 0);
  Child colleague([&] {
    if (!become_nobody(::getegid())) return 97;
    auto sub = Subscriber::attach(open_name, {.label = "colleague", .owner = 0});
    const Lease lease = sub.wait(newest(), kPatience);
    if (model.wrong(lease, 1) != 0) return 1;
    held.poke();
    for (;;) ::pause();
    return 1;
  });
  ASSERT_TRUE(held.wait());
  EXPECT_THROWS(DeadlinePassed, "(colleague) holds version 1",
                (void)model.publish(pub, 2, {.deadline = 250ms}));
  colleague.signal(SIGKILL);
  EXPECT_EQ(model.publish(pub, 2, {.deadline = kPatience}), 2U);
}

TEST(Users, SubscriberOfAnotherUserIsToldThatThePublisherDied) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  Model model;
  const std::string name = unique_name("group");
  const Signal ready;
  const Signal waiting;
  Child publisher([&] {
    Publisher pub = Publisher::create(name, model.layout, {.group = true});
    model.publish(pub, 1);
    ready.poke();
    for (;;) ::pause();
    return 1;
  });
  ASSERT_TRUE(ready.wait());
  Child colleague([&] {
    if (!become_nobody(::getegid())) return 97;
    auto sub = Subscriber::attach(name, {.owner = 0});
    waiting.poke();
    EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
    return 0;
  });
  ASSERT_TRUE(waiting.wait());
  publisher.signal(SIGKILL);
  EXPECT_EQ(colleague.wait(), 0);
  publisher.kill();
  Publisher next = Publisher::create(name, model.layout);
}

// --- How soon. What is asserted leaves room for busy machines; the figures are printed. ---

constexpr int kDeaths = 50;
constexpr auto kHang = 5s;

class Delays {
 public:
  explicit Delays(std::string what) : what_(std::move(what)) {}
  Delays(const Delays&) = delete;
  Delays& operator=(const Delays&) = delete;
  ~Delays() {
    std::sort(all_.begin(), all_.end());
    if (all_.empty()) return;
    // Waits look every 100 ms. The rest is left to machines that are busy with other things.
    EXPECT_LT(all_[all_.size() / 2], 400) << what_;
    std::printf("%s: median %.0f ms, max %.0f ms, %zu deaths\n", what_.c_str(),
                all_[all_.size() / 2], all_.back(), all_.size());
  }
  void add(std::uint64_t since) {
    const Duration took(detail::monotonic_ns() - since);
    EXPECT_LT(took, kHang);
    all_.push_back(std::chrono::duration<double, std::milli>(took).count());
  }

 private:
  std::string what_;
  std::vector<double> all_;
};

// At moments that have nothing to do with when the waiter looks.
std::uint64_t kill_at_some_moment(const Child& child, int round) {
  std::this_thread::sleep_for(std::chrono::milliseconds(5 + round * 37 % 100));
  const std::uint64_t now = detail::monotonic_ns();
  child.signal(SIGKILL);
  return now;
}

TEST_P(Liveness, DeathOfAPublisherIsNoticedSoon) {
  Delays delays(std::string("death of a publisher, ") + name_of(GetParam()) + " memory");
  for (int round = 0; round < kDeaths; ++round) {
    Child pub([&] { return publish_on_demand(); });
    ASSERT_TRUE(ready_.wait());
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    std::atomic<std::uint64_t> killed_at{0};
    std::jthread killer([&] { killed_at = kill_at_some_moment(pub, round); });
    EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
    const std::uint64_t at = killed_at;
    delays.add(at == 0 ? detail::monotonic_ns() : at);
  }
}

TEST_P(Liveness, DeathOfAHolderFreesThePublisherSoon) {
  Delays delays(std::string("death of a holder, ") + name_of(GetParam()) + " memory");
  Publisher pub = create();
  model_.publish(pub, 1);
  for (int round = 0; round < kDeaths; ++round) {
    Child holder([&] { return hold(); });
    ASSERT_TRUE(ready_.wait());
    std::atomic<std::uint64_t> killed_at{0};
    std::jthread killer([&] { killed_at = kill_at_some_moment(holder, round); });
    const auto sources = model_.sources(static_cast<std::uint64_t>(round) + 2);
    (void)pub.publish(sources, {.deadline = kPatience});
    const std::uint64_t at = killed_at;
    delays.add(at == 0 ? detail::monotonic_ns() : at);
    (void)pub.wait_current(kPatience);
  }
}

}  // namespace
}  // namespace tenon::test
