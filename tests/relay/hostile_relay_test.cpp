// Senders and receivers that have the secret and say what they must not.
#include <nlohmann/json.hpp>
#include <relay/messages.hpp>
#include <support/support.hpp>
#include <tenon/relay.hpp>

namespace tenon::test {
namespace {

using relay::Connection;
using relay::Event;
using relay::Listener;
using relay::Message;
using relay::Receiver;
using relay::Sender;
using Json = nlohmann::json;

class HostileSender : public ::testing::Test {
 protected:
  HostileSender()
      : listener_("127.0.0.1:0",
                  to_message(relay::Welcome{"0.1.0",
                                            "policy",
                                            std::string(32, 'a'),
                                            "boot",
                                            MemoryKind::host,
                                            model_.layout.hash(),
                                            {}},
                             model_.layout),
                  {}) {}
  /// A receiver that has joined, in a thread; it looks for its sender again for ever.
  void start() {
    receiver_.emplace(relay::ReceiverOptions{.from = listener_.address(), .as = name_});
    thread_ = std::thread([this] {
      receiver_->run({.note = [this](const std::string& text) {
        const std::lock_guard lock(mutex_);
        notes_ += text + "\n";
      }});
    });
    peer_ = next(Event::Kind::joined).peer;
  }
  Event next(Event::Kind kind) {
    const detail::Deadline deadline(kPatience);
    for (;;) {
      auto event = listener_.next(deadline);
      if (!event) throw Error(Errc::DeadlinePassed, "the receiver said nothing");
      if (event->kind == kind) return *event;
    }
  }
  template <class T>
  T answer() {
    return relay::read<T>(next(Event::Kind::message).message);
  }
  void say(const Message& message) { listener_.send(peer_, message); }
  /// Takes what is wrong for the sender's end, and joins again.
  void expect_that_it_leaves(const std::string& because) {
    (void)next(Event::Kind::left);
    peer_ = next(Event::Kind::joined).peer;
    const std::lock_guard lock(mutex_);
    EXPECT_NE(notes_.find(because), std::string::npos) << notes_;
    notes_.clear();
  }
  /// A group of two, in which this test is rank 0.
  std::unique_ptr<relay::Engine> form_group() {
    const std::uint64_t group = ++groups_;
    say(to_message(relay::FormGroup{.group = group,
                                    .rank = 1,
                                    .size = 2,
                                    .engine = relay::EngineKind::gloo,
                                    .deadline_ms = 10'000}));
    const auto store = listener_.store(group);
    auto engine =
        relay::make_gloo_engine({0, 2, "127.0.0.1", store.get()}, detail::Deadline(kPatience));
    engine->warm_up(detail::Deadline(kPatience));
    EXPECT_EQ(answer<relay::Ready>().group, group);
    return engine;
  }
  void send_all(relay::Engine& engine) {
    for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) {
      std::vector<std::byte> bucket(model_.layout.bucket_bytes(b), std::byte{7});
      engine.broadcast(bucket.data(), bucket.size(), 0, detail::Deadline(kPatience));
    }
  }
  [[nodiscard]] std::string everything() const {
    return std::string(model_.layout.bucket_count(), 'b');
  }
  ~HostileSender() override {
    if (receiver_) receiver_->stop();
    if (thread_.joinable()) thread_.join();
    EXPECT_EQ(receiver_ ? receiver_->version() : 0U, 0U) << "something was published";
  }

  std::string name_ = unique_name("hostile");
  Model model_;
  std::mutex mutex_;
  std::string notes_;
  Listener listener_;
  std::optional<Receiver> receiver_;
  std::thread thread_;
  relay::PeerId peer_ = 0;
  std::uint64_t groups_ = 0;
};

TEST_F(HostileSender, IsLeftWhenItSaysWhatMakesNoSense) {
  start();
  const auto raw = [](const char* type, const Json& fields) {
    return Message{type, fields.dump(), {}};
  };
  say(raw("dance", Json::object()));
  expect_that_it_leaves("'dance'");
  say(raw("offer", {{"version", -1}, {"deadline_ms", 0}}));
  expect_that_it_leaves("its version is no natural number");
  say(raw("offer", {{"version", 0}, {"deadline_ms", 0}}));
  expect_that_it_leaves("its version is 0");
  say(raw("group", {{"group", 1},
                    {"rank", 2},
                    {"size", 2},
                    {"senders", 1},
                    {"engine", "gloo"},
                    {"deadline_ms", 1}}));
  expect_that_it_leaves("its rank is 2");
  say(raw("group", {{"group", 1},
                    {"rank", 1},
                    {"size", 2},
                    {"senders", 1},
                    {"engine", "pigeon"},
                    {"deadline_ms", 1}}));
  expect_that_it_leaves("its engine is 'pigeon'");
  say(to_message(relay::Transfer{1, everything(), 1}));
  expect_that_it_leaves("not of the version it offered");
}

TEST_F(HostileSender, CannotTransferWhatItDidNotOffer) {
  start();
  for (const std::string& plan : {std::string(), everything() + "b"}) {
    const auto engine = form_group();
    say(to_message(relay::Offer{3, 1000}));
    EXPECT_EQ(answer<relay::Answer>().refusal, "");
    say(to_message(relay::Transfer{3, plan, 1000}));
    expect_that_it_leaves("not of the version it offered");
  }
  const auto engine = form_group();
  say(to_message(relay::Offer{3, 1000}));
  EXPECT_EQ(answer<relay::Answer>().refusal, "");
  say(Message{"transfer", Json{{"version", 3}, {"deadline_ms", 1}}.dump(), "bbx"});
  expect_that_it_leaves("its plan is with 'x'");
}

TEST_F(HostileSender, PublishesNothingWhoseChecksumsDiffer) {
  start();
  const auto engine = form_group();
  say(to_message(relay::Offer{5, 1000}));
  EXPECT_EQ(answer<relay::Answer>().refusal, "");
  say(to_message(relay::Transfer{5, everything(), 10'000}));
  send_all(*engine);
  say(to_message(relay::Commit{5, std::vector<std::uint64_t>(everything().size(), 1)}));
  const auto done = answer<relay::Done>();
  EXPECT_NE(done.failure.find("checksums differ"), std::string::npos) << done.failure;
  EXPECT_EQ(done.has, 0U);
}

TEST_F(HostileSender, CannotCommitEarlyOrKeepWhatIsNotThere) {
  start();
  const auto engine = form_group();
  say(to_message(relay::Offer{5, 1000}));
  EXPECT_EQ(answer<relay::Answer>().refusal, "");
  say(to_message(relay::Commit{5, {}}));
  EXPECT_NE(answer<relay::Done>().failure, "") << "no bucket had come";
  say(to_message(relay::Offer{6, 1000}));
  EXPECT_EQ(answer<relay::Answer>().refusal, "");
  say(to_message(relay::Transfer{6, std::string(everything().size(), '.'), 1000}));
  EXPECT_NE(answer<relay::Done>().failure, "") << "there is no version to keep buckets of";
}

class HostileReceiver : public ::testing::Test {
 protected:
  /// What a receiver says first, and is answered by the sender with what it does not like.
  std::string sent_away(const std::vector<Message>& messages, const Json& hello = {}) {
    Json fields = {{"library", "0.1.0"}, {"host", "h"},     {"pid", 1},       {"memory", "host"},
                   {"nccl", false},      {"asks", false},   {"shard", false}, {"keeps", true},
                   {"reduce", "no"},     {"layout_hash", 0}};
    fields.update(hello.is_null() ? Json::object() : hello);
    try {
      Connection connection(sender_->address(), {"hello", fields.dump(), {}}, {},
                            detail::Deadline(kPatience));
      for (const Message& message : messages) connection.send(message);
      for (;;) (void)connection.next(detail::Deadline(kPatience));
    } catch (const Error& e) {
      return std::string(name_of(e.code())) + ": " + e.what();
    }
  }
  void SetUp() override {
    sender_.emplace(name_, relay::SenderOptions{.deadline = 1s});
    thread_ = std::thread([this] { sender_->run(); });
  }
  void TearDown() override {
    sender_->stop();
    thread_.join();
  }
  std::string name_ = unique_name("hostile");
  Model model_;
  Publisher pub_ = Publisher::create(name_, model_.layout, {.mode = Mode::double_buffered});
  std::optional<Sender> sender_;
  std::thread thread_;
};

TEST_F(HostileReceiver, IsSentAwayAndDisturbsNobody) {
  model_.publish(pub_, 1);
  Receiver good({.from = sender_->address(), .as = name_ + ".good"});
  std::thread receives([&] { good.run(); });
  const auto expect = [&](const std::string& what, const std::string& why) {
    EXPECT_NE(what.find(why), std::string::npos) << what;
  };
  expect(sent_away({}, {{"memory", "punched cards"}}), "its memory is 'punched cards'");
  expect(sent_away({}, {{"pid", "one"}}), "its pid is no natural number");
  expect(sent_away({{"dance", "{}", {}}}), "'dance'");
  expect(sent_away({{"ready", R"({"group":1})", {}}}), "version is no natural number");
  expect(sent_away({{"want", "{}", "no layout"}}, {{"shard", true}}), "layout");
  expect(sent_away({{"ready", "{}", {}}}, {{"shard", true}}), "before it said which part");
  expect(
      sent_away({to_message(relay::Want{}, plan(std::vector<Parameter>{{"x", Dtype::f32, {1}}}))},
                {{"shard", true}}),
      "not in the publication");
  for (const std::uint64_t v : {2U, 3U}) model_.publish(pub_, v);
  const detail::Deadline deadline(kPatience);
  while (good.version() != 3 && !deadline.passed()) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(good.version(), 3U);
  good.stop();
  receives.join();
}

// In the group, and then silent: it joins no engine, answers no offer.
TEST_F(HostileReceiver, ThatAnswersNothingIsSentAwayAtTheDeadline) {
  model_.publish(pub_, 1);
  EXPECT_NE(sent_away({}).find("no answer in time"), std::string::npos);
}

// It would keep a place that another receiver could have.
TEST_F(HostileReceiver, ThatNeverSaysWhichPartItTakesIsSentAwayAtTheDeadline) {
  model_.publish(pub_, 1);
  EXPECT_NE(sent_away({}, {{"shard", true}}).find("not said which part it takes"),
            std::string::npos);
}

}  // namespace
}  // namespace tenon::test
