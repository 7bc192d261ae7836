// Whole relays between processes: the test is the trainer and the engines, its children are senders
// and receivers.
#include <support/support.hpp>
#include <tenon/relay.hpp>

#include "free_address.hpp"

namespace tenon::test {
namespace {

using relay::EngineKind;
using relay::Receiver;
using relay::ReceiverOptions;
using relay::Sender;
using relay::SenderOptions;
using relay::VersionReport;
using relay::Watch;

/// Memory at both ends, and what is between them.
struct Way {
  const char* name;
  MemoryKind from;
  MemoryKind to;
  EngineKind engine;
};

std::vector<Way> ways() {
  return {
    {"HostByGloo", MemoryKind::host, MemoryKind::host, EngineKind::automatic},
#if TENON_TEST_CUDA
        {"CudaByGloo", MemoryKind::cuda, MemoryKind::cuda, EngineKind::gloo},
        {"CudaToHost", MemoryKind::cuda, MemoryKind::host, EngineKind::automatic},
        {"HostToCuda", MemoryKind::host, MemoryKind::cuda, EngineKind::automatic},
#ifdef TENON_NCCL_SIM
        {"CudaByNccl", MemoryKind::cuda, MemoryKind::cuda, EngineKind::automatic},
#endif
#endif
  };
}

class Relays : public ::testing::TestWithParam<Way> {
 protected:
  Relays() {
#ifdef TENON_NCCL_SIM
    ::setenv("TENON_NCCL_LIBRARY", TENON_NCCL_SIM, 1);
#endif
  }
  Publisher trainer(Mode mode = Mode::double_buffered) {
    return Publisher::create(name_, model_.layout, {.memory = {GetParam().from}, .mode = mode});
  }
  SenderOptions sending(std::uint32_t expect = 0) const {
    return {.listen = address_,
            .expect = expect,
            .deadline = kPatience,
            .engine = GetParam().engine,
            .attach = kPatience};
  }
  ReceiverOptions receiving(const std::string& as) const {
    return {.from = address_, .as = as, .memory = Memory{GetParam().to}, .join = kPatience};
  }
  /// One sender after the other, as the command has it.
  Child sender(const SenderOptions& options, const Watch& watch = {}) {
    return Child([=, this] {
      separate_node("sender");
      for (;;) {
        try {
          Sender(name_, options).run(watch);
          return 0;
        } catch (const Error& e) {
          if (e.code() != Errc::Closed && e.code() != Errc::PublisherGone) throw;
        }
      }
    });
  }
  Child receiver(const ReceiverOptions& options, const Watch& watch = {}) {
    return Child([=] {
      separate_node(options.as);
      Receiver(options).run(watch);
      return 0;
    });
  }
  /// NCCL takes two ranks on one GPU for a mistake, unless they say that they are on two nodes.
  static void separate_node(const std::string& name) { ::setenv("NCCL_HOSTID", name.c_str(), 1); }

  /// That `as` serves version `v` whole.
  void expect_version(const std::string& as, std::uint64_t v) {
    auto sub = Subscriber::attach(as, {.deadline = kPatience});
    const Lease lease = sub.wait(newer_than(v - 1), kPatience);
    EXPECT_EQ(lease.version(), v);
    EXPECT_EQ(far_.wrong(lease), 0U);
  }

  std::string name_ = unique_name("relay");
  std::string one_ = name_ + ".one";
  std::string two_ = name_ + ".two";
  std::string address_ = free_address();
  Node node_;
  Model model_{GetParam().from};
  Model far_{GetParam().to};
};

INSTANTIATE_TEST_SUITE_P(Ways, Relays, ::testing::ValuesIn(ways()),
                         [](const auto& p) { return std::string(p.param.name); });

TEST_P(Relays, BringEveryByteOfEveryVersionUnderItsNumber) {
  Publisher pub = trainer();
  Child send = sender(sending(2));
  Child first = receiver(receiving(one_));
  Child second = receiver(receiving(two_));
  for (const std::uint64_t v : {1U, 2U, 4U, 9U, 10U}) {
    model_.publish(pub, v, {.version = v});
    expect_version(one_, v);
    expect_version(two_, v);
  }
}

TEST_P(Relays, LateReceiversGetTheCurrentVersionAtOnce) {
  Publisher pub = trainer();
  model_.publish(pub, 1);
  model_.publish(pub, 2);
  Child send = sender(sending());
  Child first = receiver(receiving(one_));
  expect_version(one_, 2);
  Child second = receiver(receiving(two_));
  expect_version(two_, 2);
  model_.publish(pub, 3);
  expect_version(one_, 3);
  expect_version(two_, 3);
}

TEST_P(Relays, DoNotSendBucketsThatDidNotChange) {
  Publisher pub = trainer();
  model_.publish(pub, 1);
  const std::size_t buckets = model_.layout.bucket_count();
  Signal kept_most;
  Watch watch;
  watch.version = [&](const VersionReport& v) {
    if (v.version == 1 && (v.kept != 0 || v.buckets != buckets)) return;
    if (v.version == 2 && v.kept == buckets - 1 && v.buckets == 1) kept_most.poke();
  };
  Child send = sender(sending(), watch);
  Child first = receiver(receiving(one_));
  expect_version(one_, 1);
  std::vector<Source> sources = model_.sources(1);
  for (Source& s : sources) s.unchanged = true;
  sources.back().unchanged = false;
  publish(pub, sources);
  auto sub = Subscriber::attach(one_);
  const Lease lease = sub.wait(exactly(2), kPatience);
  EXPECT_EQ(far_.wrong(lease, 1), 0U);
  EXPECT_EQ(lease.written_in(0), 1U) << "readers skip what did not change, too";
  EXPECT_EQ(lease.written_in(buckets - 1), 2U);
  EXPECT_TRUE(kept_most.wait());
}

TEST_P(Relays, GoOnWithoutAReceiverThatIsKilledAndTakeItsSuccessor) {
  Publisher pub = trainer();
  Child send = sender(sending(2));
  Child first = receiver(receiving(one_));
  Child second = receiver(receiving(two_));
  model_.publish(pub, 1);
  expect_version(one_, 1);
  expect_version(two_, 1);
  first.kill();
  model_.publish(pub, 2);
  expect_version(two_, 2);
  Child again = receiver(receiving(one_));
  expect_version(one_, 2);
  model_.publish(pub, 3);
  expect_version(one_, 3);
  expect_version(two_, 3);
}

TEST_P(Relays, GoOnWithoutAReceiverThatHangsWhichJoinsAgainWhenItCan) {
  Publisher pub = trainer();
  Child send = sender(sending(2));
  Child first = receiver(receiving(one_));
  Child second = receiver(receiving(two_));
  model_.publish(pub, 1);
  expect_version(one_, 1);
  expect_version(two_, 1);
  first.signal(SIGSTOP);
  model_.publish(pub, 2);
  expect_version(two_, 2);
  first.signal(SIGCONT);
  expect_version(one_, 2);
}

TEST_P(Relays, ServeTheLastVersionWhileTheSenderIsAway) {
  Publisher pub = trainer();
  Child send = sender(sending());
  Child first = receiver(receiving(one_));
  model_.publish(pub, 1);
  expect_version(one_, 1);
  auto sub = Subscriber::attach(one_);
  send.kill();
  model_.publish(pub, 2);
  EXPECT_EQ(far_.wrong(sub.wait(newest(), kPatience), 1), 0U);
  Child again = sender(sending());
  const Lease lease = sub.wait(newer_than(1), kPatience);
  EXPECT_EQ(lease.version(), 2U);
  EXPECT_EQ(far_.wrong(lease), 0U);
}

TEST_P(Relays, FollowATrainerThatStartsAgain) {
  std::optional<Publisher> pub = trainer();
  Child send = sender(sending());
  Child first = receiver(receiving(one_));
  model_.publish(*pub, 7, {.version = 7});
  expect_version(one_, 7);
  auto sub = Subscriber::attach(one_);
  const Lease held = sub.wait(newest(), kPatience);
  pub.reset();
  pub = trainer(Mode::in_place);
  EXPECT_EQ(far_.wrong(held, 7), 0U) << "nothing is taken from a living holder";
  model_.publish(*pub, 1);  // counts anew: another publication, here and there
  while (held.publisher() == PublisherStatus::alive) std::this_thread::sleep_for(1ms);
  expect_version(one_, 1);
}

TEST_P(Relays, PassOverAReceiverWhoseSubscribersHoldOn) {
  Publisher pub = trainer();
  SenderOptions impatient = sending(2);
  impatient.deadline = 500ms;
  Child send = sender(impatient);
  ReceiverOptions in_place = receiving(one_);
  in_place.mode = Mode::in_place;
  Child first = receiver(in_place);
  Child second = receiver(receiving(two_));
  model_.publish(pub, 1);
  auto sub = Subscriber::attach(one_, {.deadline = kPatience});
  Lease held = sub.wait(exactly(1), kPatience);
  expect_version(two_, 1);
  for (const std::uint64_t v : {2U, 3U}) {
    model_.publish(pub, v);
    expect_version(two_, v);
    EXPECT_EQ(far_.wrong(held, 1), 0U);
  }
  held.release();
  EXPECT_EQ(far_.wrong(sub.wait(newer_than(1), kPatience), 3), 0U);
}

TEST_P(Relays, FeedStreamingPublications) {
  Publisher pub = trainer();
  Child send = sender(sending(1));
  ReceiverOptions streaming = receiving(one_);
  streaming.mode = Mode::streaming;
  Child first = receiver(streaming);
  auto sub = Subscriber::attach(one_, {.deadline = kPatience});
  sub.join();
  Destination destination(far_);
  for (const std::uint64_t v : {3U, 4U}) {
    model_.publish(pub, v, {.version = v});
    EXPECT_EQ(sub.load(destination.plan, kPatience), v);
    EXPECT_EQ(destination.wrong(v), 0U);
  }
}

TEST_P(Relays, ReachOneNodeThroughAnother) {
  Publisher pub = trainer();
  Child send = sender(sending());
  Child first = receiver(receiving(one_));
  const std::string onward = free_address();
  Child forward([&] {
    separate_node("forward");
    SenderOptions options = sending();
    options.listen = onward;
    Sender(one_, options).run();
    return 0;
  });
  ReceiverOptions last = receiving(two_);
  last.from = onward;
  Child second = receiver(last);
  for (const std::uint64_t v : {1U, 2U, 5U}) {
    model_.publish(pub, v, {.version = v});
    expect_version(two_, v);
  }
}

class RelayErrors : public ::testing::Test {
 protected:
  RelayErrors() { ::unsetenv("TENON_NCCL_LIBRARY"); }
  Child sender(const SenderOptions& options) {
    return Child([=, this] {
      Sender(name_, options).run();
      return 0;
    });
  }
  std::string name_ = unique_name("relay");
  std::string address_ = free_address();
  Node node_;
  Model model_;
};

TEST_F(RelayErrors, OfAReceiverNameWhatDoesNotFit) {
  Publisher pub = Publisher::create(name_, model_.layout);
  const std::string secret = "sixteen bytes at least";
  Child send = sender({.listen = address_, .secret = secret});
  EXPECT_THROWS(WrongSecret, "",
                Receiver({.from = address_, .secret = "another secret of that size"}));
  EXPECT_THROWS(Mismatch, "hands on '" + name_ + "', not 'critic'",
                Receiver({.from = address_, .name = "critic", .secret = secret}));
  EXPECT_THROWS(NameInUse, name_, Receiver({.from = address_, .secret = secret}));
  EXPECT_THROWS(InvalidArgument, "", Receiver({.from = "nowhere", .secret = secret}));
  EXPECT_THROWS(DeadlinePassed, "", Receiver({.from = free_address(), .join = 50ms}));
}

TEST_F(RelayErrors, OfASenderNameWhatDoesNotFit) {
  Publisher pub = Publisher::create(name_, model_.layout, {.mode = Mode::streaming});
  EXPECT_THROWS(StreamingOnly, "double-buffered", Sender{name_});
  EXPECT_THROWS(NotFound, "", Sender(name_ + ".none", {.attach = 20ms}));
  pub.close();
  Publisher other = Publisher::create(name_, model_.layout);
  const Sender taken(name_, {.listen = address_});
  EXPECT_EQ(taken.address(), address_);
  EXPECT_THROWS(System, "in use", Sender(name_, {.listen = address_}));
  EXPECT_THROWS(InvalidArgument, "secret", Sender(name_, {.listen = "0.0.0.0:0"}));
}

TEST_F(RelayErrors, OfALostSenderComeWhenItStaysAway) {
  Publisher pub = Publisher::create(name_, model_.layout);
  Child send = sender({.listen = address_});
  Receiver receiver({.from = address_, .as = name_ + ".one", .rejoin = 300ms});
  send.kill();
  EXPECT_THROWS(PeerGone, "", receiver.run());
}

TEST_F(RelayErrors, DoNotKeepARelayFromStopping) {
  Publisher pub = Publisher::create(name_, model_.layout);
  Sender sender(name_, {.listen = address_});
  Receiver receiver({.from = address_, .as = name_ + ".one"});
  std::thread sends([&] { sender.run(); });
  std::thread receives([&] { receiver.run(); });
  model_.publish(pub, 1);
  while (receiver.version() != 1) std::this_thread::sleep_for(1ms);
  sender.stop();
  sends.join();
  receiver.stop();
  receives.join();
}

}  // namespace
}  // namespace tenon::test
