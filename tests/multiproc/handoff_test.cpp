// Versions go from one process to others, whole, in every mode that keeps them.
#include <support/support.hpp>

namespace tenon::test {
namespace {

class Handoff : public ::testing::TestWithParam<std::tuple<MemoryKind, Mode>> {
 protected:
  [[nodiscard]] static MemoryKind kind() { return std::get<0>(GetParam()); }
  [[nodiscard]] static Mode mode() { return std::get<1>(GetParam()); }
  Publisher create(const std::string& name) {
    return Publisher::create(name, model_.layout,
                             {.memory = {kind()}, .mode = mode(), .label = "trainer"});
  }
  /// A child that verifies versions 1..last as they come, skipping what it missed.
  Child reader(const std::string& name, std::uint64_t last) {
    return Child([this, name, last] {
      auto sub = Subscriber::attach(name, {.deadline = kPatience, .label = "reader"});
      for (std::uint64_t seen = 0; seen < last;) {
        const Lease lease = sub.wait(newer_than(seen), kPatience);
        EXPECT_GT(lease.version(), seen);
        seen = lease.version();
        EXPECT_EQ(model_.wrong(lease), 0U) << "version " << seen;
        std::this_thread::sleep_for(std::chrono::microseconds(seen * 37 % 500));
        EXPECT_EQ(model_.wrong(lease), 0U) << "version " << seen << " changed while it was held";
      }
      return 0;
    });
  }
  Node node_;
  Model model_{kind()};
};
INSTANTIATE_TEST_SUITE_P(Kinds, Handoff,
                         ::testing::Combine(::testing::ValuesIn(kinds()),
                                            ::testing::Values(Mode::in_place,
                                                              Mode::double_buffered)),
                         [](const auto& p) {
                           return std::string(name_of(std::get<0>(p.param))) +
                                  (std::get<1>(p.param) == Mode::in_place ? "InPlace" : "Double");
                         });

TEST_P(Handoff, SeveralReadersSeeOnlyWholeVersions) {
  const std::string name = unique_name("many");
  constexpr std::uint64_t kVersions = 200;
  std::vector<Child> readers;
  for (int i = 0; i < 4; ++i) readers.push_back(reader(name, kVersions));
  Publisher pub = create(name);
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    // Returns before its copies are made, in GPU memory.
    EXPECT_EQ(pub.publish(model_.sources(v), {.deadline = kPatience, .require = v == 1 ? 4U : 0U}),
              v);
  }
  for (Child& r : readers) EXPECT_EQ(r.wait(), 0);
}

TEST_P(Handoff, LateJoinerGetsTheCurrentVersionAtOnce) {
  const std::string name = unique_name("late");
  Publisher pub = create(name);
  for (std::uint64_t v = 1; v <= 3; ++v) model_.publish(pub, v);
  Child late([&] {
    auto sub = Subscriber::attach(name, {.deadline = 0s});
    const auto lease = sub.try_acquire();
    return lease && lease->version() == 3 && model_.wrong(*lease) == 0 ? 0 : 1;
  });
  EXPECT_EQ(late.wait(), 0);
}

TEST_P(Handoff, BusyReaderSkipsToTheNewest) {
  const std::string name = unique_name("skip");
  Publisher pub = create(name);
  Signal one;
  Signal five;
  Child busy([&] {
    auto sub = Subscriber::attach(name, {.deadline = kPatience});
    sub.wait(exactly(1), kPatience).release();
    one.poke();
    if (!five.wait()) return 2;
    const Lease lease = sub.wait(newer_than(1), kPatience);
    return lease.version() == 5 && model_.wrong(lease) == 0 ? 0 : 1;
  });
  model_.publish(pub, 1, {.require = 1});
  ASSERT_TRUE(one.wait());
  for (std::uint64_t v = 2; v <= 5; ++v) model_.publish(pub, v);
  five.poke();
  EXPECT_EQ(busy.wait(), 0);
}

TEST_P(Handoff, OneProcessMayPublishAndSubscribeSeveralTimes) {
  const std::string name = unique_name("self");
  Publisher pub = create(name);
  auto a = Subscriber::attach(name);
  auto b = Subscriber::attach(name);
  model_.publish(pub, 1);
  const Lease la = a.wait(newest(), kPatience);
  const Lease lb = b.wait(newest(), kPatience);
  EXPECT_EQ(la["embed"].data(), lb["embed"].data())
      << "one mapping serves all subscribers of a process";
  EXPECT_EQ(model_.wrong(la), 0U);
  EXPECT_NE(a.place(), b.place());
  EXPECT_EQ(pub.subscribers().size(), 2U);
  if (mode() == Mode::in_place) {
    EXPECT_EQ(la["embed"].data(), pub.storage("embed"))
        << "a publisher's own process reads the publisher's pointer";
  }
}

TEST_P(Handoff, UnchangedBucketsKeepTheirBytesAndSaySo) {
  const std::string name = unique_name("frozen");
  Publisher pub = create(name);
  auto sub = Subscriber::attach(name);
  model_.publish(pub, 1);
  auto sources = model_.sources(2);
  const auto frozen = model_.layout.bucket_parameters(0);
  for (std::size_t i = frozen.first; i < frozen.second; ++i) sources[i] = {.unchanged = true};
  publish(pub, sources);
  const Lease lease = sub.wait(exactly(2), kPatience);
  EXPECT_EQ(lease.written_in(0), 1U);
  EXPECT_EQ(lease.written_in(1), 2U);
  for (std::size_t i = 0; i < model_.layout.size(); ++i) {
    const bool old = model_.layout[i].bucket == 0;  // a tied parameter lies where its original does
    EXPECT_EQ(model_.wrong(i, lease[i].data(), old ? 1 : 2), 0U) << model_.layout[i].name;
  }
}

TEST_P(Handoff, LoadSkipsBucketsItAlreadyHas) {
  const std::string name = unique_name("load");
  Publisher pub = create(name);
  auto sub = Subscriber::attach(name);
  Destination into(model_);
  model_.publish(pub, 1);
  EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
  EXPECT_EQ(into.wrong(1), 0U);
  const std::size_t embed = model_.layout.at("embed");
  into.bytes[embed].spoil();  // would be repaired by a copy
  auto sources = model_.sources(1);
  for (Source& s : sources) s.unchanged = true;
  publish(pub, sources);
  EXPECT_EQ(sub.load(into.plan, kPatience), 2U);
  EXPECT_EQ(into.wrong(1), 1U) << "an unchanged bucket was copied again";
  model_.publish(pub, 3);
  EXPECT_EQ(sub.load(into.plan, kPatience), 3U);
  EXPECT_EQ(into.wrong(3), 0U);
  EXPECT_EQ(into.plan.state(), LoadState::loaded);
}

TEST_P(Handoff, AllUnchangedNeedsNobodyToLetGo) {
  const std::string name = unique_name("same");
  Publisher pub = create(name);
  auto sub = Subscriber::attach(name);
  model_.publish(pub, 1);
  const Lease held = sub.wait(newest(), kPatience);
  std::vector<Source> unchanged(model_.layout.size(), Source{.unchanged = true});
  EXPECT_EQ(publish(pub, unchanged, {.deadline = 0s}), 2U);
  const Lease next = sub.wait(newer_than(1), kPatience);
  EXPECT_EQ(next["embed"].data(), held["embed"].data());
  EXPECT_FALSE(held.wanted());
}

TEST_P(Handoff, TheParityOfTheVersionDecidesNothing) {
  const std::string name = unique_name("parity");
  Publisher pub = create(name);
  auto sub = Subscriber::attach(name);
  // Bucket 0 changes in every second version only, bucket 1 in the others: their slots take turns
  // unevenly.
  std::vector<std::uint64_t> written{1, 1};
  model_.publish(pub, 1);
  for (std::uint64_t v = 2; v <= 9; ++v) {
    std::optional<Lease> held;  // keeps the version before, where the mode allows it
    if (mode() == Mode::double_buffered) held = sub.wait(exactly(v - 1), kPatience);
    const std::uint64_t before = written[0];
    auto sources = model_.sources(v);
    for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) {
      const auto [first, last] = model_.layout.bucket_parameters(b);
      const bool frozen = b != v % 2 && b < 2;
      for (std::size_t i = first; i < last; ++i) sources[i].unchanged = frozen;
      if (b < 2 && !frozen) written[b] = v;
    }
    publish(pub, sources, {.deadline = kPatience});
    const Lease lease = sub.wait(exactly(v), kPatience);
    for (std::size_t i = 0; i < model_.layout.size(); ++i) {
      const std::size_t b = model_.layout[i].bucket;
      EXPECT_EQ(model_.wrong(i, lease[i].data(), b < 2 ? written[b] : v), 0U)
          << model_.layout[i].name << " of version " << v;
    }
    EXPECT_EQ(held ? model_.wrong(0, (*held)[0].data(), before) : 0, 0U)
        << "version " << v - 1 << " changed while held";
  }
}

TEST_P(Handoff, ViewsAreFoundByNameAndInOrder) {
  const std::string name = unique_name("views");
  Publisher pub = create(name);
  auto sub = Subscriber::attach(name);
  model_.publish(pub, 1);
  const Lease lease = sub.wait(newest(), kPatience);
  std::size_t i = 0;
  for (const View& view : lease) {
    const Parameter p = Model::parameters()[i];
    EXPECT_EQ(view.name(), p.name);
    EXPECT_EQ(view.dtype(), p.dtype);
    EXPECT_EQ(std::vector<std::uint64_t>(view.shape().begin(), view.shape().end()), p.shape);
    EXPECT_EQ(lease[p.name].data(), view.data());
    ++i;
  }
  EXPECT_EQ(i, lease.size());
  EXPECT_EQ(lease["head"].data(), lease["embed"].data()) << "tied parameters are stored once";
  EXPECT_FALSE(lease.find("nothing"));
  EXPECT_THROWS(NoSuchParameter, "'layer.0.q'", (void)lease["layer.0.qq"]);
}

TEST_P(Handoff, SixtyFifthSubscriberIsRefused) {
  const std::string name = unique_name("full");
  Publisher pub = create(name);
  std::vector<Subscriber> all;
  for (int i = 0; i < 64; ++i) all.push_back(Subscriber::attach(name));
  EXPECT_THROWS(TooManySubscribers, "64", (void)Subscriber::attach(name));
  all.pop_back();
  EXPECT_NO_THROW((void)Subscriber::attach(name));
}

TEST_P(Handoff, SubscriberMemoryIsReadOnly) {
  if (kind() != MemoryKind::host) GTEST_SKIP() << "CUDA maps for reading and writing";
  const std::string name = unique_name("ro");
  Publisher pub = create(name);
  model_.publish(pub, 1);
  Child writer([&] {
    auto sub = Subscriber::attach(name);
    const Lease lease = sub.wait(newest(), kPatience);
    *const_cast<std::byte*>(lease["embed"].data()) = std::byte{1};
    return 0;
  });
  EXPECT_NE(writer.wait(), 0)
      << "a write went through";  // SIGSEGV, or the sanitizer's report of it
}

class OnEachKind : public ::testing::TestWithParam<MemoryKind> {
 protected:
  Node node_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, OnEachKind, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(OnEachKind, ParametersBornInTheSlotAreNotCopied) {
  const std::string name = unique_name("born");
  Model model(GetParam());
  Publisher pub = Publisher::create(name, model.layout, {.memory = {GetParam()}});
  auto sub = Subscriber::attach(name);
  for (std::uint64_t v = 1; v <= 3; ++v) {
    auto update = pub.begin();
    for (std::size_t b = 0; b < model.layout.bucket_count(); ++b) (void)update.open(b);
    for (std::size_t i = 0; i < model.layout.size(); ++i) {
      if (model.layout.tied_to(i) || model.layout[i].bytes == 0) continue;
      Bytes::put(GetParam(), pub.storage(model.layout[i].name), model.bytes_of(i, v));
    }
    for (std::size_t b = 0; b < model.layout.bucket_count(); ++b) update.seal(b);
    EXPECT_EQ(update.commit(), v);
    EXPECT_EQ(model.wrong(sub.wait(exactly(v), kPatience)), 0U);
  }
}

TEST_P(OnEachKind, ForkedChildCannotUseOrHarmItsParentsObjects) {
  const std::string name = unique_name("fork");
  Model model(GetParam());
  auto pub =
      std::make_unique<Publisher>(Publisher::create(name, model.layout, {.memory = {GetParam()}}));
  auto sub = std::make_unique<Subscriber>(Subscriber::attach(name));
  model.publish(*pub, 1);
  auto lease = std::make_unique<Lease>(sub->wait(newest(), kPatience));
  Child child([&] {
    EXPECT_THROWS(ForkedChild, "forked child", (void)pub->publish({}));
    EXPECT_THROWS(ForkedChild, "forked child", (void)sub->try_acquire());
    lease.reset();  // destructors touch nothing shared
    sub.reset();
    pub.reset();
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(pub->subscribers().at(0).holds, 1U) << "the child ended its parent's lease";
  EXPECT_EQ(model.wrong(*lease), 0U);
  EXPECT_EQ(Subscriber::probe(name), Attach::ready) << "the child closed its parent's publication";
  Child newcomer([&] {
    auto later = Subscriber::attach(name, {.deadline = 1s});
    return model.wrong(later.wait(newest(), kPatience)) == 0 ? 0 : 1;
  });
  EXPECT_EQ(newcomer.wait(), 0) << "the child removed its parent's slots";
  lease->release();
  EXPECT_EQ(model.publish(*pub, 2), 2U);
}

}  // namespace
}  // namespace tenon::test
