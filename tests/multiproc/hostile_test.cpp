// Peers that lie. A publication that names slots which cannot be, and a subscriber that writes
// nonsense wherever it may write: errors that name it, never a crash, never a wait without end.
#include <random>
#include <support/support.hpp>

namespace tenon::test {
namespace {

using Numbers = std::vector<std::uint64_t>;
constexpr std::uint64_t kHuge = ~std::uint64_t{0};

detail::Segment segment_of(const std::string& name) {
  return std::move(
      *detail::find_publication(name, ::geteuid(), detail::SharedObject::Access::read_write)
           .segment);
}

bool is_plain(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

std::string name_of_kind(const ::testing::TestParamInfo<MemoryKind>& p) { return name_of(p.param); }

/// A publication of this process, and readers in others: they have no pointer to its slots.
class Hostile : public ::testing::TestWithParam<MemoryKind> {
 protected:
  Publisher create(Mode mode, bool checksums = false) {
    return Publisher::create(name_, model_.layout,
                             {.memory = {GetParam()}, .mode = mode, .checksums = checksums});
  }
  /// What a reader gets who attaches, takes the current version and touches all of it.
  void expect_reader(const std::function<void(const std::string& what)>& judge) {
    Child reader([&] {
      judge(thrown([&] {
        auto sub = Subscriber::attach(name_, {.deadline = 0s});
        if (const auto lease = sub.try_acquire()) (void)model_.wrong(*lease);
      }));
      return 0;
    });
    EXPECT_EQ(reader.wait(), 0) << "above 1000: killed by a signal";
  }
  std::string name_ = unique_name("hostile");
  Node node_;
  Model model_{GetParam()};
};

// --- Hostile segments ---

struct SlotDamage {
  const char* field;  ///< in the error; for handles the driver names no field
  std::function<void(format::Slot&)> inflict;
};

std::vector<SlotDamage> slot_damages(MemoryKind kind) {
  std::vector<SlotDamage> all;
  for (const std::uint32_t value : {0U, 3U, ~0U, kind == MemoryKind::host ? 2U : 1U})
    all.push_back({"slot.handle_kind", [value](format::Slot& s) { s.handle_kind = value; }});
  for (const std::uint32_t value : {1U << 21U, 1U << 31U, ~0U})
    all.push_back({"slot.allocation", [value](format::Slot& s) { s.allocation = value; }});
  for (const std::uint64_t value : Numbers{0, 1, 1ULL << 63U, kHuge})
    all.push_back({"slot.bytes", [value](format::Slot& s) { s.bytes = value; }});
  for (const std::uint64_t value :
       Numbers{1, std::uint64_t{255}, 1ULL << 40U, (1ULL << 63U) + 256, kHuge - 255, kHuge})
    all.push_back({"slot.offset", [value](format::Slot& s) { s.offset = value; }});
  all.push_back({"slot.offset", [](format::Slot& s) { s.offset = kHuge - s.bytes + 1; }});  // wraps
  for (const std::uint64_t value : Numbers{0, 1})
    all.push_back({"slot.offset", [value](format::Slot& s) { s.mapped_bytes = value; }});
  // Behind the next one lies what was never allocated.
  for (const std::uint64_t value : Numbers{1ULL << 40U, 1ULL << 62U, kHuge})
    all.push_back({"slot.mapped_bytes", [value](format::Slot& s) {
                     s.bytes = format::kSlotGranularity;
                     s.mapped_bytes = value;
                   }});
  return all;
}

class HostileSlots : public Hostile {};
INSTANTIATE_TEST_SUITE_P(Kinds, HostileSlots, ::testing::ValuesIn(kinds()), name_of_kind);

TEST_P(HostileSlots, AreRefusedByTheNameOfTheField) {
  Publisher pub = create(Mode::double_buffered);
  model_.publish(pub, 1);
  const detail::Segment segment = segment_of(name_);
  for (const SlotDamage& damage : slot_damages(GetParam())) {
    format::Slot& slot = segment.raw_slot(1);
    const format::Slot before = slot;
    damage.inflict(slot);
    expect_reader([&](const std::string& what) {
      EXPECT_TRUE(what.starts_with("BadFormat: ")) << damage.field << ": " << what;
      EXPECT_NE(what.find(damage.field), std::string::npos) << what;
    });
    slot = before;
  }
  expect_reader([](const std::string& what) { EXPECT_EQ(what, "nothing"); });
}

// A handle is 64 bytes that only the driver understands.
TEST_P(HostileSlots, HandlesThatAreNoneAreErrors) {
  if (GetParam() == MemoryKind::host) GTEST_SKIP() << "host memory has no handles";
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  const detail::Segment segment = segment_of(name_);
  format::Slot& slot = segment.raw_slot(0);
  const format::Slot before = slot;
  const auto refused = [](const std::string& what) {
    EXPECT_TRUE(what.starts_with("Cuda: ") || what.starts_with("BadFormat: ")) << what;
  };
  for (const std::uint8_t fill : {0x00, 0xFF, 0x41}) {
    std::memset(slot.handle, fill, sizeof(slot.handle));
    expect_reader(refused);
  }
  std::mt19937_64 random(7);
  for (int i = 0; i < 5; ++i) {
    for (std::uint8_t& byte : slot.handle) byte = static_cast<std::uint8_t>(random());
    expect_reader(refused);
  }
  slot = before;
  expect_reader([](const std::string& what) { EXPECT_EQ(what, "nothing"); });
}

// A good handle of something else, smaller than the slot claims.
TEST_P(HostileSlots, AnotherPublicationsHandleReachesNoFurtherThanItsMemory) {
  if (GetParam() == MemoryKind::host) GTEST_SKIP() << "host memory has no handles";
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  const std::string other = unique_name("other");
  const std::vector<Parameter> big{{"w", Dtype::u8, {8U << 20U}}};
  Publisher large = Publisher::create(other, plan(big), {.memory = {GetParam()}});
  const detail::Segment segment = segment_of(name_);
  const detail::Segment theirs = segment_of(other);
  std::memcpy(theirs.raw_slot(0).handle, segment.raw_slot(0).handle, 64);
  Child reader([&] {
    EXPECT_THROWS(BadFormat, "slot.mapped_bytes",
                  (void)Subscriber::attach(other, {.deadline = 0s}));
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
}

class HostileChecksums : public Hostile {};
INSTANTIATE_TEST_SUITE_P(Kinds, HostileChecksums, ::testing::ValuesIn(kinds()), name_of_kind);

TEST_P(HostileChecksums, SizesThatCannotBeAreRefused) {
  Publisher pub = create(Mode::double_buffered, true);
  model_.publish(pub, 1);
  const detail::Segment segment = segment_of(name_);
  const std::uint64_t before = segment.header().checksum_bytes;
  for (const std::uint64_t bytes : Numbers{1, before - 8, before + 8, 1ULL << 63U, kHuge}) {
    segment.header().checksum_bytes = bytes;
    expect_reader(
        [](const std::string& what) { EXPECT_TRUE(what.starts_with("BadFormat: ")) << what; });
    // The object may well be as long as they say.
    segment.header().total_bytes += bytes - before;
    expect_reader(
        [](const std::string& what) { EXPECT_TRUE(what.starts_with("BadFormat: ")) << what; });
    segment.header().total_bytes -= bytes - before;
  }
  segment.header().checksum_bytes = before;
  expect_reader([](const std::string& what) { EXPECT_EQ(what, "nothing"); });
}

TEST_P(HostileChecksums, ThatAreWrongNameTheirParameters) {
  Publisher pub = create(Mode::in_place, true);
  model_.publish(pub, 1);
  const detail::Segment segment = segment_of(name_);
  for (std::uint64_t i = 0; i < segment.facts().checksum_bytes / 8; ++i)
    segment.checksum(i) = 0x5555 + i;
  Child reader([&] {
    auto sub = Subscriber::attach(name_);
    const Lease lease = sub.wait(newest(), kPatience);
    EXPECT_GE(lease.verify().size(), 9U);
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
}

class HostileHeader : public Hostile {};
INSTANTIATE_TEST_SUITE_P(Kinds, HostileHeader, ::testing::ValuesIn(kinds()), name_of_kind);

// The words that change are writable for every subscriber.
TEST_P(HostileHeader, WordsThatAreNonsenseAreErrorsOrNotNow) {
  for (const Mode mode : {Mode::in_place, Mode::double_buffered}) {
    Publisher pub = create(mode);
    model_.publish(pub, 1);
    const detail::Segment segment = segment_of(name_);
    const std::uint64_t next = format::start_of(2, model_.layout.bucket_count());
    Child reader([&] {
      auto sub = Subscriber::attach(name_);
      for (const std::uint64_t value :
           Numbers{0, 2, next, next + 1, format::start_of(1ULL << 40U, 3), 1ULL << 63U, kHuge}) {
        for (format::Word64* word : {&segment.header().current, &segment.header().oldest}) {
          const std::uint64_t before = word->exchange(value);
          const std::string what = thrown([&] {
            if (const auto lease = sub.try_acquire()) {
              EXPECT_EQ(model_.wrong(*lease), 0U);
            }
            (void)sub.wait(newer_than(1), 20ms);
          });
          EXPECT_TRUE(what.starts_with("BadFormat: ") || what.starts_with("DeadlinePassed: "))
              << what;
          word->store(before);
        }
      }
      EXPECT_EQ(model_.wrong(sub.wait(exactly(1), kPatience)), 0U);
      return 0;
    });
    EXPECT_EQ(reader.wait(), 0);
    EXPECT_EQ(model_.publish(pub, 2), 2U) << "the publisher believes its own words alone";
  }
}

TEST_P(HostileHeader, StreamingReadersAreNotLedAstray) {
  Publisher pub = create(Mode::streaming);
  const detail::Segment segment = segment_of(name_);
  for (const std::uint64_t value : Numbers{1, 1ULL << 62U, kHuge}) {
    for (format::Word64* word : {&segment.header().completed, &segment.header().oldest}) {
      const std::uint64_t before = word->exchange(value);
      Child reader([&] {
        auto sub = Subscriber::attach(name_);
        Destination into(model_);
        const std::string what = thrown([&] { (void)sub.load(into.plan, 50ms); });
        EXPECT_TRUE(what.starts_with("BadFormat: ") || what.starts_with("DeadlinePassed: "))
            << what;
        EXPECT_NE(into.plan.state(), LoadState::loaded);
        return 0;
      });
      EXPECT_EQ(reader.wait(), 0) << value;
      word->store(before);
    }
  }
}

// --- Hostile subscribers ---

class HostileSubscriber : public ::testing::TestWithParam<std::tuple<MemoryKind, Mode>> {
 protected:
  [[nodiscard]] static MemoryKind kind() { return std::get<0>(GetParam()); }
  [[nodiscard]] static Mode mode() { return std::get<1>(GetParam()); }
  std::string name_ = unique_name("liar");
  Node node_;
  Model model_{kind()};
};
INSTANTIATE_TEST_SUITE_P(Kinds, HostileSubscriber,
                         ::testing::Combine(::testing::ValuesIn(kinds()),
                                            ::testing::Values(Mode::in_place, Mode::double_buffered,
                                                              Mode::streaming)),
                         [](const auto& p) {
                           std::string mode = name_of(std::get<1>(p.param));
                           std::erase(mode, '-');
                           return std::string(name_of(std::get<0>(p.param))) + mode;
                         });

struct PlaceWords {
  std::uint64_t cursor;
  std::uint32_t state;
  std::uint32_t pid;  ///< 1: that of a bystander
};

std::vector<PlaceWords> nonsense() {
  std::vector<PlaceWords> all;
  for (const std::uint64_t cursor : Numbers{0, 1, 3, 1ULL << 63U, kHuge - 1, kHuge}) {
    for (const std::uint32_t state : {0U, 1U, 7U, ~0U})
      for (const std::uint32_t pid : {0U, 1U, 0x80000000U, ~0U})
        all.push_back({cursor, state, pid});
  }
  return all;
}

// What stands in a place is the word of whoever has it. The publisher must end each version, one
// way or the other, and say whose place it was; and signal nobody whose pid is written there.
TEST_P(HostileSubscriber, NonsenseInItsPlaceIsAnErrorThatNamesIt) {
  Signal ready;
  Signal end;
  Child bystander([&] {
    for (int number = 1; number < NSIG; ++number) {
      if (number != SIGKILL && number != SIGSTOP) ::signal(number, [](int) { ::_exit(77); });
    }
    ready.poke();
    return end.wait() ? 0 : 1;
  });
  ASSERT_TRUE(ready.wait());
  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {kind()}, .mode = mode()});
  Child liar([&] {
    auto sub = Subscriber::attach(name_, {.label = "liar"});
    ready.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(ready.wait());
  const detail::Segment segment = segment_of(name_);
  format::Place& row = segment.place(pub.subscribers().at(0).place);
  std::uint64_t published = 0;
  std::uint64_t refused = 0;
  for (const PlaceWords& words : nonsense()) {
    row.owner.pid = words.pid == 1 ? static_cast<std::uint32_t>(bystander.pid()) : words.pid;
    row.owner.start_time = kHuge * (words.pid % 2);
    row.pinned_at = kHuge;
    row.loaded_version = kHuge;
    std::memset(row.label, '\x1b', sizeof(row.label));  // no NUL, and a terminal's commands
    row.state = words.state;
    row.cursor = words.cursor;
    const std::string what = thrown([&] { (void)model_.publish(pub, 1, {.deadline = 10ms}); });
    if (what == "nothing") {
      ++published;
    } else {
      ++refused;
      const bool expected = what.starts_with("ProtocolError: place 0 ") ||
                            what.starts_with("DeadlinePassed: publishing version");
      EXPECT_TRUE(expected) << what;
      EXPECT_TRUE(words.state == 0 || what.find("place 0") != std::string::npos) << what;
    }
    const bool is_beyond = words.cursor >= 1ULL << 63U && words.cursor != format::kIdle;
    EXPECT_EQ(what.starts_with("ProtocolError: "), is_beyond) << what;
    EXPECT_TRUE(is_plain(what)) << what;
    for (const SubscriberInfo& s : pub.subscribers()) EXPECT_TRUE(is_plain(s.label));
    (void)inspect(name_);
    row.cursor = format::kIdle;
  }
  EXPECT_GT(published, 0U);
  EXPECT_GT(refused, 0U);
  EXPECT_EQ(bystander.wait(0ms), -1) << "77: it was sent a signal";
  liar.kill();
  row.owner.pid = 0;
  row.cursor = 0;
  EXPECT_NO_THROW((void)model_.publish(pub, 2, {.deadline = kPatience}));
  EXPECT_TRUE(pub.subscribers().empty()) << "the dead liar's place is free again";
  end.poke();
  EXPECT_EQ(bystander.wait(), 0);
}

// A pid that somebody wrote is what an operator would act on.
TEST_P(HostileSubscriber, AForgedPidIsToldApartByTheLock) {
  if (mode() == Mode::streaming) GTEST_SKIP() << "the same words as in the other modes";
  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {kind()}, .mode = mode()});
  model_.publish(pub, 1);
  const detail::Segment segment = segment_of(name_);
  Signal ready;
  Child victim([&] {
    const auto sub = Subscriber::attach(name_);
    ready.poke();
    for (;;) ::pause();
    return 1;
  });
  ASSERT_TRUE(ready.wait());
  const format::Process me = detail::owner_of(segment.place(0));
  format::Place& row = segment.place(5);
  row.owner.pid = me.pid;
  row.owner.start_time = me.start_time;
  row.owner.pid_namespace = me.pid_namespace;
  row.state = static_cast<std::uint32_t>(format::PlaceState::attached);
  row.cursor = 0;
  const std::string what = thrown([&] { (void)model_.publish(pub, 2, {.deadline = 10ms}); });
  EXPECT_NE(what.find("place 5, pid " + std::to_string(me.pid)), std::string::npos) << what;
  EXPECT_NE(what.find("not the lock of its place"), std::string::npos) << what;
  row.cursor = format::kIdle;
  row.state = static_cast<std::uint32_t>(format::PlaceState::free);
}

// Wakes may be lost then, and come when they should not: each costs a slice of 100 ms at most.
TEST_P(HostileSubscriber, NonsenseInTheWakeWordsCostsSlicesAndNoVersion) {
  constexpr std::uint64_t kVersions = 8;
  Publisher pub = Publisher::create(name_, model_.layout, {.memory = {kind()}, .mode = mode()});
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.spin = 0ns});
    Destination into(model_);
    for (std::uint64_t seen = 0; seen < kVersions;) {
      if (mode() == Mode::streaming) {
        seen = sub.load(into.plan, kPatience);
        EXPECT_EQ(into.wrong(seen), 0U);
      } else {
        const Lease lease = sub.wait(newer_than(seen), kPatience);
        seen = lease.version();
        EXPECT_EQ(model_.wrong(lease), 0U);
      }
    }
    return 0;
  });
  Child liar([&] {
    const detail::Segment segment = segment_of(name_);
    format::Header& header = segment.header();
    std::mt19937 random(5);
    for (;;) {
      for (format::WakeWord* word : {&header.wake, &header.release}) {
        word->word = static_cast<std::uint32_t>(random());
        word->waiters = random() % 2 == 0 ? 0U : static_cast<std::uint32_t>(random());
      }
      std::this_thread::sleep_for(50us);
    }
    return 0;
  });
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    const std::string what = thrown(
        [&] { model_.publish(pub, v, {.deadline = kPatience, .require = v == 1 ? 1U : 0U}); });
    EXPECT_EQ(what, "nothing");
  }
  EXPECT_EQ(reader.wait(), 0);
  EXPECT_EQ(liar.wait(0ms), -1);
}

}  // namespace
}  // namespace tenon::test
