// Deadlines, and waiting on a shared word. How fast a wake is is never asserted; that it is no
// timeout is, by doing so many that timeouts would not fit into the watchdog.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <stdexcept>
#include <support/support.hpp>
#include <tenon/detail/wait.hpp>
#include <thread>
#include <vector>

namespace tenon {
namespace {

using namespace std::chrono_literals;
using detail::Clock;
using detail::Deadline;
using detail::wait_until;
using test::kPatience;

constexpr auto kNoCheck = [] {};

TEST(Deadlines, OfNoTimeHavePassed) {
  EXPECT_TRUE(Deadline(0ns).passed());
  EXPECT_LE(Deadline(0ns).left(), 0ns);
}

TEST(Deadlines, InTheFutureHaveNot) {
  const Deadline deadline(1h);
  EXPECT_FALSE(deadline.passed());
  EXPECT_GT(deadline.left(), 30min);
  EXPECT_LE(deadline.left(), 1h);
}

TEST(Deadlines, PassWithTime) {
  const Deadline deadline(2ms);
  std::this_thread::sleep_for(3ms);
  EXPECT_TRUE(deadline.passed());
}

TEST(Deadlines, OfHugeDurationsNeverPass) {
  for (const Duration huge : {Duration::max(), Duration::max() - 1ns, Duration::max() / 2}) {
    const Deadline deadline(huge);
    EXPECT_FALSE(deadline.passed());
    EXPECT_GT(deadline.left(), std::chrono::hours(24 * 365));
    std::this_thread::sleep_for(1ms);
    EXPECT_FALSE(deadline.passed());
  }
}

TEST(Deadlines, OfNegativeDurationsHavePassedHoweverHugeTheyAre) {
  for (const Duration past :
       {Duration(-1), Duration(-1s), Duration::min() / 2, Duration::min() + 1ns, Duration::min()}) {
    const Deadline deadline(past);
    EXPECT_TRUE(deadline.passed()) << past.count();
    std::this_thread::sleep_for(1ms);  // time goes on, and what is left must not wrap around
    EXPECT_TRUE(deadline.passed()) << past.count();
    EXPECT_LT(deadline.left(), 0ns) << past.count();
  }
}

TEST(Clocks, TellTheSameTimeInNanoseconds) {
  const std::uint64_t before = detail::monotonic_ns();
  struct ::timespec now {};
  ASSERT_EQ(::clock_gettime(CLOCK_MONOTONIC, &now), 0);
  const auto middle = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
                      static_cast<std::uint64_t>(now.tv_nsec);
  EXPECT_LE(before, middle);
  EXPECT_LE(middle, detail::monotonic_ns());
}

TEST(Spinning, IsForMachinesWithTwoProcessors) {
  ::cpu_set_t all;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
  EXPECT_EQ(detail::effective_spin(30us), CPU_COUNT(&all) < 2 ? 0ns : 30us);
  test::Child alone([&all] {
    ::cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    }
    if (::sched_setaffinity(0, sizeof(one), &one) != 0) return 2;
    return detail::effective_spin(30us) == 0ns ? 0 : 1;
  });
  EXPECT_EQ(alone.wait(), 0);
}

TEST(Spinning, LooksAtLeastOnce) {
  for (const Duration spin : {Duration(-1s), Duration(0), Duration(1)}) {
    int looks = 0;
    auto ready = [&looks] { return ++looks > 0; };
    EXPECT_TRUE(detail::spin_until(spin, ready));
    EXPECT_EQ(looks, 1);
  }
  auto never = [] { return false; };
  EXPECT_FALSE(detail::spin_until(50us, never));
}

class Waiting : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(word_.waiters, 0u) << "somebody still counts as waiting"; }
  format::WakeWord word_{};
};

TEST_F(Waiting, ReturnsAtOnceWhenReady) {
  for (const Duration timeout : {Duration(-1s), Duration(0), Duration(1h), Duration::max()}) {
    int checks = 0;
    EXPECT_TRUE(wait_until(
        word_, Deadline(timeout), 0ns, [] { return true; }, [&] { ++checks; }));
    EXPECT_EQ(checks, 0);
  }
}

TEST_F(Waiting, ReturnsFalseAtTheDeadlineAndNotBefore) {
  const auto begin = Clock::now();
  EXPECT_FALSE(wait_until(
      word_, Deadline(20ms), 0ns, [] { return false; }, kNoCheck));
  EXPECT_GE(Clock::now() - begin, 20ms);
}

TEST_F(Waiting, WithADeadlineThatHasPassedStillLooks) {
  for (const Duration past : {Duration(0), Duration(-1s), Duration(-24h * 365)}) {
    int looks = 0;
    int checks = 0;
    EXPECT_FALSE(wait_until(
        word_, Deadline(past), 30us, [&] { return ++looks < 0; }, [&] { ++checks; }));
    EXPECT_GE(looks, 1);
    EXPECT_EQ(checks, 1);
  }
}

TEST_F(Waiting, SeesWhatChangesWithoutAWakeToo) {
  std::atomic<bool> ready{false};
  std::jthread silent([&] {
    std::this_thread::sleep_for(20ms);
    ready = true;
  });
  EXPECT_TRUE(wait_until(
      word_, Deadline(kPatience), 0ns, [&] { return ready.load(); }, kNoCheck));
}

TEST_F(Waiting, ChecksOnThePeerInEverySlice) {
  int checks = 0;
  EXPECT_FALSE(wait_until(
      word_, Deadline(350ms), 0ns, [] { return false; }, [&] { ++checks; }));
  EXPECT_GE(checks, 3);   // a slice is at most 100 ms...
  EXPECT_LE(checks, 20);  // ...and no busy loop
}

TEST_F(Waiting, EndsWithWhatTheCheckThrows) {
  int checks = 0;
  const auto check = [&] {
    if (++checks == 2) throw Error(Errc::PublisherGone, "process 7 is gone");
  };
  EXPECT_THROWS(PublisherGone, "process 7 is gone",
                (void)wait_until(
                    word_, Deadline(Duration::max()), 0ns, [] { return false; }, check));
  EXPECT_EQ(checks, 2);
}

TEST_F(Waiting, EndsWithWhatReadyThrowsAndIsNoLongerCounted) {
  for (int at = 1; at <= 3; ++at) {  // while spinning, once counted, after a slice
    int looks = 0;
    const auto ready = [&] {
      if (++looks == at) throw std::runtime_error("looked");
      return false;
    };
    EXPECT_THROW((void)wait_until(word_, Deadline(kPatience), 0ns, ready, kNoCheck),
                 std::runtime_error);
    EXPECT_EQ(word_.waiters, 0u);
  }
}

TEST_F(Waiting, CountsItselfWhileItSleeps) {
  std::uint32_t counted = 0;
  int looks = 0;
  (void)wait_until(
      word_, Deadline(0ns), 0ns,
      [&] {
        if (++looks == 2) counted = word_.waiters;  // the re-check between counting and sleeping
        return false;
      },
      kNoCheck);
  EXPECT_EQ(counted, 1u);
}

// Each of these sleeps would be cut at 100 ms, so they could not all be done before the deadline.
TEST_F(Waiting, AWakeBetweenLookingAndSleepingIsNotLost) {
  const Deadline all(kPatience);
  for (int round = 0; round < 1000 && !all.passed(); ++round) {
    int looks = 0;
    const auto ready = [&] {
      if (++looks == 2) detail::wake(word_);  // it has read the word and counted itself
      return looks > 2;
    };
    EXPECT_TRUE(wait_until(word_, all, 0ns, ready, kNoCheck));
  }
  EXPECT_FALSE(all.passed());
}

TEST_F(Waiting, ManyHandoversBetweenThreadsAreWakesAndNotTimeouts) {
  constexpr int kRounds = 1000;  // each a timeout of 100 ms would be 200 s
  const Deadline all(kPatience);
  std::atomic<int> turn{0};
  const auto play = [&](int me) {
    for (int n = me; n < 2 * kRounds; n += 2) {
      if (!wait_until(
              word_, all, 0ns, [&] { return turn.load() == n; }, kNoCheck))
        return;
      turn = n + 1;
      detail::wake(word_);
    }
  };
  {
    const std::jthread other(play, 1);
    play(0);
  }
  EXPECT_EQ(turn, 2 * kRounds);
}

TEST_F(Waiting, OneWakeReachesEverySleeperBeforeItsTime) {
  constexpr std::uint32_t kSleepers = 8;
  std::atomic<std::uint32_t> woken{0};
  {
    std::vector<std::jthread> sleepers;
    for (std::uint32_t i = 0; i < kSleepers; ++i) {
      sleepers.emplace_back([&] {
        const Deadline sleep(kPatience);
        ++word_.waiters;
        detail::futex_wait(word_.word, 0, kPatience);  // not in slices, so only the wake ends it
        --word_.waiters;
        woken += sleep.passed() ? 0U : 1U;
      });
    }
    const Deadline all(kPatience);
    while (word_.waiters < kSleepers && !all.passed()) std::this_thread::yield();
    std::this_thread::sleep_for(50ms);
    detail::wake(word_);
  }
  EXPECT_EQ(woken, kSleepers);
}

TEST_F(Waiting, AWakeWithNobodyThereStillMovesTheWord) {
  detail::wake(word_);
  detail::wake(word_);
  EXPECT_EQ(word_.word, 2u);
}

TEST_F(Waiting, AWordThatMovedIsNotSleptOn) {
  detail::wake(word_);
  const auto begin = Clock::now();
  detail::futex_wait(word_.word, 0, std::chrono::hours(1));  // moved from 0: returns
  EXPECT_LT(Clock::now() - begin, kPatience);
  detail::futex_wait(word_.word, 1, -1h);  // a time that has passed: returns too
}

TEST(WaitingAcrossProcesses, ManyHandoversAreWakesAndNotTimeouts) {
  struct Shared {
    format::WakeWord word{};
    std::atomic<int> turn{0};
  };
  constexpr int kRounds = 500;
  void* memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* shared = new (memory) Shared;
  const auto play = [shared](int me) {
    const Deadline all(kPatience);
    for (int n = me; n < 2 * kRounds; n += 2) {
      const auto mine = [&] { return shared->turn.load() == n; };
      if (!wait_until(shared->word, all, 0ns, mine, kNoCheck)) return 1;
      shared->turn = n + 1;
      detail::wake(shared->word);
    }
    return 0;
  };
  test::Child other([&] { return play(1); });
  EXPECT_EQ(play(0), 0);
  EXPECT_EQ(other.wait(), 0);
  EXPECT_EQ(shared->turn, 2 * kRounds);
  EXPECT_EQ(shared->word.waiters, 0u);
  ::munmap(memory, sizeof(Shared));
}

TEST(WaitingAcrossProcesses, AKilledSleeperCostsASpareWakeAndNothingElse) {
  void* memory = ::mmap(nullptr, sizeof(format::WakeWord), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* word = new (memory) format::WakeWord{};
  test::Child sleeper([word] {
    return wait_until(
               *word, Deadline(kPatience), 0ns, [] { return false; }, kNoCheck)
               ? 1
               : 2;
  });
  const Deadline all(kPatience);
  while (word->waiters == 0 && !all.passed()) std::this_thread::yield();
  sleeper.kill();
  EXPECT_EQ(word->waiters, 1u);  // its count stays
  std::atomic<bool> ready{false};
  std::jthread waker([&] {
    ready = true;
    detail::wake(*word);
  });
  EXPECT_TRUE(wait_until(
      *word, Deadline(kPatience), 0ns, [&] { return ready.load(); }, kNoCheck));
  waker.join();
  ::munmap(memory, sizeof(format::WakeWord));
}

}  // namespace
}  // namespace tenon
