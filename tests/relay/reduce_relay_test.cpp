// Relays of partial results between processes: the test is all the trainers and engines, its
// children are the sender, its replicas and the receivers.
#include <support/support.hpp>
#include <tenon/relay.hpp>

#include "free_address.hpp"
#include "partial_model.hpp"

namespace tenon::test {
namespace {

using relay::EngineKind;
using relay::Receiver;
using relay::ReceiverOptions;
using relay::ReduceOp;
using relay::Replica;
using relay::ReplicaOptions;
using relay::Sender;
using relay::SenderOptions;
using relay::VersionReport;
using relay::Watch;

struct Setting {
  const char* name;
  MemoryKind memory;
  int replicas;
  ReduceOp op;
};

std::vector<Setting> settings() {
  return {
    {"SumOfTwo", MemoryKind::host, 2, ReduceOp::sum},
        {"MeanOfThree", MemoryKind::host, 3, ReduceOp::mean},
#if TENON_TEST_CUDA
        {"MeanOfTwoOnGpus", MemoryKind::cuda, 2, ReduceOp::mean},
#endif
  };
}

class ReducedRelays : public ::testing::TestWithParam<Setting> {
 protected:
  ReducedRelays() {
    for (int r = 0; r < GetParam().replicas; ++r)
      trainers_.push_back(Publisher::create(
          name(r), model_.layout, {.memory = {GetParam().memory}, .mode = Mode::double_buffered}));
  }
  std::string name(int replica) const { return stem_ + "." + std::to_string(replica); }
  void publish(std::uint64_t v) {
    for (int r = 0; r < GetParam().replicas; ++r) publish(r, v);
  }
  void publish(int replica, std::uint64_t v) {
    model_.publish(trainers_[static_cast<std::size_t>(replica)], replica, v);
  }

  Child sender(std::uint32_t expect, Duration deadline = kPatience, const Watch& watch = {}) {
    const SenderOptions options{.listen = address_,
                                .expect = expect,
                                .deadline = deadline,
                                .reduce = GetParam().op,
                                .replicas = static_cast<std::uint32_t>(GetParam().replicas)};
    return Child([=, this] {
      Sender(name(0), options).run(watch);
      return 0;
    });
  }
  Child replica(int number, const Watch& watch = {}) {
    return Child([=, this] {
      Replica(name(number), {.from = address_, .op = GetParam().op, .join = kPatience}).run(watch);
      return 0;
    });
  }
  /// All of them.
  std::vector<Child> replicas() {
    std::vector<Child> all;
    for (int r = 1; r < GetParam().replicas; ++r) all.push_back(replica(r));
    return all;
  }
  Child receiver(const std::string& as, Mode mode = Mode::double_buffered) {
    const ReceiverOptions options{.from = address_, .as = as, .mode = mode, .join = kPatience};
    return Child([=] {
      Receiver(options).run();
      return 0;
    });
  }

  /// That `as` serves version `v`, reduced, whole.
  void expect_version(const std::string& as, std::uint64_t v) {
    auto sub = Subscriber::attach(as, {.deadline = kPatience});
    const Lease lease = sub.wait(newer_than(v - 1), kPatience);
    EXPECT_EQ(lease.version(), v);
    expect_reduced(lease);
  }
  void expect_reduced(const Lease& lease) {
    EXPECT_EQ(model_.wrong(lease, GetParam().replicas, GetParam().op), "");
  }

  std::string stem_ = unique_name("reduce");
  std::string one_ = stem_ + ".one";
  std::string two_ = stem_ + ".two";
  std::string address_ = free_address();
  Node node_;
  PartialModel model_{GetParam().memory};
  std::vector<Publisher> trainers_;
};

INSTANTIATE_TEST_SUITE_P(Of, ReducedRelays, ::testing::ValuesIn(settings()),
                         [](const auto& p) { return std::string(p.param.name); });

TEST_P(ReducedRelays, BringTheReductionOfEveryVersion) {
  Child send = sender(2);
  const std::vector<Child> others = replicas();
  Child first = receiver(one_);
  Child second = receiver(two_);
  for (const std::uint64_t v : {1U, 2U, 4U, 9U}) {
    publish(v);
    expect_version(one_, v);
    expect_version(two_, v);
  }
}

TEST_P(ReducedRelays, PutEveryByteOnTheWireOnceForEachSender) {
  const int senders = GetParam().replicas;
  const std::uint64_t bytes = model_.layout.payload_bytes();
  Signal small;
  Watch watch;
  watch.version = [&](const VersionReport& report) {
    // All but its own share to the other senders, and no more than the whole to who is next.
    if (report.bytes <=
        bytes +
            bytes * static_cast<std::uint64_t>(senders - 1) / static_cast<std::uint64_t>(senders) +
            bytes / 4)
      small.poke();
  };
  Child send = sender(2, kPatience, watch);
  const std::vector<Child> others = replicas();
  Child first = receiver(one_);
  Child second = receiver(two_);
  publish(1);
  expect_version(two_, 1);
  EXPECT_TRUE(small.wait());
}

TEST_P(ReducedRelays, LateReceiversGetTheCurrentVersionAtOnce) {
  Child send = sender(1);
  const std::vector<Child> others = replicas();
  publish(1);
  Child first = receiver(one_);
  expect_version(one_, 1);
  Child second = receiver(two_);
  expect_version(two_, 1);
  publish(2);
  expect_version(one_, 2);
  expect_version(two_, 2);
}

TEST_P(ReducedRelays, WaitForAReplicaThatIsKilledAndTakeItsSuccessor) {
  Child send = sender(2);
  std::vector<Child> others = replicas();
  Child first = receiver(one_);
  Child second = receiver(two_);
  publish(1);
  expect_version(one_, 1);
  expect_version(two_, 1);
  auto sub = Subscriber::attach(one_);
  others.back().kill();
  publish(2);
  publish(3);  // nobody holds an older version for one who is lost
  EXPECT_THROWS(DeadlinePassed, "", (void)sub.wait(newer_than(1), 400ms));
  EXPECT_EQ(sub.current_version(), 1U) << "handed on without all replicas";
  Child again = replica(GetParam().replicas - 1);
  expect_version(one_, 3);
  expect_version(two_, 3);
  publish(4);
  expect_version(one_, 4);
}

TEST_P(ReducedRelays, SurviveReplicasThatDieAtAnyMoment) {
  Child send = sender(1);
  Child first = receiver(one_);
  std::vector<Child> others = replicas();
  auto sub = Subscriber::attach(one_, {.deadline = kPatience});
  for (const std::uint64_t v : {1U, 2U, 3U, 4U, 5U}) {
    publish(v);
    std::this_thread::sleep_for(4ms * (v - 1));
    others.back().kill();
    others.pop_back();
    others.push_back(replica(GetParam().replicas - 1));
    const Lease lease = sub.wait(newer_than(v - 1), kPatience);
    EXPECT_EQ(lease.version(), v);
    expect_reduced(lease);
  }
}

TEST_P(ReducedRelays, GoOnWithoutAReceiverThatIsKilled) {
  Child send = sender(2);
  const std::vector<Child> others = replicas();
  Child first = receiver(one_);
  Child second = receiver(two_);
  publish(1);
  expect_version(one_, 1);
  expect_version(two_, 1);
  first.kill();
  publish(2);
  expect_version(two_, 2);
}

TEST_P(ReducedRelays, PassOverAReceiverWhoseSubscribersHoldOn) {
  Child send = sender(2, 1s);
  const std::vector<Child> others = replicas();
  Child first = receiver(one_, Mode::in_place);
  Child second = receiver(two_);
  publish(1);
  auto sub = Subscriber::attach(one_, {.deadline = kPatience});
  Lease held = sub.wait(exactly(1), kPatience);
  expect_version(two_, 1);
  for (const std::uint64_t v : {2U, 3U}) {
    publish(v);
    expect_version(two_, v);
    expect_reduced(held);
  }
  held.release();
  expect_reduced(sub.wait(newer_than(1), kPatience));
}

TEST_P(ReducedRelays, WaitForATrainerThatIsLate) {
  Child send = sender(1, 1s);
  const std::vector<Child> others = replicas();
  Child first = receiver(one_);
  auto sub = Subscriber::attach(one_, {.deadline = kPatience});
  for (int r = 0; r + 1 < GetParam().replicas; ++r) publish(r, 1);
  std::this_thread::sleep_for(1300ms);  // more than the deadline: the replica refuses at first
  EXPECT_EQ(sub.current_version(), 0U);
  publish(GetParam().replicas - 1, 1);
  expect_version(one_, 1);
}

TEST_P(ReducedRelays, LetGoOfAVersionThatNobodyTakesAfterAll) {
  Child send = sender(1);
  const std::vector<Child> others = replicas();
  Child first = receiver(one_, Mode::in_place);
  publish(1);
  auto sub = Subscriber::attach(one_, {.deadline = kPatience});
  const Lease held = sub.wait(exactly(1), kPatience);
  publish(2);
  while (!held.wanted()) std::this_thread::sleep_for(1ms);  // the senders hold 2 until it ends
  first.kill();
  for (const std::uint64_t v : {3U, 4U, 5U}) publish(v);  // waits for who holds on to 2
  Child second = receiver(two_);
  expect_version(two_, 5);
}

TEST_P(ReducedRelays, SkipAVersionThatAReplicaNoLongerHas) {
  Child send = sender(1);
  const std::vector<Child> others = replicas();
  Child first = receiver(one_);
  publish(1);
  expect_version(one_, 1);
  for (int r = 1; r < GetParam().replicas; ++r)
    for (const std::uint64_t v : {2U, 3U, 4U}) publish(r, v);
  publish(0, 2);
  std::this_thread::sleep_for(50ms);
  publish(0, 4);
  expect_version(one_, 4);
}

TEST_P(ReducedRelays, TakeASenderThatStartsAgain) {
  std::optional<Child> send(sender(1));
  const std::vector<Child> others = replicas();
  Child first = receiver(one_);
  publish(1);
  expect_version(one_, 1);
  send.reset();
  send.emplace(sender(1));
  publish(2);
  expect_version(one_, 2);
}

class ReduceErrors : public ::testing::Test {
 protected:
  Publisher trainer(const std::string& name, const std::vector<Parameter>& parameters) {
    return Publisher::create(name, plan(parameters), {.mode = Mode::double_buffered});
  }
  Child sender(const SenderOptions& options) {
    return Child([=, this] {
      Sender(name_, options).run();
      return 0;
    });
  }
  SenderOptions reducing() const {
    return {.listen = address_, .reduce = ReduceOp::mean, .replicas = 2};
  }
  std::string name_ = unique_name("reduce");
  std::string other_ = name_ + ".other";
  std::string address_ = free_address();
  Node node_;
};

TEST_F(ReduceErrors, NameWhatASenderCannotReduce) {
  Publisher pub = trainer(name_, {{"w", Dtype::f32, {4}}, {"mask", Dtype::boolean, {4}}});
  EXPECT_THROWS(InvalidArgument, "parameter 'mask': elements of dtype BOOL",
                Sender(name_, reducing()));
  EXPECT_THROWS(InvalidArgument, "BOOL", Replica(name_, {.from = address_, .join = 50ms}));
}

TEST_F(ReduceErrors, NameOptionsThatCannotBe) {
  Publisher pub = trainer(name_, {{"w", Dtype::f32, {4}}});
  EXPECT_THROWS(InvalidArgument, "replicas: 1", Sender(name_, {.reduce = ReduceOp::sum}));
  EXPECT_THROWS(InvalidArgument, "replicas: 2", Sender(name_, {.replicas = 2}));
  SenderOptions nccl = reducing();
  nccl.engine = EngineKind::nccl;
  EXPECT_THROWS(InvalidArgument, "NCCL", Sender(name_, nccl));
  EXPECT_THROWS(DeadlinePassed, "", Replica(name_, {.from = address_, .join = 50ms}));
}

TEST_F(ReduceErrors, NameBothWhereTheyDiffer) {
  Publisher pub = trainer(name_, {{"w", Dtype::f32, {4}}});
  Publisher wide = trainer(other_, {{"w", Dtype::f32, {5}}});
  Child send = sender(reducing());
  const auto thrown_by = [&](const std::string& name, ReduceOp op) {
    return thrown([&] { Replica(name, {.from = address_, .op = op}); });
  };
  const std::string layouts = thrown_by(other_, ReduceOp::mean);
  EXPECT_TRUE(layouts.starts_with("Mismatch: '" + name_ + "'")) << layouts;
  EXPECT_NE(layouts.find("this replica's '" + other_ + "'"), std::string::npos) << layouts;
  const std::string operations = thrown_by(name_, ReduceOp::sum);
  EXPECT_TRUE(operations.starts_with("Mismatch: '" + name_ + "'")) << operations;
  EXPECT_NE(operations.find("by mean, this replica's"), std::string::npos) << operations;
  send.kill();
  Child plain = sender({.listen = address_});
  const std::string alone = thrown_by(name_, ReduceOp::mean);
  EXPECT_NE(alone.find("not reduced with replicas"), std::string::npos) << alone;
}

TEST_F(ReduceErrors, EndAReplicaWithItsTrainer) {
  Publisher pub = trainer(name_, {{"w", Dtype::f32, {4}}});
  std::optional<Publisher> other(trainer(other_, {{"w", Dtype::f32, {4}}}));
  Child send = sender(reducing());
  Replica replica(other_, {.from = address_, .join = kPatience});
  other.reset();
  EXPECT_THROWS(Closed, other_, replica.run());
}

TEST_F(ReduceErrors, DoNotKeepAReplicaFromStopping) {
  Publisher pub = trainer(name_, {{"w", Dtype::f32, {4}}});
  Publisher other = trainer(other_, {{"w", Dtype::f32, {4}}});
  Child send = sender(reducing());
  Replica replica(other_, {.from = address_, .join = kPatience});
  std::thread runs([&] { replica.run(); });
  replica.stop();
  runs.join();
}

}  // namespace
}  // namespace tenon::test
