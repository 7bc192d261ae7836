// What every engine promises (lib/relay/engine.hpp) when a member dies, falls silent or is told to
// stop: an error in time, and never a success that is none.
#include <dirent.h>

#include "contract.hpp"

namespace tenon::test {
namespace {

using std::chrono::milliseconds;

/// What waiting threads need on a machine that is busy with other things.
constexpr auto kAtOnce = 2s;

double seconds_of(const std::function<void()>& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
double in_seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

/// One of the operations, always of the same size; rank 0 needs rank 1 for each.
struct Operation {
  const char* name;
  void (*call)(Engine&, std::byte* input, std::byte* output, const Deadline&);
};
constexpr std::size_t kElements = std::size_t{3} << 19U;  // 6 MiB of f32: two pieces
constexpr std::size_t kBytes = kElements * 4;

const std::vector<Operation> kOperations{
    {"broadcast", [](Engine& e, std::byte* in, std::byte*,
                     const Deadline& d) { e.broadcast(in, kBytes, 1, d); }},
    {"broadcast of rank 0", [](Engine& e, std::byte* in, std::byte*,
                               const Deadline& d) { e.broadcast(in, kBytes, 0, d); }},
    {"all_gather", [](Engine& e, std::byte* in, std::byte* out,
                      const Deadline& d) { e.all_gather(in, out, kBytes, d); }},
    {"reduce_scatter",
     [](Engine& e, std::byte* in, std::byte* out, const Deadline& d) {
       e.reduce_scatter(in, out, kElements / 4, Dtype::f32, ReduceOp::sum, d);
     }},
    {"all_reduce",
     [](Engine& e, std::byte* in, std::byte*, const Deadline& d) {
       e.all_reduce(in, kElements, Dtype::f32, ReduceOp::sum, d);
     }},
    {"send and receive",
     [](Engine& e, std::byte* in, std::byte*, const Deadline& d) {
       if (e.rank() != 1) e.send(in, kBytes, 1, d);
       if (e.rank() == 1) e.receive(in, kBytes, 0, d);
     }},
    {"receive and send",
     [](Engine& e, std::byte* in, std::byte*, const Deadline& d) {
       if (e.rank() != 1) e.receive(in, kBytes, 1, d);
       if (e.rank() == 1) e.send(in, kBytes, 0, d);
     }},
};

/// The condition that `action` throws, "nothing" when it throws nothing.
std::string condition(const std::function<void()>& action) {
  const std::string what = thrown(action);
  return what.substr(0, what.find(':'));
}

/// Stands in for the rendezvous, which tells a rank to abort.
class Watcher {
 public:
  Watcher(Engine& engine, const Signal& abort)
      : thread_([&engine, &abort] {
          if (abort.wait(2 * kPatience)) engine.abort();
        }) {}
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;
  ~Watcher() { thread_.join(); }

 private:
  std::thread thread_;
};

class EngineFailure : public EngineContract {
 protected:
  struct Memory {
    Bytes input = bytes(kBytes), output = bytes(kBytes * 4);
    void call(const Operation& operation, Engine& engine, const Deadline& deadline) const {
      operation.call(engine, input.data(), output.data(), deadline);
    }
  };
  /// All ranks broadcast and gather, one after the other, until one throws; what returned is whole.
  /// The condition thrown.
  static std::string work_until_it_fails(Engine& engine, const Duration& timeout) {
    constexpr std::size_t kSize = (std::size_t{5} << 20U) + 1;
    const auto whole = [](const Bytes& data, std::size_t from, std::size_t i) {
      return Bytes::get(GetParam().memory, data.data() + from, kSize) ==
             std::vector(kSize, static_cast<std::byte>(i));
    };
    const Bytes one(GetParam().memory, kSize);
    const Bytes all(GetParam().memory, kSize * static_cast<std::size_t>(engine.size()));
    return condition([&] {
      for (std::size_t i = 1;; ++i) {
        const int root = static_cast<int>(i) % engine.size();
        one.upload(std::vector(kSize, static_cast<std::byte>(engine.rank() == root ? i : ~i)));
        engine.broadcast(one.data(), kSize, root, Deadline(timeout));
        EXPECT_TRUE(whole(one, 0, i)) << "a broadcast returned with bytes missing";
        engine.all_gather(one.data(), all.data(), kSize, Deadline(timeout));
        for (int rank = 0; rank < engine.size(); ++rank)
          EXPECT_TRUE(whole(all, static_cast<std::size_t>(rank) * kSize, i)) << "of " << rank;
      }
    });
  }
  /// After a failure: every operation throws that condition, without waiting.
  static void expect_no_more(Engine& engine, const Memory& memory, const std::string& expected) {
    for (const Operation& operation : kOperations) {
      const double took = seconds_of([&] {
        EXPECT_EQ(condition([&] { memory.call(operation, engine, soon()); }), expected)
            << operation.name;
      });
      EXPECT_LT(took, in_seconds(kAtOnce)) << operation.name;
    }
  }
};

TEST_P(EngineFailure, AbortEndsAnOperationThatWaitsForAPeer) {
  for (const Operation& operation : kOperations) {
    SCOPED_TRACE(operation.name);
    const Node node;
    const Signal done;
    Group group(2, [&](const Membership& membership) {
      const auto engine = GetParam().make(membership, soon());
      if (membership.rank == 1) {  // takes no part
        EXPECT_TRUE(done.wait());
        return;
      }
      const Memory memory;
      Deadline aborting(kPatience);
      std::thread other([&] {
        std::this_thread::sleep_for(30ms);
        aborting = Deadline(kAtOnce);
        engine->abort();
      });
      EXPECT_EQ(condition([&] { memory.call(operation, *engine, Deadline(5s)); }), "Aborted");
      other.join();
      EXPECT_FALSE(aborting.passed());
      expect_no_more(*engine, memory, "Aborted");
      done.poke();
    });
    group.expect_success();
  }
}

TEST_P(EngineFailure, AbortBeforeAnOperationEndsItToo) {
  run_group(2, [](Engine& engine) {
    engine.abort();
    engine.abort();
    expect_no_more(engine, Memory(), "Aborted");
  });
  run_group(1, [](Engine& engine) {  // which would have nobody to wait for
    engine.abort();
    const Bytes data = bytes(8);
    EXPECT_THROWS(Aborted, "", engine.broadcast(data.data(), 8, 0, soon()));
    EXPECT_THROWS(Aborted, "", engine.all_gather(data.data(), data.data(), 8, soon()));
  });
}

TEST_P(EngineFailure, AbortAtAnyMomentNeverLooksLikeSuccess) {
  for (int round = 0; round < 8; ++round) {
    run_group(3, [&](Engine& engine) {
      std::thread other([&] {
        std::this_thread::sleep_for(milliseconds(10 + 13 * round + engine.rank()));
        engine.abort();
      });
      const std::string end = work_until_it_fails(engine, kPatience);
      EXPECT_TRUE(end == "Aborted" || end == "PeerGone") << end;
      other.join();
    });
  }
}

TEST_P(EngineFailure, AfterAKilledPeerTheSurvivorsAbortAndMakeANewGroup) {
  for (int round = 0; round < 3; ++round) {
    const Node node;
    const Signal connected;
    std::array<Signal, 2> lost;
    Group group(3, [&](const Membership& membership) {
      auto engine = GetParam().make(membership, soon());
      connected.poke();
      if (membership.rank == 2) {
        work_until_it_fails(*engine, kPatience);
        ::pause();  // until it is killed
      }
      {
        const Watcher watcher(*engine, lost[static_cast<std::size_t>(membership.rank)]);
        const std::string end = work_until_it_fails(*engine, kPatience);
        EXPECT_TRUE(end == "Aborted" || end == "PeerGone") << end;
      }
      engine.reset();
      GroupStore store(*membership.store, 2);
      engine = GetParam().make({.rank = membership.rank, .size = 2, .store = &store}, soon());
      const Bytes data = bytes(content(5000, membership.rank, 7));
      engine->broadcast(data.data(), 5000, 1, soon());
      EXPECT_TRUE(data.download() == content(5000, 1, 7));
    });
    for (int rank = 0; rank < 3; ++rank) ASSERT_TRUE(connected.wait());
    std::this_thread::sleep_for(milliseconds(20 + 30 * round));
    group[2].kill();
    const double took = seconds_of([&] {
      for (const Signal& one : lost) one.poke();
      EXPECT_EQ(group[0].wait(), 0);
      EXPECT_EQ(group[1].wait(), 0);
    });
    EXPECT_LT(took, 5);  // of a patience of 30
  }
}

TEST_P(EngineFailure, AKilledPeerIsNoticedByTheDeadlineWhenNobodyAborts) {
  constexpr auto kTimeout = 1500ms;
  const Node node;
  const Signal connected;
  Group group(3, [&](const Membership& membership) {
    const auto engine = GetParam().make(membership, soon());
    connected.poke();
    const std::string end = work_until_it_fails(*engine, kTimeout);
    EXPECT_TRUE(end == "DeadlinePassed" || end == "PeerGone") << end;
    expect_no_more(*engine, Memory(), end);
  });
  for (int rank = 0; rank < 3; ++rank) ASSERT_TRUE(connected.wait());
  std::this_thread::sleep_for(50ms);
  group[1].kill();
  const double took = seconds_of([&] {
    EXPECT_EQ(group[0].wait(), 0);
    EXPECT_EQ(group[2].wait(), 0);
  });
  EXPECT_LT(took, in_seconds(kTimeout + kAtOnce));
}

TEST_P(EngineFailure, AStoppedPeerMeansDeadlinePassedWhenItHasPassed) {
  for (const Operation& operation : kOperations) {
    SCOPED_TRACE(operation.name);
    const Node node;
    const Signal connected, stopped;
    Group group(2, [&](const Membership& membership) {
      const auto engine = GetParam().make(membership, soon());
      connected.poke();
      EXPECT_TRUE(stopped.wait());
      const Memory memory;
      const double took = seconds_of([&] {
        EXPECT_EQ(condition([&] { memory.call(operation, *engine, Deadline(200ms)); }),
                  "DeadlinePassed");
      });
      EXPECT_GE(took, 0.2);
      EXPECT_LT(took, in_seconds(200ms + kAtOnce));
      expect_no_more(*engine, memory, "DeadlinePassed");
    });
    ASSERT_TRUE(connected.wait());
    ASSERT_TRUE(connected.wait());
    group[1].signal(SIGSTOP);
    stopped.poke();
    EXPECT_EQ(group[0].wait(), 0);
  }
}

TEST_P(EngineFailure, AnEngineEndsWhileItsPeersAreDeadOrStopped) {
  for (const int how : {SIGKILL, SIGSTOP}) {
    const Node node;
    const Signal connected, gone;
    Group group(3, [&](const Membership& membership) {
      auto engine = GetParam().make(membership, soon());
      connected.poke();
      EXPECT_TRUE(gone.wait());
      EXPECT_LT(seconds_of([&] { engine.reset(); }), in_seconds(kAtOnce));
    });
    for (int rank = 0; rank < 3; ++rank) ASSERT_TRUE(connected.wait());
    group[1].signal(how);
    group[2].signal(how);
    gone.poke();
    EXPECT_EQ(group[0].wait(), 0);
  }
}

std::size_t entries(const char* directory) {
  std::size_t count = 0;
  DIR* dir = ::opendir(directory);
  while (::readdir(dir) != nullptr) ++count;
  ::closedir(dir);
  return count;
}

TEST_P(EngineFailure, FiftyGroupsLeaveNoThreadsAndNoFiles) {
  const Node node;
  Group group(2, [](const Membership& membership) {
    std::size_t threads = 0, files = 0;
    for (int i = 0; i < 50; ++i) {
      GroupStore store(*membership.store, i);
      {
        const auto engine = GetParam().make({membership.rank, 2, "127.0.0.1", &store}, soon());
        const Bytes data = bytes(1000);
        engine->broadcast(data.data(), 1000, 0, soon());
        if (i % 2 == 1) {  // every other one ends badly
          engine->abort();
          EXPECT_EQ(condition([&] { engine->broadcast(data.data(), 1000, 0, soon()); }), "Aborted");
        }
      }
      if (i == 1) {  // what is made once is there by now
        threads = entries("/proc/self/task");
        files = entries("/proc/self/fd");
      }
    }
    // The thread of a simulated stream ends a moment after the stream.
    const Deadline ended(kAtOnce);
    while (entries("/proc/self/task") > threads && !ended.passed())
      std::this_thread::sleep_for(1ms);
    EXPECT_LE(entries("/proc/self/task"), threads);
    EXPECT_LE(entries("/proc/self/fd"), files);
  });
  group.expect_success();
}

INSTANTIATE_TEST_SUITE_P(Of, EngineFailure, ::testing::ValuesIn(engine_rows()), row_name);

}  // namespace
}  // namespace tenon::test
