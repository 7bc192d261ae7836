// Whole relays between processes: the test is the trainer and the engines, its children are senders
// and receivers.
#include <support/support.hpp>
#include <tenon/inspect.hpp>
#include <tenon/relay.hpp>
#include <tenon/update_group.hpp>

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

  Signal updated_;
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

TEST_P(Relays, SendABucketOnlyToThoseWhoLackIt) {
  Publisher pub = trainer();
  model_.publish(pub, 1);
  Child send = sender(sending());
  Child first = receiver(receiving(one_));
  expect_version(one_, 1);
  send.kill();  // so that the two below join in one go: one has version 1, the other nothing
  std::vector<Source> sources = model_.sources(1);
  for (Source& s : sources) s.unchanged = true;
  sources.front().unchanged = false;
  publish(pub, sources);
  Child second = receiver(receiving(two_));
  Signal failed;
  Watch watch;
  watch.note = [&](const std::string& text) {
    if (text.find("did not arrive") != std::string::npos) failed.poke();
  };
  Child again = sender(sending(2), watch);
  for (const std::string& as : {one_, two_}) {
    auto sub = Subscriber::attach(as, {.deadline = kPatience});
    const Lease lease = sub.wait(exactly(2), kPatience);
    EXPECT_EQ(far_.wrong(lease, 1), 0U);
    EXPECT_EQ(lease.written_in(1), as == one_ ? 1U : 2U);
  }
  EXPECT_FALSE(failed.wait(0ms)) << "it came in one go, for both";
}

/// The box of a matrix of bf16, as `bytes` has it.
std::vector<std::byte> part_of(const std::vector<std::byte>& bytes, std::uint64_t columns,
                               std::uint64_t row, std::uint64_t rows, std::uint64_t column,
                               std::uint64_t width) {
  std::vector<std::byte> part;
  for (std::uint64_t r = row; r < row + rows; ++r) {
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>((r * columns + column) * 2);
    part.insert(part.end(), at, at + static_cast<std::ptrdiff_t>(width * 2));
  }
  return part;
}

TEST_P(Relays, BringOnlyTheShardsThatAreAskedFor) {
  Publisher pub = trainer();
  Child send = sender(sending(3));
  Child whole = receiver(receiving(name_ + ".whole"));
  ReceiverOptions columns = receiving(one_);
  columns.only = {{"layer.[01].q", Slice{1, 1, 2}}, {"head"}, {"layer.3.*"}};
  Child first = receiver(columns);
  ReceiverOptions box = receiving(two_);
  const std::vector<Parameter> boxes{
      {"layer.1.q", Dtype::bf16, {3, 7}, {}, Box{{40, 50}, {37, 11}}},
      {"layer.0.norm", Dtype::f64, {33}},
      {"layer.0.q", Dtype::bf16, {5, 50}, {}, Box{{40, 50}, {10, 0}}}};
  box.layout = plan(boxes, {.bucket_bytes = 300});
  Child second = receiver(box);
  const std::size_t q0 = model_.layout.at("layer.0.q");
  const std::size_t q1 = model_.layout.at("layer.1.q");
  for (const std::uint64_t v : {1U, 2U}) {
    model_.publish(pub, v);
    expect_version(name_ + ".whole", v);
    auto sub = Subscriber::attach(one_, {.deadline = kPatience});
    Lease lease = sub.wait(exactly(v), kPatience);
    EXPECT_EQ(lease.size(), 4U);
    const auto bytes = [&](const char* parameter) {
      const View view = lease[parameter];
      return Bytes::get(GetParam().to, view.data(), view.bytes());
    };
    EXPECT_EQ(bytes("layer.0.q"), part_of(model_.bytes_of(q0, v), 50, 0, 40, 25, 25));
    EXPECT_EQ(bytes("layer.1.q"), part_of(model_.bytes_of(q1, v), 50, 0, 40, 25, 25));
    EXPECT_EQ(bytes("head"), model_.bytes_of(model_.layout.at("head"), v)) << "tied to another";
    EXPECT_EQ(sub.layout().box(sub.layout().at("layer.1.q"))->offset,
              (std::vector<std::uint64_t>{0, 25}));
    auto other = Subscriber::attach(two_, {.deadline = kPatience});
    lease = other.wait(exactly(v), kPatience);
    EXPECT_EQ(bytes("layer.1.q"), part_of(model_.bytes_of(q1, v), 50, 37, 3, 11, 7));
    EXPECT_EQ(bytes("layer.0.q"), part_of(model_.bytes_of(q0, v), 50, 10, 5, 0, 50));
    EXPECT_EQ(bytes("layer.0.norm"), model_.bytes_of(model_.layout.at("layer.0.norm"), v));
  }
}

TEST_P(Relays, BringShardsWithoutBytesAndThoseWithGapsBetweenParameters) {
  Publisher pub = trainer();
  Child send = sender(sending(2));
  ReceiverOptions nothing = receiving(one_);
  nothing.only = {{"empty"}};
  Child first = receiver(nothing);
  ReceiverOptions gaps = receiving(two_);
  gaps.layout =
      plan(std::vector<Parameter>{{"scale", Dtype::f32, {}},
                                  {"layer.1.q", Dtype::bf16, {1, 3}, {}, Box{{40, 50}, {7, 4}}},
                                  {"layer.3.q", Dtype::i8, {3999}}});
  Child second = receiver(gaps);
  for (const std::uint64_t v : {1U, 2U}) {
    model_.publish(pub, v);
    auto sub = Subscriber::attach(one_, {.deadline = kPatience});
    EXPECT_EQ(sub.wait(exactly(v), kPatience)["empty"].bytes(), 0U);
    auto other = Subscriber::attach(two_, {.deadline = kPatience});
    const Lease lease = other.wait(exactly(v), kPatience);
    const auto expect = [&](const char* parameter, const std::vector<std::byte>& bytes) {
      const View view = lease[parameter];
      EXPECT_EQ(Bytes::get(GetParam().to, view.data(), view.bytes()), bytes) << parameter;
    };
    expect("scale", model_.bytes_of(model_.layout.at("scale"), v));
    expect("layer.3.q", model_.bytes_of(model_.layout.at("layer.3.q"), v));
    expect("layer.1.q", part_of(model_.bytes_of(model_.layout.at("layer.1.q"), v), 50, 7, 1, 4, 3));
  }
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

// The records of version 3 lie where version 1's are: there are places for two versions.
TEST_P(Relays, WaitForReadersOfAVersionWhoseRecordsTheNextOneTakes) {
  Publisher pub = trainer();
  Child send = sender(sending());
  ReceiverOptions options = receiving(one_);
  options.mode = Mode::double_buffered;
  Child first = receiver(options);
  model_.publish(pub, 1);
  auto sub = Subscriber::attach(one_, {.deadline = kPatience});
  std::optional<Lease> held = sub.wait(exactly(1), kPatience);
  model_.publish(pub, 3, {.version = 3});
  EXPECT_THROWS(ReleaseWanted, "", (void)sub.wait(newer_than(1), kPatience));
  EXPECT_EQ(far_.wrong(*held), 0U);
  held.reset();
  expect_version(one_, 3);
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

TEST_P(Relays, TellWhereTheirTimeGoes) {
  constexpr std::uint64_t kVersions = 3;
  Publisher pub = trainer();
  Child send = sender(sending(1));
  Child receive = receiver(receiving(one_));
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    model_.publish(pub, v, {.require = 1});
    expect_version(one_, v);
  }
  const auto received = [&] { return (*inspect(one_).stages)[Stage::receive].count; };
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (received() < kVersions && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(1ms);  // it is told behind the wake
  const Stages far = *inspect(one_).stages;
  EXPECT_EQ(far[Stage::receive].count, kVersions);
  EXPECT_EQ(far[Stage::receive].bytes, kVersions * model_.layout.payload_bytes());
  EXPECT_EQ(far[Stage::gather].count, 0U) << "nothing is gathered there";
  const auto sent = [&] { return (*pub.subscribers().at(0).stages)[Stage::send]; };
  EXPECT_EQ(sent().count, kVersions);
  std::uint64_t whole = 0;  // buckets go as they are, padding and all
  for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b)
    whole += model_.layout.bucket_bytes(b);
  EXPECT_EQ(sent().bytes, kVersions * whole);
  EXPECT_GT(sent().total.count(), 0);
}

TEST_P(Relays, AreAnUpdateGroupToEnginesThatKnowThreeCalls) {
  Publisher pub = trainer();
  Child send = sender(sending(2));
  const auto options = [&](int rank, int world) {
    const std::size_t colon = address_.find(':');
    return relay::UpdateGroupOptions{
        .address = address_.substr(0, colon),
        .port = static_cast<std::uint16_t>(std::stoi(address_.substr(colon + 1))),
        .name = name_,
        .rank_offset = rank,
        .world_size = world,
        .timeout = kPatience,
        .receiver = {.as = name_ + "." + std::to_string(rank), .memory = Memory{GetParam().to}}};
  };
  const auto engine = [&](int rank) {
    return Child([&, rank] {
      separate_node(std::to_string(rank));
      auto group = relay::UpdateGroup::init(options(rank, 3));
      updated_.poke();  // in a group that is warm, and there is no version yet
      EXPECT_THROWS(InvalidArgument, "before an update()", (void)group.get("embed", 1));
      EXPECT_THROWS(Mismatch, "'embed' is F32 [17, 31], and this engine expects BF16 [17, 31]",
                    group.update({{"embed", Dtype::bf16, {17, 31}}}, kPatience));
      EXPECT_THROWS(NoSuchParameter, "", group.update({{"x", Dtype::bf16, {1}}}, kPatience));
      for (const std::uint64_t v : {1U, 2U}) {
        EXPECT_EQ(group.update({{"embed", Dtype::f32, {17, 31}}, {"layer.2.q", Dtype::i64, {500}}},
                               kPatience),
                  v);
        EXPECT_EQ(far_.wrong(group.version(), v), 0U);
        const auto bytes = far_.bytes_of(far_.layout.at("layer.2.q"), v);
        const std::vector<double> first = group.get("layer.2.q", 3);
        EXPECT_EQ(first.size(), 3U);
        for (std::size_t i = 0; i < first.size(); ++i) {
          std::int64_t value;
          std::memcpy(&value, bytes.data() + i * sizeof(value), sizeof(value));
          EXPECT_EQ(first[i], static_cast<double>(value));
        }
        EXPECT_EQ(group.get("scale", 5).size(), 1U) << "no more than there are";
        updated_.poke();
      }
      EXPECT_THROWS(DeadlinePassed, "", group.update(10ms));
      return 0;
    });
  };
  Child first = engine(1);
  Child second = engine(2);
  ASSERT_TRUE(updated_.wait() && updated_.wait());
  for (const std::uint64_t v : {1U, 2U}) {
    model_.publish(pub, v);
    ASSERT_TRUE(updated_.wait());
    ASSERT_TRUE(updated_.wait());
  }
  EXPECT_EQ(first.wait(), 0);
  EXPECT_EQ(second.wait(), 0);
  EXPECT_THROWS(InvalidArgument, "rank offset 3 of 3",
                (void)relay::UpdateGroup::init(options(3, 3)));
  Child alone([&] {
    separate_node("alone");
    relay::UpdateGroupOptions many = options(1, 5);
    many.timeout = 500ms;
    EXPECT_THROWS(DeadlinePassed, "only 2 of 5 ranks", (void)relay::UpdateGroup::init(many));
    return 0;
  });
  EXPECT_EQ(alone.wait(), 0);
}

TEST_P(Relays, AreAnUpdateGroupToATrainerThatStartsAgain) {
  std::optional<Publisher> pub = trainer();
  Child send = sender(sending(1));
  Child engine([&] {
    separate_node("engine");
    const std::size_t colon = address_.find(':');
    auto group = relay::UpdateGroup::init(
        {.address = address_.substr(0, colon),
         .port = static_cast<std::uint16_t>(std::stoi(address_.substr(colon + 1))),
         .name = name_,
         .rank_offset = 1,
         .world_size = 2,
         .timeout = kPatience,
         .receiver = {.as = one_, .memory = Memory{GetParam().to}}});
    updated_.poke();
    for (const std::uint64_t v : {7U, 1U}) {  // then it counts anew
      EXPECT_EQ(group.update(kPatience), v);
      EXPECT_EQ(far_.wrong(group.version(), v), 0U);
      updated_.poke();
    }
    return 0;
  });
  ASSERT_TRUE(updated_.wait());
  model_.publish(*pub, 7, {.version = 7});
  ASSERT_TRUE(updated_.wait());
  pub.reset();
  pub = trainer();
  model_.publish(*pub, 1);
  EXPECT_EQ(engine.wait(), 0);
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
  const auto receive = [&](const ReceiverOptions& what) {
    ReceiverOptions options = what;
    options.from = address_;
    options.as = name_ + ".part";
    options.secret = secret;
    Receiver{options};
  };
  EXPECT_THROWS(NoSuchParameter, "'layer.9.*'", receive({.only = {{"embed"}, {"layer.9.*"}}}));
  EXPECT_THROWS(InvalidArgument, "part 0 of 3 along",
                receive({.only = {{"embed", Slice{0, 0, 3}}}}));
  const auto wanting = [&](const Parameter& parameter) {
    return ReceiverOptions{.layout = plan(std::vector<Parameter>{parameter})};
  };
  EXPECT_THROWS(Mismatch, "not in the publication", receive(wanting({"x", Dtype::f32, {1}})));
  EXPECT_THROWS(Mismatch, "as F16, and it is F32", receive(wanting({"embed", Dtype::f16, {1}})));
  EXPECT_THROWS(Mismatch, "in another shape", receive(wanting({"embed", Dtype::f32, {31, 17}})));
  EXPECT_THROWS(Mismatch, "of another shape",
                receive(wanting({"embed", Dtype::f32, {1, 1}, {}, Box{{18, 31}, {17, 0}}})));
  EXPECT_THROWS(InvalidArgument, "", Receiver({.from = "nowhere", .secret = secret}));
  EXPECT_THROWS(DeadlinePassed, "", Receiver({.from = free_address(), .join = 50ms}));
}

TEST_F(RelayErrors, OfASenderNameWhatDoesNotFit) {
  Publisher pub = Publisher::create(name_, model_.layout, {.mode = Mode::streaming});
  EXPECT_THROWS(StreamingOnly, "double-buffered", Sender{name_});
  EXPECT_THROWS(NotFound, "", Sender(name_ + ".none", {.attach = 20ms}));
  pub.close();
  Publisher other = Publisher::create(name_, model_.layout);
  const Sender taken(name_);
  EXPECT_THROWS(System, "in use", Sender(name_, {.listen = taken.address()}));
  EXPECT_THROWS(InvalidArgument, "secret", Sender(name_, {.listen = "0.0.0.0:0"}));
}

TEST_F(RelayErrors, OfForcedNcclComeWhereBytesAreNotInGpuMemory) {
  Publisher pub = Publisher::create(name_, model_.layout);
  EXPECT_THROWS(InvalidArgument, "NCCL", Sender(name_, {.engine = EngineKind::nccl}));
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
