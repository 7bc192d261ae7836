// What a terminal shows of long operations.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <cli/progress.hpp>
#include <string>
#include <thread>

namespace tenon::cli {
namespace {

// Standard error is a terminal while this lives.
class Terminal {
 public:
  Terminal() : master_(::posix_openpt(O_RDWR | O_NOCTTY)), before_(::dup(STDERR_FILENO)) {
    EXPECT_EQ(::grantpt(master_), 0);
    EXPECT_EQ(::unlockpt(master_), 0);
    const int slave = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
    EXPECT_EQ(::dup2(slave, STDERR_FILENO), STDERR_FILENO);
    ::close(slave);
  }
  ~Terminal() {
    ::dup2(before_, STDERR_FILENO);
    ::close(before_);
    ::close(master_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  /// All that was written since the last look.
  std::string shown() const {
    std::string text;
    struct ::pollfd ready {
      master_, POLLIN, 0
    };
    while (::poll(&ready, 1, 0) == 1) {
      char more[256];
      const ssize_t n = ::read(master_, more, sizeof(more));
      if (n <= 0) break;
      text.append(more, static_cast<std::size_t>(n));
    }
    return text;
  }

 private:
  int master_;
  int before_;
};

void pass_a_second() { std::this_thread::sleep_for(std::chrono::milliseconds(1010)); }

constexpr const char* kWiped = "\r\033[K";

TEST(Progress, IsShownAfterASecondAndWipedWhenAllIsDone) {
  const Terminal terminal;
  Progress progress("reading", true);
  progress.update(1'000'000, 5'000'000);
  EXPECT_EQ(terminal.shown(), "");
  pass_a_second();
  progress.update(2'000'000, 5'000'000);
  EXPECT_EQ(terminal.shown(), std::string(kWiped) + "tenon: reading 2 MB of 5 MB");
  progress.update(3'000'000, 5'000'000);
  EXPECT_EQ(terminal.shown(), "") << "not more often than people can read";
  progress.update(5'000'000, 5'000'000);
  EXPECT_EQ(terminal.shown(), kWiped);
}

TEST(Progress, IsWipedWhereAnErrorEndsIt) {
  const Terminal terminal;
  {
    Progress progress("reading", true);
    pass_a_second();
    progress.update(1, 2);
    (void)terminal.shown();
  }
  EXPECT_EQ(terminal.shown(), kWiped);
}

TEST(Progress, IsSilentWhenNotWanted) {
  const Terminal terminal;
  {
    Progress progress("reading", false);
    const Waiting waiting("waiting", false);
    pass_a_second();
    progress.update(1, 2);
  }
  EXPECT_EQ(terminal.shown(), "");
}

TEST(Waiting, CountsSecondsUntilItEnds) {
  const Terminal terminal;
  const auto begun = std::chrono::steady_clock::now();
  Waiting waiting("waiting for 'policy'", true);
  std::string shown;
  while (shown.find("(2 s)") == std::string::npos) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // between two looks
    shown += terminal.shown();
  }
  EXPECT_GE(std::chrono::steady_clock::now() - begun, std::chrono::seconds(2));
  EXPECT_EQ(shown.find(std::string(kWiped) + "tenon: waiting for 'policy' (1 s)"), 0U) << shown;
  waiting.end();
  EXPECT_EQ(terminal.shown(), kWiped);
  waiting.end();
  EXPECT_EQ(terminal.shown(), "");
}

TEST(Waiting, GoesOnBelowWhatIsSaidMeanwhile) {
  const Terminal terminal;
  Waiting waiting("waiting", true);
  waiting.complain_above("early");
  EXPECT_EQ(terminal.shown(), "tenon: early\r\n") << "nothing to wipe";
  std::string shown;
  const auto read_until = [&](const char* text) {
    while (shown.find(text) == std::string::npos) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));  // between two looks
      shown += terminal.shown();
    }
  };
  read_until("(1 s)");
  waiting.complain_above("news");
  read_until("(2 s)");
  const std::string line = std::string(kWiped) + "tenon: waiting ";
  EXPECT_EQ(shown, line + "(1 s)" + kWiped + "tenon: news\r\n" + line + "(2 s)");
}

TEST(Waiting, ThatIsShortSaysNothing) {
  const Terminal terminal;
  { const Waiting waiting("waiting", true); }
  EXPECT_EQ(terminal.shown(), "");
}

}  // namespace
}  // namespace tenon::cli
