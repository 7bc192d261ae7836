// A process is killed at every step that others can see (tenon/detail/crash_point.hpp), on every
// memory kind. The others go on, the place or the name is free again at once, nothing stays behind.
// Which cases there are is in crash_cases.hpp.
#include <sys/mman.h>

#include <multiproc/crash_cases.hpp>
#include <new>
#include <support/namespaces.hpp>
#include <support/support.hpp>
#if TENON_TEST_SIM
#include <sim/sim_support.hpp>
#endif

namespace tenon::test {
namespace {

/// How often a process has read a whole version and found it right.
class Progress {
 public:
  Progress()
      : count_(new (::mmap(nullptr, sizeof(*count_), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0)) std::atomic<unsigned>(0)) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { ::munmap(count_, sizeof(*count_)); }
  void advance() const { ++*count_; }
  /// Until it has gone on by more than what was under way.
  [[nodiscard]] bool goes_on() const {
    const unsigned before = *count_;
    for (const detail::Deadline end(kPatience); *count_ < before + 3; ::usleep(500))
      if (end.passed()) return false;
    return true;
  }

 private:
  std::atomic<unsigned>* count_;
};

std::vector<std::string> left_in_shm() {
  std::vector<std::string> left = shm_objects("tenon.");
  for (const std::string& slot : shm_objects("tenon-slot.")) left.push_back(slot);
  return left;
}

class Crash : public ::testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() { own_shm_ = take_private_shm(); }
  void SetUp() override {
    if (!own_shm_) SKIP_FOR_WANT_OF_NAMESPACES("no mount namespace may be made here");
    ASSERT_TRUE(left_in_shm().empty());
  }
  void TearDown() override {
    if (!own_shm_) return;
    const auto left = left_in_shm();
    EXPECT_TRUE(left.empty()) << left.size() << " objects stay, such as " << left.front();
#if TENON_TEST_SIM
    EXPECT_EQ(sim::live_allocations(), 0U) << "device memory stays allocated";
#endif
  }

  [[nodiscard]] Publisher create(const std::string& name) const {
    return Publisher::create(name, layout_,
                             {.memory = {kind_},
                              .mode = mode_,
                              .slots = mode_ == Mode::streaming ? 2U : 0U,
                              .deadline = kPatience,
                              .checksums = mode_ != Mode::streaming});
  }

  // --- What victims do. Returning means: it was not killed. ---

  int live(Victim victim) {
    switch (victim) {
      case Victim::publisher:
        return live_as_publisher();
      case Victim::reclaimer:
        return live_as_reclaimer();
      case Victim::reader:
        return mode_ == Mode::streaming ? live_as_loader() : live_as_reader();
      case Victim::refused:
        return live_as_refused();
      case Victim::releaser:
      case Victim::broken:
        return mode_ == Mode::streaming ? live_as_broken_loader()
                                        : live_on_streams(victim == Victim::broken);
      case Victim::cleaner:
        (void)gc(false);
        return 0;
      case Victim::heir:
        (void)create(name_);
        return 0;
    }
    return 1;
  }
  int live_as_publisher() {
    Model model(kind_);
    Publisher pub = create(name_);
    for (std::uint64_t v = 1; v <= 3; ++v)
      model.publish(pub, v, {.deadline = kPatience, .require = readers_});
    { auto nothing_written = pub.begin({.deadline = kPatience}); }
    auto half = pub.begin({.deadline = kPatience});
    const auto sources = model.sources(4);
    const auto [first, last] = layout_.bucket_parameters(0);
    half.put(0, std::span(sources).subspan(first, last - first));
    half.abort();
    return 0;
  }
  int live_as_reclaimer() {
    Model model(kind_);
    Publisher pub = create(name_);
    model.publish(pub, 1, {.deadline = kPatience, .require = readers_});
    const Signal held;
    Child holder([&] {
      ::unsetenv("TENON_CRASH_AT");
      auto sub = Subscriber::attach(name_, {.deadline = kPatience});
      const Lease lease = sub.wait(newest(), kPatience);
      held.poke();
      for (;;) ::pause();
      return 0;
    });
    if (!held.wait()) return 1;
    holder.kill();
    model.publish(pub, 2, {.deadline = kPatience});
    return 0;
  }
  int live_as_reader() {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience, .spin = 0ns});
    const Model model(kind_);
    for (std::uint64_t seen = 0, n = 0; n < 4; ++n) {
      // Newer than what is there by now: it has to wait, also where it is slower than its
      // publisher.
      Lease lease = sub.wait(newer_than(std::max(seen, sub.current_version())), kPatience);
      seen = lease.version();
      if (model.wrong(lease) != 0) return 1;
    }
    Destination into(model);
    for (int n = 0; n < 2; ++n) sub.load(into.plan, kPatience);
    return 0;
  }
  int live_as_loader() {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience, .spin = 0ns});
    const Model model(kind_);
    Destination into(model);
    for (int n = 0; n < 3; ++n) sub.load(into.plan, kPatience);
    sub.pause();
    return 0;
  }
  int live_as_refused() {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    auto found =
        detail::find_publication(name_, ::geteuid(), detail::SharedObject::Access::read_write);
    // As between the first two stores of a retirement. The publisher stores it anew each time.
    for (const detail::Deadline end(kPatience); !end.passed();) {
      found.segment->header().oldest = format::start_of(1'000'000, layout_.bucket_count());
      (void)sub.try_acquire();
    }
    return 0;
  }

  int live_on_streams([[maybe_unused]] bool breaks) {
#if TENON_TEST_SIM
    std::optional<Subscriber> sub = Subscriber::attach(name_, {.deadline = kPatience, .spin = 0ns});
    const Model model(kind_);
    const std::vector<Stream> streams{Stream(make_stream()), Stream(make_stream())};
    for (std::uint64_t seen = 0, n = 0; n < 3; ++n) {
      Lease lease = sub->wait(newer_than(seen), kPatience);
      seen = lease.version();
      if (model.wrong(lease) != 0) return 1;
      Held one(streams[0].get());  // so that what ends the lease is a host function
      Held other(streams[1].get());
      lease.release(streams);
      if (breaks) {
        sim::break_context();
        break;
      }
    }
    // Finds a broken context; where the memory is the host's it goes on to its deadline.
    if (breaks) (void)thrown([&] { (void)sub->wait(newer_than(1'000'000), 250ms); });
    sub.reset();  // waits for the last host function
    return 0;
#else
    return 1;
#endif
  }

  int live_as_broken_loader() {
#if TENON_TEST_SIM
    auto sub = Subscriber::attach(name_, {.deadline = kPatience, .spin = 0ns});
    const Model model(kind_);
    Destination into(model);
    sub.load(into.plan, kPatience);
    cudaStream_t stream = make_stream();
    {
      Held held(stream);  // so that the context breaks with copies outstanding, whoever is faster
      (void)thrown([&] { sub.load(into.plan, Stream(stream), 1s); });
      sim::break_context();
    }
    return 0;
#else
    return 1;
#endif
  }

  /// Starts the victim of this case.
  [[nodiscard]] Child victim() {
    return Child([this] {
      const Case& c = GetParam();
      const std::string at = point_name(c.point) + ":" + std::to_string(c.pass);
      ::setenv("TENON_CRASH_AT", at.c_str(), 1);
      return live(c.victim);
    });
  }
  void expect_killed(Child victim) {
    EXPECT_EQ(victim.wait(), 1000 + SIGKILL) << "nothing passed " << case_name(GetParam());
  }

  // --- Who must not be hurt ---

  /// A process that reads whatever is published as `name`, until `stop_`; 1 when bytes are wrong.
  [[nodiscard]] Child bystander(const std::string& name) {
    return Child([this, name] {
      const Model model(kind_);
      for (;;) {
        try {
          auto sub = Subscriber::attach(name, {.deadline = kPatience, .label = "bystander"});
          if (!read_all(sub, model)) return 1;
        } catch (const Error& e) {
          if (e.code() != Errc::PublisherGone && e.code() != Errc::Closed) throw;
          if (stop_.wait(0ms)) return 0;
        }
      }
    });
  }
  bool read_all(Subscriber& sub, const Model& model) const {
    Destination into(model);
    for (std::uint64_t seen = 0;;) {
      if (mode_ == Mode::streaming) {
        if (into.wrong(sub.load(into.plan, kPatience)) != 0) return false;
      } else {
        const Lease lease = sub.wait(newer_than(seen), kPatience);
        seen = lease.version();
        if (model.wrong(lease) != 0) return false;
      }
      progress_.advance();
    }
  }
  /// Publishes on and on, until the test ends it or `victim` is no more.
  void publish_while_it_lives(Publisher& pub, Model& model, std::uint64_t& v, Child& victim) {
    int status = -1;
    for (const detail::Deadline end(kPatience); status == -1 && !end.passed();
         status = victim.wait(1ms))
      model.publish(pub, ++v, {.deadline = kPatience});
    EXPECT_EQ(status, 1000 + SIGKILL) << "nothing passed " << case_name(GetParam());
  }
  /// The bystander gets every version of `pub`, whole.
  void expect_others_go_on(Publisher& pub, Model& model, std::uint64_t& v) {
    std::atomic<bool> done{false};
    std::jthread publishing([&] {
      while (!done) model.publish(pub, ++v, {.deadline = kPatience, .require = 1});
    });
    EXPECT_TRUE(progress_.goes_on());
    done = true;
  }

  void check_publisher_crash();
  void check_reader_crash();
  void check_cleaner_crash();

  static inline bool own_shm_ = false;
  Node node_;
  MemoryKind kind_ = GetParam().kind;
  Mode mode_ = GetParam().mode;
  std::string name_ = unique_name("crash");
  Layout layout_ = Model(MemoryKind::host).layout;
  std::uint32_t readers_ = 0;  ///< bystanders that the victim publishes for
  Signal stop_;
  Progress progress_;
};

INSTANTIATE_TEST_SUITE_P(Points, Crash, ::testing::ValuesIn(all_cases()),
                         [](const auto& p) { return case_name(p.param); });

// Once with a successor under the same name and a reader that was there before, once with gc().
void Crash::check_publisher_crash() {
  readers_ = 1;
  Child reader = bystander(name_);
  expect_killed(victim());
  {
    Model model(kind_);
    std::uint64_t v = 0;
    Publisher next = create(name_);
    expect_others_go_on(next, model, v);
    stop_.poke();
  }
  EXPECT_EQ(reader.wait(), 0) << "a reader died or saw a torn version";
  EXPECT_TRUE(left_in_shm().empty());
#if TENON_TEST_SIM
  EXPECT_EQ(sim::live_allocations(), 0U);
#endif

  readers_ = 0;
  expect_killed(victim());
  (void)gc(false);
}

void Crash::check_reader_crash() {
  Model model(kind_);
  std::uint64_t v = 0;
  Publisher pub = create(name_);
  Child reader = bystander(name_);
  model.publish(pub, ++v, {.deadline = kPatience, .require = 1});
  Child dead = victim();
  publish_while_it_lives(pub, model, v, dead);
  expect_others_go_on(pub, model, v);
  EXPECT_EQ(pub.subscribers().size(), 1U) << "the dead one's place is not free";
  {
    auto newcomer = Subscriber::attach(name_);
    EXPECT_EQ(newcomer.place(), 1U);
  }
  stop_.poke();
  pub.close();
  EXPECT_EQ(reader.wait(), 0) << "a reader died or saw a torn version";
}

void Crash::check_cleaner_crash() {
  Model model(kind_);
  std::uint64_t v = 0;
  const std::string living_name = unique_name("alive");
  Publisher living = create(living_name);
  Child reader = bystander(living_name);
  const auto leave_leftovers = [&] {
    Child left([&] {
      Model mine(kind_);
      Publisher pub = create(name_);
      mine.publish(pub, 1);
      if (GetParam().point == CrashPoint::clean_orphan)
        detail::SharedObject::unlink(detail::publication_object(::geteuid(), name_));
      ::_exit(0);
      return 1;
    });
    EXPECT_EQ(left.wait(), 0);
  };
  leave_leftovers();
  expect_killed(victim());
  // Two more at once finish what it began.
  const auto clean = [] {
    (void)gc(false);
    return 0;
  };
  Child one(clean);
  Child other(clean);
  EXPECT_EQ(one.wait(), 0);
  EXPECT_EQ(other.wait(), 0);
  EXPECT_TRUE(shm_objects(name_).empty());
  EXPECT_EQ(shm_objects("tenon-slot.").size(), kind_ == MemoryKind::host ? 1U : 0U);
  leave_leftovers();
  expect_killed(victim());
  {
    Publisher next = create(name_);
    (void)gc(false);  // slots whose name the dead one had removed
  }
  expect_others_go_on(living, model, v);
  stop_.poke();
  living.close();
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(Crash, HurtsNobodyAndLeavesNothing) {
  switch (GetParam().victim) {
    case Victim::publisher:
    case Victim::reclaimer:
      return check_publisher_crash();
    case Victim::reader:
    case Victim::refused:
    case Victim::releaser:
    case Victim::broken:
      return check_reader_crash();
    case Victim::cleaner:
    case Victim::heir:
      return check_cleaner_crash();
  }
}

}  // namespace
}  // namespace tenon::test
