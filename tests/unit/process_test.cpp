// Who is alive: claims by file lock, process identity, fork.
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <support/support.hpp>
#include <tenon/detail/claim.hpp>
#include <tenon/detail/process.hpp>
#include <thread>

#include "scratch.hpp"

namespace tenon {
namespace {

using namespace std::chrono_literals;
using detail::is_dead;
using detail::is_known_running;
using detail::is_locked_by_other;
using detail::is_running;
using detail::SharedObject;
using detail::start_time_of;
using detail::this_process;
using detail::try_lock_byte;
using detail::unlock_byte;
using format::Process;
using test::Child;
using test::Pipe;
using test::ScratchObject;
using test::Signal;

constexpr std::uint32_t kByte = 7;

// For a child that is to be killed.
[[noreturn]] void sleep_for_good() {
  for (;;) ::pause();
}
// Kills a child and waits until it is a zombie: it has exited and nobody has reaped it.
void make_zombie(const Child& child) {
  child.signal(SIGKILL);
  ::siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT), 0);
}

class LockBytes : public ::testing::Test {
 protected:
  ScratchObject scratch_{4096};
  SharedObject one_ = scratch_.open();
  SharedObject other_ = scratch_.open();
};

TEST_F(LockBytes, ConflictBetweenTwoOpensOfOneProcess) {
  EXPECT_TRUE(try_lock_byte(one_.fd(), kByte));
  EXPECT_FALSE(try_lock_byte(other_.fd(), kByte));
  EXPECT_TRUE(is_locked_by_other(other_.fd(), kByte));
}

TEST_F(LockBytes, AreNotAnothersToTheirOwnHolder) {
  EXPECT_TRUE(try_lock_byte(one_.fd(), kByte));
  EXPECT_FALSE(is_locked_by_other(one_.fd(), kByte));
  EXPECT_TRUE(try_lock_byte(one_.fd(), kByte));  // again: it is its own
}

TEST_F(LockBytes, AreOneByteEach) {
  EXPECT_TRUE(try_lock_byte(one_.fd(), kByte));
  EXPECT_TRUE(try_lock_byte(other_.fd(), kByte - 1));
  EXPECT_TRUE(try_lock_byte(other_.fd(), kByte + 1));
  EXPECT_FALSE(is_locked_by_other(one_.fd(), kByte + 2));
}

TEST_F(LockBytes, ReachBeyondTheEndOfAnObject) {
  const ScratchObject empty(0);
  const SharedObject a = empty.open();
  const SharedObject b = empty.open();
  EXPECT_TRUE(try_lock_byte(a.fd(), format::kPublisherByte));
  EXPECT_FALSE(try_lock_byte(b.fd(), format::kPublisherByte));
}

TEST_F(LockBytes, LookingTakesNothing) {
  EXPECT_FALSE(is_locked_by_other(one_.fd(), kByte));
  EXPECT_FALSE(is_locked_by_other(other_.fd(), kByte));
  EXPECT_TRUE(try_lock_byte(other_.fd(), kByte));
}

TEST_F(LockBytes, AreFreeAfterUnlockingOrClosing) {
  EXPECT_TRUE(try_lock_byte(one_.fd(), kByte));
  unlock_byte(one_.fd(), kByte);
  EXPECT_TRUE(try_lock_byte(other_.fd(), kByte));
  { const SharedObject closed = std::move(other_); }
  EXPECT_TRUE(try_lock_byte(one_.fd(), kByte));
}

TEST_F(LockBytes, AreSharedWithADuplicateAndKeptByIt) {
  ASSERT_TRUE(try_lock_byte(one_.fd(), kByte));
  const int duplicate = ::dup(one_.fd());
  ASSERT_GE(duplicate, 0);
  EXPECT_TRUE(try_lock_byte(duplicate, kByte));
  EXPECT_FALSE(is_locked_by_other(duplicate, kByte));
  { const SharedObject closed = std::move(one_); }
  EXPECT_TRUE(is_locked_by_other(other_.fd(), kByte));
  ::close(duplicate);
  EXPECT_FALSE(is_locked_by_other(other_.fd(), kByte));
}

TEST_F(LockBytes, ThatCannotBeTakenAreAnError) {
  const auto read_only = SharedObject::open(scratch_.name(), SharedObject::Access::read_only);
  ASSERT_TRUE(read_only);
  EXPECT_THROWS(System, "locking byte 7 of a publication",
                (void)try_lock_byte(read_only->fd(), kByte));
  EXPECT_FALSE(is_locked_by_other(read_only->fd(), kByte));  // looking is allowed
}

TEST_F(LockBytes, CountAsTakenWhereNobodyCanLook) { EXPECT_TRUE(is_locked_by_other(-1, kByte)); }

TEST_F(LockBytes, DieWithAKilledProcessEvenWhileItIsAZombie) {
  const Pipe who;
  Child holder([&] {
    const SharedObject mine = scratch_.open();
    if (!try_lock_byte(mine.fd(), kByte)) return 1;
    who.put(this_process());
    sleep_for_good();
  });
  const auto owner = who.take<Process>();
  EXPECT_TRUE(is_locked_by_other(one_.fd(), kByte));
  EXPECT_TRUE(is_running(owner));
  EXPECT_FALSE(is_dead(one_.fd(), kByte, owner));
  make_zombie(holder);
  EXPECT_FALSE(is_locked_by_other(one_.fd(), kByte));
  EXPECT_FALSE(is_running(owner)) << "a zombie does not run";
  EXPECT_TRUE(is_dead(one_.fd(), kByte, owner));
  EXPECT_TRUE(try_lock_byte(one_.fd(), kByte));
  holder.kill();  // reaped
  EXPECT_TRUE(is_dead(other_.fd(), kByte + 1, owner));
}

TEST(Processes, KnowThemselves) {
  const Process me = this_process();
  EXPECT_EQ(me.pid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_GT(me.start_time, 0u);
  EXPECT_GT(me.pid_namespace, 0u);
  EXPECT_EQ(this_process().start_time, me.start_time);
  EXPECT_TRUE(is_running(me));
  EXPECT_TRUE(is_known_running(me));
}

TEST(Processes, AForkedChildIsSomebodyElse) {
  const Process parent = this_process();
  Child child([&] {
    const Process me = this_process();
    return me.pid != parent.pid && me.start_time >= parent.start_time &&
                   me.pid_namespace == parent.pid_namespace && is_running(parent)
               ? 0
               : 1;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(Processes, AreReadWhateverTheirCommandIsCalled) {
  Child child([] {
    const std::uint64_t before = start_time_of(static_cast<std::uint32_t>(::getpid()));
    for (const char* name : {") R 1 2 3 4", "a b) (c", ")))))", "", " "}) {
      ::prctl(PR_SET_NAME, name);
      if (start_time_of(static_cast<std::uint32_t>(::getpid())) != before) return 1;
    }
    return before > 0 ? 0 : 2;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(Processes, ThatNeverWereDoNotRun) {
  for (const std::uint32_t pid : {0U, 0x7FFFFFFFU, 0x80000000U, ~0U}) {
    EXPECT_FALSE(is_running({pid, 0, 1, 1})) << pid;
    EXPECT_FALSE(is_known_running({pid, 0, 1, this_process().pid_namespace})) << pid;
    EXPECT_EQ(start_time_of(pid), 0u) << pid;
  }
}

TEST(Processes, WithAReusedPidDoNotRun) {
  Process me = this_process();
  me.start_time += 1;
  EXPECT_FALSE(is_running(me));
  EXPECT_FALSE(is_known_running(me));
  me.start_time = 0;  // unknown: then the pid is all there is
  EXPECT_TRUE(is_running(me));
}

TEST(Processes, WhosePidIsNowAThreadOfAnotherDoNotRun) {
  std::uint32_t tid = 0;
  std::thread([&tid] {
    tid = static_cast<std::uint32_t>(::syscall(SYS_gettid));
    Process gone = this_process();
    gone.pid = tid;
    gone.start_time += 1;  // the process that had the number before
    EXPECT_FALSE(is_running(gone));
  }).join();
  EXPECT_NE(tid, static_cast<std::uint32_t>(::getpid()));
}

TEST(Processes, RunAsLongAsAnyThreadDoes) {
  const Pipe who;
  Child child([&] {
    std::thread worker([&who] {
      std::this_thread::sleep_for(20ms);  // let the main thread go first
      who.put(this_process());
      sleep_for_good();
    });
    worker.detach();
    ::syscall(SYS_exit, 0);  // ends the main thread alone; /proc now says Z
    return 1;
  });
  EXPECT_TRUE(is_running(who.take<Process>()));
  child.kill();
}

// Its /proc/PID/maps is empty: that is no sign of an exec.
TEST_F(LockBytes, AreOwnedByAProcessWhoseMainThreadHasExited) {
  one_.map(64);
  const Pipe who;
  Child child([&] {
    std::thread worker([&who] {
      std::this_thread::sleep_for(20ms);
      who.put(this_process());
      sleep_for_good();
    });
    worker.detach();
    ::syscall(SYS_exit, 0);
    return 1;
  });
  const auto headless = who.take<Process>();
  EXPECT_FALSE(is_dead(one_.fd(), kByte, headless)) << "it lost its lock, not its life";
  child.kill();
  EXPECT_TRUE(is_dead(one_.fd(), kByte, headless));
}

class Claims : public LockBytes {
 protected:
  Process me_ = this_process();
};

TEST_F(Claims, AreAliveWhileEitherTheLockOrTheOwnerIs) {
  one_.map(64);
  EXPECT_TRUE(is_dead(one_.fd(), kByte, me_)) << "whoever wrote that was here before an exec";
  {
    const detail::Owned owned(one_.fd(), kByte);
    EXPECT_FALSE(is_dead(one_.fd(), kByte, me_)) << "the owner lives, though it lost its lock";
    EXPECT_TRUE(is_dead(one_.fd(), kByte + 1, me_));
  }
  EXPECT_TRUE(is_dead(one_.fd(), kByte, me_));
  const Process gone{me_.pid, 0, me_.start_time + 1, me_.pid_namespace};
  EXPECT_TRUE(is_dead(one_.fd(), kByte, gone));
  ASSERT_TRUE(try_lock_byte(other_.fd(), kByte));
  EXPECT_FALSE(is_dead(one_.fd(), kByte, gone)) << "somebody has the lock";
}

TEST_F(Claims, OfAnotherPidNamespaceAreJudgedByTheLockAlone) {
  const Process elsewhere{me_.pid, 0, me_.start_time, me_.pid_namespace + 1};
  EXPECT_FALSE(is_known_running(elsewhere));
  EXPECT_TRUE(is_dead(one_.fd(), kByte, elsewhere));
  ASSERT_TRUE(try_lock_byte(other_.fd(), kByte));
  EXPECT_FALSE(is_dead(one_.fd(), kByte, elsewhere));
}

TEST_F(Claims, OfNobodyAreDead) {
  EXPECT_TRUE(is_dead(one_.fd(), kByte, {0, 0, 0, me_.pid_namespace}));
}

// A parent that claims through a description of its own or through that of its mapping, and forks a
// child that outlives it. Returns whether the claim outlives the parent too.
bool claim_survives_in_a_child(const ScratchObject& scratch, bool through_mapping) {
  const Pipe child_pid;
  Child parent([&] {
    SharedObject mine = scratch.open();
    mine.map(64);
    const auto claim = detail::Claim::on(mine);
    if (!try_lock_byte(through_mapping ? mine.fd() : claim->fd(), kByte)) return 1;
    const pid_t pid = ::fork();
    if (pid == 0) {
      child_pid.put(::getpid());
      sleep_for_good();
    }
    sleep_for_good();
  });
  const auto grandchild = child_pid.take<pid_t>();
  const SharedObject looker = scratch.open();
  EXPECT_TRUE(is_locked_by_other(looker.fd(), kByte)) << "the parent lives";
  make_zombie(parent);
  const bool survives = is_locked_by_other(looker.fd(), kByte);
  EXPECT_EQ(::kill(grandchild, SIGKILL), 0) << "the grandchild should have lived on";
  return survives;
}

TEST_F(Claims, AreNotKeptByAForkedChildThatOutlivesItsParent) {
  EXPECT_FALSE(claim_survives_in_a_child(scratch_, false));
}

TEST_F(Claims, WouldBeKeptByAForkedChildThroughAMapping) {
  EXPECT_TRUE(claim_survives_in_a_child(scratch_, true));
}

TEST_F(Claims, AreOnlyMadeOnWhatTheNameLeadsTo) {
  const SharedObject object = scratch_.open();
  EXPECT_TRUE(detail::Claim::on(object));
  ASSERT_TRUE(SharedObject::unlink(scratch_.name()));
  EXPECT_FALSE(detail::Claim::on(object)) << "the name leads nowhere";
  const ScratchObject successor(64, scratch_.name());
  EXPECT_FALSE(detail::Claim::on(object)) << "the name leads to another object";
}

TEST(ForkGuards, CloseWhatTheyOpenedInTheChildAndNothingElse) {
  const ScratchObject scratch(64);
  const SharedObject other = scratch.open();
  const int fd = detail::ForkGuard::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const auto is_open = [](int number) { return ::fcntl(number, F_GETFD) >= 0; };
  Child child([&] {
    if (is_open(fd) || !is_open(other.fd())) return 1;
    // The number is free now. Whatever the child opens under it is the child's own.
    const int mine = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    detail::ForkGuard::close(mine);
    Child grandchild([&] { return is_open(mine) ? 0 : 1; });
    return is_open(mine) ? grandchild.wait() : 2;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(is_open(fd));
  detail::ForkGuard::close(fd);
  EXPECT_FALSE(is_open(fd));
  EXPECT_LT(detail::ForkGuard::open("/dev/null/none", O_RDONLY), 0);
}

// Who daemonises closes every descriptor, and the numbers are used again.
TEST(ForkGuards, LeaveAloneWhatHasTheNumberByNow) {
  const int fd = detail::ForkGuard::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::close(fd);
  const int other = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(other, fd);
  const auto is_open = [&] { return ::fcntl(other, F_GETFD) >= 0; };
  Child child([&] { return is_open() ? 0 : 1; });
  EXPECT_EQ(child.wait(), 0);
  detail::ForkGuard::close(fd);
  EXPECT_TRUE(is_open());
  ::close(other);
}

TEST(ForkGuards, MayBeUsedWhileAnotherThreadForks) {
  const auto open_and_close = [] {
    detail::ForkGuard::close(detail::ForkGuard::open("/dev/null", O_RDONLY | O_CLOEXEC));
  };
  std::jthread busy([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) open_and_close();
  });
  for (int i = 0; i < 50; ++i) {
    Child child([&] {
      open_and_close();  // would hang on a mutex copied while it was held
      return 0;
    });
    ASSERT_EQ(child.wait(), 0);
  }
}

// The pid without a system call is that of whoever asks, however it was made.
TEST(OwnPid, IsTheChildsInAForkedChild) {
  EXPECT_EQ(detail::own_pid(), ::getpid());
  Child child([] {
    if (detail::own_pid() != ::getpid()) return 1;
    Child grandchild([] { return detail::own_pid() == ::getpid() ? 0 : 1; });
    return grandchild.wait() == 0 && detail::own_pid() == ::getpid() ? 0 : 1;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(detail::own_pid(), ::getpid());
}

// pthread_atfork does not see it: a process made by the bare system call.
TEST(OwnPid, IsTheChildsAfterABareClone) {
  EXPECT_EQ(detail::own_pid(), ::getpid());
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (pid == 0) ::_exit(detail::own_pid() == static_cast<pid_t>(::syscall(SYS_getpid)) ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace tenon
