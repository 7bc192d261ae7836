// What Gloo's engine promises beyond the contract that it has with the other one.
#include <arpa/inet.h>
#include <gloo/transport/tcp/address.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <relay/no_sigpipe.hpp>

#include "contract.hpp"

namespace tenon::test {
namespace {

using relay::make_gloo_engine;

double seconds_of(const std::function<void()>& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(GlooEngine, AMembershipThatCannotBeIsRefused) {
  SharedStore store;
  const auto make = [](const Membership& m) { (void)make_gloo_engine(m, soon()); };
  EXPECT_THROWS(InvalidArgument, "rank 2 of a group of 2", make({2, 2, "127.0.0.1", &store}));
  EXPECT_THROWS(InvalidArgument, "rank -1", make({-1, 2, "127.0.0.1", &store}));
  EXPECT_THROWS(InvalidArgument, "group of 0", make({0, 0, "127.0.0.1", &store}));
  EXPECT_THROWS(InvalidArgument, "store", make({0, 2, "127.0.0.1", nullptr}));
}

TEST(GlooEngine, TheAddressMustBeANumericOneOfThisNode) {
  SharedStore store;
  const auto make = [&](const char* address) {
    (void)make_gloo_engine({0, 2, address, &store}, soon());
  };
  EXPECT_THROWS(InvalidArgument, "'no.such.host'", make("no.such.host"));
  EXPECT_THROWS(InvalidArgument, "''", make(""));
  EXPECT_THROWS(InvalidArgument, "192.0.2.1", make("192.0.2.1"));  // of documentation
}

TEST(GlooEngine, ConnectsOverIpv6) {
  if (!std::ifstream("/proc/net/if_inet6").good()) GTEST_SKIP() << "no IPv6 here";
  Group group(2, [](Membership membership) {
    membership.address = "::1";
    const auto engine = make_gloo_engine(membership, soon());
    const Bytes data(MemoryKind::host, 100);
    if (membership.rank == 0) data.upload(content(100, 0, 0));
    engine->broadcast(data.data(), 100, 0, soon());
    EXPECT_TRUE(data.download() == content(100, 0, 0));
  });
  group.expect_success();
}

TEST(GlooEngine, APeerThatNeverComesMeansDeadlinePassed) {
  SharedStore store;
  const double took = seconds_of([&] {
    EXPECT_THROWS(DeadlinePassed, "gloo/1",
                  (void)make_gloo_engine({0, 2, "127.0.0.1", &store}, Deadline(300ms)));
  });
  EXPECT_GE(took, 0.3);
  EXPECT_LT(took, 2.3);
}

/// Where a peer says that it is.
std::string address_of(const char* host, std::uint16_t port) {
  ::sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  EXPECT_EQ(::inet_pton(AF_INET, host, &address.sin_addr), 1);
  const auto bytes =
      gloo::transport::tcp::Address(reinterpret_cast<::sockaddr*>(&address), sizeof(address))
          .bytes();
  return {bytes.begin(), bytes.end()};
}

TEST(GlooEngine, APeerThatComesAndNeverConnectsIsBoundedByTheDeadline) {
  SharedStore store;
  store.set("gloo/1", "here");
  store.set("gloo/1/0", address_of("127.255.255.1", 9));  // the larger address is to connect
  const double took = seconds_of([&] {
    const std::string what = thrown([&] {
      (void)make_gloo_engine({0, 2, "127.0.0.1", &store}, Deadline(1s));
    });
    EXPECT_NE(what.find("connecting a group"), std::string::npos) << what;
  });
  EXPECT_GE(took, 0.5);
  EXPECT_LT(took, 3);  // Gloo multiplies its timeout by 5
}

TEST(GlooEngine, ADeadAddressMeansPeerGone) {
  SharedStore store;
  store.set("gloo/1", "here");
  store.set("gloo/1/0", address_of("127.0.0.1", 1));  // nobody listens there; the smaller address
  EXPECT_THROWS(PeerGone, "connecting a group",
                (void)make_gloo_engine({0, 2, "127.0.0.2", &store}, soon()));
}

TEST(GlooEngine, RanksThatDisagreeAboutSizesPassTheirDeadline) {
  for (const std::size_t at_1 : {99, 101}) {
    Group group(2, [&](const Membership& membership) {
      const auto engine = make_gloo_engine(membership, soon());
      const Bytes data(MemoryKind::host, 200);
      const std::size_t size = membership.rank == 1 ? at_1 : 100;
      const std::string what =
          thrown([&] { engine->broadcast(data.data(), size, 0, Deadline(300ms)); });
      EXPECT_TRUE(what.starts_with("DeadlinePassed") || what.starts_with("PeerGone")) << what;
    });
    group.expect_success();
  }
}

TEST(GlooEngine, EachOperationSendsNoMoreThanItMust) {
  Group group(3, [](const Membership& membership) {
    const auto engine = make_gloo_engine(membership, soon());
    constexpr std::size_t kBytes = std::size_t{3} << 20U;
    const Bytes data(MemoryKind::host, 3 * kBytes);
    auto sent = [&, before = std::uint64_t{0}]() mutable {
      return engine->bytes_sent() - std::exchange(before, engine->bytes_sent());
    };
    engine->broadcast(data.data(), kBytes, 1, soon());
    EXPECT_EQ(sent(), membership.rank == 0 ? 0 : kBytes);  // 1 -> 2 -> 0
    engine->all_gather(data.data(), data.data(), kBytes, soon());
    EXPECT_EQ(sent(), 2 * kBytes);
    engine->reduce_scatter(data.data(), data.data() + membership.rank * kBytes, kBytes / 4,
                           Dtype::f32, ReduceOp::sum, soon());
    EXPECT_EQ(sent(), 2 * kBytes);
    engine->all_reduce(data.data(), kBytes / 4, Dtype::f32, ReduceOp::sum, soon());
    EXPECT_EQ(sent(), 4 * (kBytes / 3));
  });
  group.expect_success();
}

TEST(GlooEngine, SumsAreInOrderOfRankWhereverTheyAreMade) {
  Group group(3, [](const Membership& membership) {
    const auto engine = make_gloo_engine(membership, soon());
    const std::array<double, 3> values{0x1p24, 1, -0x1p24};  // the 1 is lost beside its neighbours
    const double own = values[static_cast<std::size_t>(membership.rank)];
    const Bytes data(MemoryKind::host, 12);
    data.upload(encoded(Dtype::f32, {own, own, own}));
    const Bytes sum(MemoryKind::host, 4);
    engine->reduce_scatter(data.data(), sum.data(), 1, Dtype::f32, ReduceOp::sum, soon());
    EXPECT_TRUE(sum.download() == encoded(Dtype::f32, {0}));
  });
  group.expect_success();
}

TEST(GlooEngine, WhenOneRankFailsAWaitingOneNotices) {
  const Signal noticed;
  Group group(2, [&](const Membership& membership) {
    const auto engine = make_gloo_engine(membership, soon());
    const Bytes data(MemoryKind::host, 100);
    if (membership.rank == 1) {
      EXPECT_THROWS(PeerGone, "receiving", engine->receive(data.data(), 100, 0, soon()));
      noticed.poke();
      return;
    }
    EXPECT_THROWS(DeadlinePassed, "", engine->receive(data.data(), 100, 1, Deadline(50ms)));
    EXPECT_TRUE(noticed.wait());  // the engine lives on
  });
  group.expect_success();
}

TEST(GlooEngine, WhenOneRankIsAbortedAWaitingOneNotices) {
  const Signal noticed;
  Group group(2, [&](const Membership& membership) {
    const auto engine = make_gloo_engine(membership, soon());
    const Bytes data(MemoryKind::host, 100);
    if (membership.rank == 1) {
      EXPECT_THROWS(PeerGone, "receiving", engine->receive(data.data(), 100, 0, soon()));
      noticed.poke();
      return;
    }
    std::thread other([&] {
      std::this_thread::sleep_for(50ms);
      engine->abort();
    });
    EXPECT_THROWS(Aborted, "", engine->receive(data.data(), 100, 1, soon()));
    other.join();
    EXPECT_TRUE(noticed.wait());
  });
  group.expect_success();
}

/// Bit 0 is signal 1.
std::uint64_t blocked_signals(const std::string& task) {
  std::ifstream status("/proc/self/task/" + task + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("SigBlk:")) return std::stoull(line.substr(7), nullptr, 16);
  }
  return 0;
}

TEST(GlooEngine, ItsThreadTakesNoSigpipeAndThisOneIsAsBefore) {
  constexpr std::uint64_t kPipe = std::uint64_t{1} << (SIGPIPE - 1);
  constexpr std::uint64_t kUser = std::uint64_t{1} << (SIGUSR1 - 1);
  const std::string self = std::to_string(::getpid());
  ASSERT_EQ(blocked_signals(self) & kPipe, 0U);
  const auto engine = make_gloo_engine({}, soon());
  EXPECT_EQ(blocked_signals(self) & kPipe, 0U);
  std::size_t others = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    const std::string id = task.path().filename();
    if (id == self) continue;
    ++others;
    // A thread begins with all signals blocked, by the C library.
    const Deadline deadline = soon();
    while ((blocked_signals(id) & kUser) != 0 && !deadline.passed())
      std::this_thread::sleep_for(1ms);
    EXPECT_EQ(blocked_signals(id) & (kPipe | kUser), kPipe) << id;
  }
  EXPECT_GE(others, 1U);
}

/// Writes to a pipe that nobody reads.
void break_a_pipe() {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  ::close(fds[0]);
  EXPECT_EQ(::write(fds[1], "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  ::close(fds[1]);
}

bool sigpipe_is_pending() {
  ::sigset_t set;
  ::sigpending(&set);
  return ::sigismember(&set, SIGPIPE) == 1;
}

TEST(NoSigpipe, EndsNoProcessAndLeavesNothingPending) {
  Child child([] {
    {
      const relay::NoSigpipe quiet;
      break_a_pipe();
      EXPECT_TRUE(sigpipe_is_pending());
    }
    EXPECT_FALSE(sigpipe_is_pending());
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  Child loud([] {
    break_a_pipe();
    return 0;
  });
  EXPECT_EQ(loud.wait(), 1000 + SIGPIPE);  // as it is without
}

TEST(NoSigpipe, TheProgramsOwnPendingSignalStaysPending) {
  Child child([] {
    ::sigset_t pipe;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    break_a_pipe();
    {
      const relay::NoSigpipe quiet;
      break_a_pipe();
    }
    EXPECT_TRUE(sigpipe_is_pending());
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
}

}  // namespace
}  // namespace tenon::test
