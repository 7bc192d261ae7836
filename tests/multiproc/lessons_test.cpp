// What users of other systems suffered on one node, as tests. docs/lessons.md tells the stories.
#include <linux/filter.h>
#include <linux/seccomp.h>

#include <filesystem>
#include <fstream>
#include <ostream>
#include <support/support.hpp>

namespace tenon::test {
namespace {

/// What a process and the node have in use for publications.
struct Resources {
  std::size_t descriptors = 0;
  std::size_t mappings = 0;  ///< of Tenon's objects
  std::uint64_t allocations = 0;
  std::uint64_t handles = 0;
  bool operator==(const Resources&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Resources& r) {
  return out << r.descriptors << " descriptors, " << r.mappings << " mappings, " << r.allocations
             << " allocations, " << r.handles << " handles";
}

Resources in_use() {
  Resources r;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    r.descriptors += entry.path().empty() ? 0 : 1;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    r.mappings += line.find("/dev/shm/tenon.") != std::string::npos ||
                          line.find("/dev/shm/tenon-slot.") != std::string::npos
                      ? 1
                      : 0;
#if TENON_TEST_SIM
  r.allocations = sim::live_allocations();
  r.handles = sim::open_handles();
#endif
  return r;
}

class Lessons : public ::testing::TestWithParam<MemoryKind> {
 protected:
  Publisher create(Mode mode) {
    return Publisher::create(name_, model_.layout, {.memory = {GetParam()}, .mode = mode});
  }
  std::string name_ = unique_name("lessons");
  Node node_;
  Model model_{GetParam()};
  Signal ready_;
  Signal go_on_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, Lessons, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// --- Leaks ---

TEST_P(Lessons, ManyVersionsLeaveMemoryAndDescriptorsAsTheyWere) {
  constexpr std::uint64_t kSettled = 4;
  constexpr std::uint64_t kVersions = 60;
  for (const Mode mode : {Mode::in_place, Mode::double_buffered, Mode::streaming}) {
    Publisher pub = create(mode);
    Child reader([&] {
      auto sub = Subscriber::attach(name_);
      Destination into(model_);
      Resources settled;
      for (std::uint64_t v = 0; v < kVersions;) {
        v = sub.load(into.plan, kPatience);
        if (mode != Mode::streaming) (void)sub.try_acquire();
        if (v <= kSettled) settled = in_use();
        ready_.poke();
      }
      EXPECT_EQ(in_use(), settled);
      return go_on_.wait() ? 0 : 1;
    });
    Resources settled;
    for (std::uint64_t v = 1; v <= kVersions; ++v) {
      model_.publish(pub, v, {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
      ASSERT_TRUE(ready_.wait());
      if (v == kSettled) settled = in_use();
    }
    EXPECT_EQ(in_use(), settled) << name_of(mode);
    go_on_.poke();
    EXPECT_EQ(reader.wait(), 0) << name_of(mode);
  }
}

TEST_P(Lessons, AttachingAgainAndAgainLeavesNothing) {
  Publisher pub = create(Mode::double_buffered);
  model_.publish(pub, 1);
  Child reader([&] {
    Destination into(model_);
    const std::size_t inherited = in_use().mappings;
    Resources settled;
    for (int i = 0; i < 40; ++i) {
      {
        auto sub = Subscriber::attach(name_);
        const Lease lease = sub.wait(newest(), kPatience);
        EXPECT_EQ(model_.wrong(0, lease[0].data(), 1), 0U);
        into.plan.invalidate();
        (void)sub.load(into.plan, kPatience);
      }
      if (i == 0) settled = in_use();
    }
    EXPECT_EQ(in_use(), settled);
    EXPECT_EQ(settled.mappings, inherited);
    EXPECT_EQ(settled.handles, 0U);
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
  EXPECT_TRUE(pub.subscribers().empty());
}

TEST_P(Lessons, ADeadClientPinsNothing) {
  const auto sources = model_.sources(1);
  const Resources before = in_use();
  for (int round = 0; round < 3; ++round) {
    Publisher pub = create(Mode::in_place);
    publish(pub, sources);
    const std::string instance = inspect(name_).instance;
    Child reader([&] {
      auto sub = Subscriber::attach(name_);
      const Lease lease = sub.wait(newest(), kPatience);
      ready_.poke();
      for (;;) ::pause();
      return 0;
    });
    ASSERT_TRUE(ready_.wait());
    reader.kill();
    pub.close();
    EXPECT_TRUE(shm_objects(instance).empty());
    EXPECT_TRUE(shm_objects(name_).empty());
  }
  EXPECT_EQ(in_use().allocations, before.allocations);
  EXPECT_EQ(in_use().mappings, before.mappings);
}

// Per-tensor handles exhausted a driver's table, and took seconds to open.
TEST_P(Lessons, OpeningIsPerSlotWhateverTheNumberOfParameters) {
  std::vector<Parameter> parameters;
  for (int i = 0; i < 3000; ++i) parameters.push_back({"w" + std::to_string(i), Dtype::u8, {100}});
  const Layout layout = plan(parameters, {.bucket_bytes = 256U << 10U});
  ASSERT_EQ(layout.bucket_count(), 3U);
  Publisher pub = Publisher::create(name_, layout, {.memory = {GetParam()}});
  Child reader([&] {
    const Resources before = in_use();
    auto sub = Subscriber::attach(name_);
    const Resources after = in_use();
    const bool on_gpu = GetParam() != MemoryKind::host;
    EXPECT_EQ(after.handles - before.handles, on_gpu ? 3U : 0U);
    EXPECT_EQ(after.mappings - before.mappings, on_gpu ? 1U : 2U) << "its header, and all slots";
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
}

// --- Races ---

// A driver acknowledged for all ranks when the first had finished; the sender overwrote the rest.
TEST_P(Lessons, TheSlowestOfSeveralReadersIsWaitedFor) {
  Publisher pub = create(Mode::in_place);
  std::vector<Child> readers;
  const Signal fast;
  const Signal slow;
  for (int rank = 0; rank < 3; ++rank) {
    readers.emplace_back([&, rank] {
      auto sub = Subscriber::attach(name_, {.label = "rank-" + std::to_string(rank)});
      const Lease lease = sub.wait(exactly(1), kPatience);
      ready_.poke();
      if (!(rank == 2 ? slow : fast).wait()) return 2;
      return model_.wrong(lease, 1) == 0 ? 0 : 1;
    });
  }
  model_.publish(pub, 1, {.require = 3});
  for (int rank = 0; rank < 3; ++rank) ASSERT_TRUE(ready_.wait());
  fast.poke();
  fast.poke();
  EXPECT_EQ(readers[0].wait(), 0);
  EXPECT_EQ(readers[1].wait(), 0);
  const std::string what = thrown([&] { model_.publish(pub, 2, {.deadline = 50ms}); });
  EXPECT_NE(what.find("(rank-2) holds version 1"), std::string::npos) << what;
  EXPECT_EQ(what.find("rank-0"), std::string::npos) << what;
  slow.poke();
  EXPECT_EQ(readers[2].wait(), 0) << "the version changed under the last reader";
  EXPECT_EQ(model_.publish(pub, 2), 2U);
}

// Captured graphs keep the pointers they were captured with.
TEST_P(Lessons, PointersStayForTheLifeOfAPublication) {
  for (const Mode mode : {Mode::in_place, Mode::double_buffered}) {
    Publisher pub = create(mode);
    auto sub = Subscriber::attach(name_);
    std::vector<const std::byte*> first[2];
    for (std::uint64_t v = 1; v <= 8; ++v) {
      model_.publish(pub, v);
      const Lease lease = sub.wait(exactly(v), kPatience);
      auto& before = first[mode == Mode::in_place ? 0 : v % 2];
      const bool is_new = before.empty();
      for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) {
        if (is_new) before.push_back(lease.bucket(b));
        EXPECT_EQ(lease.bucket(b), before[b]) << "version " << v;
      }
    }
  }
}

// An engine that transforms its weights in place (quantises them, say) after each load must not be
// told that it has the bytes of an unchanged bucket already.
TEST_P(Lessons, DestinationsTransformedInPlaceAreLoadedAnew) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  Destination into(model_);
  model_.publish(pub, 1);
  EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
  for (const Bytes& b : into.bytes) b.spoil();
  std::vector<Source> unchanged(model_.layout.size(), Source{.unchanged = true});
  publish(pub, unchanged);
  into.plan.invalidate();
  EXPECT_EQ(into.plan.state(), LoadState::empty);
  EXPECT_EQ(into.plan.arrived("embed"), 0U);
  EXPECT_EQ(sub.load(into.plan, kPatience), 2U);
  EXPECT_EQ(into.wrong(1), 0U);
  // And without a new version: the engine was put to sleep and has lost its memory.
  for (const Bytes& b : into.bytes) b.spoil();
  into.plan.invalidate();
  EXPECT_EQ(sub.load(into.plan, kPatience), 2U);
  EXPECT_EQ(into.wrong(1), 0U);
  EXPECT_EQ(into.plan.state(), LoadState::loaded);
}

// --- Hangs ---

TEST_P(Lessons, EveryWaitEndsAtItsDeadline) {
  EXPECT_THROWS(NotFound, "", (void)Subscriber::attach(name_, {.deadline = 20ms}));
  for (const Mode mode : {Mode::in_place, Mode::streaming}) {
    Publisher pub = create(mode);
    Destination into(model_);
    auto sub = Subscriber::attach(name_, {.deadline = 20ms});
    if (mode != Mode::streaming)
      EXPECT_THROWS(DeadlinePassed, "no version newer", (void)sub.wait(newest(), 20ms));
    EXPECT_THROWS(DeadlinePassed, "", (void)sub.load(into.plan, 20ms));
    EXPECT_THROWS(DeadlinePassed, "fewer than 9 subscribers",
                  (void)model_.publish(pub, 1, {.deadline = 20ms, .require = 9}));
    EXPECT_THROWS(DeadlinePassed, "fewer than 9 subscribers",
                  (void)pub.begin({.deadline = 20ms, .require = 9}));
    std::optional<Lease> lease;
    if (mode != Mode::streaming) {
      model_.publish(pub, 1);
      lease = sub.try_acquire();
    }
    EXPECT_THROWS(DeadlinePassed, "place 0, pid", (void)model_.publish(pub, 2, {.deadline = 20ms}));
  }
}

// One rank failed; the others waited two hours for it, and the error that began it was lost. A
// failed update left a flag that refused all later ones.
TEST_P(Lessons, AFailedUpdateIsToldByItsOwnErrorAndLeavesNoFlag) {
  for (const Mode mode : {Mode::in_place, Mode::double_buffered}) {
    Publisher pub = create(mode);
    auto sub = Subscriber::attach(name_);
    model_.publish(pub, 1);
    for (int failure = 0; failure < 6; ++failure) {
      const std::string what = thrown([&] {
        auto update = pub.begin();
        auto sources = model_.sources(2);
        const auto [first, last] = model_.layout.bucket_parameters(1);
        sources[first].bytes = 1;
        update.put(1, std::span(sources).subspan(first, last - first));
      });
      EXPECT_TRUE(what.starts_with("InvalidArgument: source ")) << what;
      EXPECT_EQ(pub.version(), 1U);
      EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience), 1), 0U);
    }
    EXPECT_EQ(model_.publish(pub, 2), 2U) << "numbers of failed attempts are used again";
    EXPECT_EQ(model_.wrong(sub.wait(exactly(2), kPatience), 2), 0U);
  }
}

// --- Environment ---

/// From here on pidfd_open() fails as under a container's seccomp profile that does not know it.
void refuse_pidfds() {
  struct ::sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct ::seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct ::sock_fprog program { static_cast<unsigned short>(std::size(filter)), filter };
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    throw SystemError(errno, "refusing pidfd_open");
}

TEST_P(Lessons, DeathIsNoticedWhereSeccompRefusesPidfds) {
  Child pub([&] {
    Publisher p = create(Mode::in_place);
    model_.publish(p, 1);
    ready_.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(ready_.wait());
  Child reader([&] {
    refuse_pidfds();
    EXPECT_EQ(::syscall(SYS_pidfd_open, ::getpid(), 0), -1);
    auto sub = Subscriber::attach(name_);
    (void)sub.wait(newest(), kPatience);
    EXPECT_THROWS(DeadlinePassed, "", (void)sub.wait(newer_than(1), 250ms));  // alive: no error
    ready_.poke();
    EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
    Publisher next = create(Mode::in_place);  // under the name of the dead one
    EXPECT_EQ(next.notes().size(), 1U);
    return 0;
  });
  ASSERT_TRUE(ready_.wait());
  pub.signal(SIGKILL);  // not reaped: a zombie is dead
  EXPECT_EQ(reader.wait(), 0);
}

TEST(LessonsOfProcesses, WithoutPidfdsAProcessRunsAsLongAsAnyThreadDoes) {
  const Signal gone;
  const Signal end;
  Child headless([&] {
    std::thread([&] {
      gone.poke();
      ::_exit(end.wait() ? 0 : 1);
    }).detach();
    ::syscall(SYS_exit, 0);  // the main thread alone: /proc says Z
    return 1;
  });
  ASSERT_TRUE(gone.wait());
  const auto pid = static_cast<std::uint32_t>(headless.pid());
  const detail::Deadline deadline(kPatience);
  while (detail::stat_of(pid).state != 'Z' && !deadline.passed()) std::this_thread::yield();
  ASSERT_EQ(detail::stat_of(pid).state, 'Z');
  EXPECT_FALSE(detail::has_exited_by_proc(pid));
  EXPECT_FALSE(detail::has_exited_by_proc(static_cast<std::uint32_t>(::getpid())));
  end.poke();
  while (!detail::has_exited_by_proc(pid) && !deadline.passed()) std::this_thread::yield();
  EXPECT_TRUE(detail::has_exited_by_proc(pid)) << "a zombie";
  EXPECT_EQ(headless.wait(), 0);
  EXPECT_TRUE(detail::has_exited_by_proc(pid)) << "reaped";
}

// shm_unlink of what was gone already ended a sender with SIGABRT.
TEST_P(Lessons, NamesRemovedUnderALivePublisherHarmNobody) {
  auto pub = std::make_unique<Publisher>(create(Mode::double_buffered));
  model_.publish(*pub, 1);
  auto sub = Subscriber::attach(name_);
  const std::string instance = inspect(name_).instance;
  for (const std::string& object : shm_objects(instance)) detail::SharedObject::unlink(object);
  detail::SharedObject::unlink(detail::publication_object(::geteuid(), name_));
  EXPECT_THROWS(NotFound, "", (void)Subscriber::attach(name_, {.deadline = 0s}));
  EXPECT_EQ(model_.publish(*pub, 2), 2U);
  EXPECT_EQ(model_.wrong(sub.wait(exactly(2), kPatience)), 0U);
  Publisher next = create(Mode::in_place);
  model_.publish(next, 1);
  pub.reset();  // takes nothing away from who has the name now
  auto other = Subscriber::attach(name_, {.deadline = 0s});
  EXPECT_EQ(model_.wrong(other.wait(exactly(1), kPatience)), 0U);
}

// --- Sizes ---

// Parameters of no elements upset how others were grouped; ranks without any had no bucket to send.
TEST_P(Lessons, BucketsOfEmptyParametersAreHandedOver) {
  const std::vector<Parameter> parameters{
      {"none.0", Dtype::bf16, {0}},     {"a", Dtype::u8, {4096}},  {"none.1", Dtype::f32, {0, 7}},
      {"none.2", Dtype::f32, {7, 0}},   {"b", Dtype::u8, {4096}},  {"none.3", Dtype::u8, {0}},
      {"huge", Dtype::u8, {3U << 20U}}, {"none.4", Dtype::u8, {0}}};
  const Layout layout = plan(parameters, {.bucket_bytes = 4000});
  std::uint64_t bytes = 0;
  bool has_empty_bucket = false;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
    bytes += layout.bucket_bytes(b);
    has_empty_bucket = has_empty_bucket || layout.bucket_bytes(b) == 0;
  }
  EXPECT_EQ(bytes, layout.payload_bytes()) << "nothing was padded";
  EXPECT_TRUE(has_empty_bucket);
  const Bytes weights(GetParam(), 3U << 20U, std::byte{7});
  std::vector<Source> sources;
  for (std::size_t i = 0; i < layout.size(); ++i)
    sources.push_back({layout[i].bytes == 0 ? nullptr : weights.data()});
  for (const Mode mode : {Mode::in_place, Mode::double_buffered, Mode::streaming}) {
    Publisher pub = Publisher::create(name_, layout, {.memory = {GetParam()}, .mode = mode});
    Child reader([&] {
      auto sub = Subscriber::attach(name_);
      const Bytes to(GetParam(), 3U << 20U);
      LoadPlan into(layout);
      into.into("huge", to.data()).into("none.2", nullptr);
      EXPECT_EQ(sub.load(into, kPatience), 1U);
      EXPECT_EQ(to.download(), std::vector<std::byte>(3U << 20U, std::byte{7}));
      EXPECT_EQ(into.arrived("none.2"), 1U);
      return 0;
    });
    publish(pub, sources, {.require = 1});
    EXPECT_EQ(reader.wait(), 0) << name_of(mode);
  }
}

}  // namespace
}  // namespace tenon::test
