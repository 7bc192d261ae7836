#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <support/quiet_fork.hpp>
#include <thread>

namespace tenon::test {
namespace {

using namespace std::chrono_literals;

TEST(Quiet, IsWaitedForUntilAllOtherThreadsSleep) {
  EXPECT_TRUE(wait_for_quiet(0ms)) << "there is no other thread";
  std::atomic<bool> begun{false};
  std::atomic<bool> rests{false};
  std::atomic<bool> ends{false};
  std::thread busy([&] {
    begun.store(true);
    begun.notify_all();
    const auto until = std::chrono::steady_clock::now() + 50ms;
    while (std::chrono::steady_clock::now() < until) {
    }
    rests.store(true);
    rests.notify_all();
    ends.wait(false);
  });
  begun.wait(false);  // what starts a thread may make it sleep
  EXPECT_TRUE(wait_for_quiet(30s));
  EXPECT_TRUE(rests.load());
  ends.store(true);
  ends.notify_all();
  busy.join();
}

TEST(Quiet, IsNotWaitedForForEver) {
  std::atomic<bool> begun{false};
  std::atomic<bool> ends{false};
  std::thread busy([&] {
    begun.store(true);
    begun.notify_all();
    while (!ends.load()) {
    }
  });
  begun.wait(false);
  EXPECT_FALSE(wait_for_quiet(20ms));
  ends.store(true);
  busy.join();
}

// Under AddressSanitizer it takes less than so many children for one to hang, mostly, when fork()
// is called at once.
TEST(Quiet, ChildrenForkedBesideAThreadThatStartsCanAllocate) {
  for (int i = 0; i < 100; ++i) {
    std::atomic<bool> ends{false};
    std::thread starts([&] {
      const std::string some(100, 'x');
      ends.wait(some.empty());
    });
    const ::pid_t child = quiet_fork();
    if (child == 0) {
      ::alarm(20);
      for (int k = 0; k < 1000; ++k)
        for (std::size_t bytes = 16; bytes < 2000; bytes += 100)
          const std::string taken(bytes, 'y');
      ::_exit(0);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    ends.store(true);
    ends.notify_all();
    starts.join();
    if (status != 0) break;
  }
}

}  // namespace
}  // namespace tenon::test
