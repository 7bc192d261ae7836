// The multi-process scenarios in GPU memory, with every child forked before anything uses CUDA: a
// process that has used it cannot be forked. Runs on the simulated runtime, and on a real GPU.
#include <functional>
#include <support/support.hpp>
#include <tenon/unpacked.hpp>

namespace tenon::test {
namespace {

constexpr auto kKind = MemoryKind::cuda;

class Device : public ::testing::Test {
 protected:
  Publisher create(Mode mode, PublisherOptions options = {}) {
    options.memory = cuda(0);
    options.mode = mode;
    return Publisher::create(name_, model_.layout, options);
  }
  /// A child that takes versions 1..last as they come, and looks at each twice.
  Child reader(std::uint64_t last) {
    return Child([this, last] {
      auto sub = attach();
      for (std::uint64_t seen = 0; seen < last;) {
        const Lease lease = sub.wait(newer_than(seen), kPatience);
        seen = lease.version();
        EXPECT_EQ(model_.wrong(lease), 0U) << "version " << seen;
        EXPECT_EQ(model_.wrong(lease), 0U) << "version " << seen << " changed while it was held";
      }
      return 0;
    });
  }
  /// A child that holds version 1 from held_ to let_go_.
  Child holder() {
    return Child([this] {
      auto sub = attach("slow-engine");
      const Lease lease = sub.wait(exactly(1), kPatience);
      held_.poke();
      if (!let_go_.wait()) return 2;
      return model_.wrong(lease) == 0 ? 0 : 1;
    });
  }
  [[nodiscard]] Subscriber attach(const std::string& label = "reader") const {
    return Subscriber::attach(name_, {.deadline = kPatience, .label = label});
  }

  Node node_;
  std::string name_ = unique_name("device");
  Model model_{kKind};
  Signal held_;
  Signal let_go_;
};

class DeviceModes : public Device, public ::testing::WithParamInterface<Mode> {};
INSTANTIATE_TEST_SUITE_P(Modes, DeviceModes,
                         ::testing::Values(Mode::in_place, Mode::double_buffered),
                         [](const auto& p) {
                           return p.param == Mode::in_place ? "InPlace" : "Double";
                         });

TEST_P(DeviceModes, ReadersSeeOnlyWholeVersions) {
  constexpr std::uint64_t kVersions = 100;
  Child a = reader(kVersions);
  Child b = reader(kVersions);
  Publisher pub = create(GetParam());
  for (std::uint64_t v = 1; v <= kVersions; ++v)
    pub.publish(model_.sources(v), {.deadline = kPatience, .require = v == 1 ? 2U : 0U});
  EXPECT_EQ(a.wait(), 0);
  EXPECT_EQ(b.wait(), 0);
}

TEST_P(DeviceModes, ChecksumsAreEqualOnBothSides) {
  Child checker([this] {
    auto sub = attach();
    for (std::uint64_t v = 0; v < 3;) {
      const Lease lease = sub.wait(newer_than(v), kPatience);
      v = lease.version();
      EXPECT_EQ(lease.verify(), std::vector<std::string>{});
      for (std::size_t i = 0; i < lease.size(); ++i)
        EXPECT_EQ(model_.wrong(i, lease[i].data(), v), 0U);
    }
    return 0;
  });
  Publisher pub = create(GetParam(), {.checksums = true});
  for (std::uint64_t v = 1; v <= 3; ++v)
    pub.publish(model_.sources(v), {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
  EXPECT_EQ(checker.wait(), 0);
}

class DeviceGather : public Device, public ::testing::WithParamInterface<GatherMethod> {};
INSTANTIATE_TEST_SUITE_P(Methods, DeviceGather,
                         ::testing::Values(GatherMethod::kernel, GatherMethod::cub,
                                           GatherMethod::memcpy));

TEST_P(DeviceGather, EveryMethodGivesTheSameBytes) {
  Child a = reader(3);
  Publisher pub = create(Mode::double_buffered, {.gather = GetParam()});
  for (std::uint64_t v = 1; v <= 3; ++v)
    pub.publish(model_.sources(v), {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
  EXPECT_EQ(a.wait(), 0);
}

TEST_F(Device, StreamingReadersLoadEveryVersion) {
  constexpr std::uint64_t kVersions = 50;
  const auto loader = [this] {
    return Child([this] {
      auto sub = attach("loader");
      Destination into(model_);
      for (std::uint64_t v = 0; v < kVersions;) {
        v = sub.load(into.plan, kPatience);
        EXPECT_EQ(into.wrong(v), 0U) << "version " << v;
      }
      return 0;
    });
  };
  Child a = loader();
  Child b = loader();
  Publisher pub = create(Mode::streaming, {.slots = 2});
  for (std::uint64_t v = 1; v <= kVersions; ++v)
    pub.publish(model_.sources(v), {.deadline = kPatience, .require = 2});
  EXPECT_EQ(a.wait(), 0);
  EXPECT_EQ(b.wait(), 0);
}

TEST_F(Device, SlicesAndFusedPartsAreLoadedOnTheDevice) {
  Child engine([this] {
    auto sub = attach();
    const Placement q = model_.layout[model_.layout.at("layer.0.q")];
    const std::uint64_t half = q.bytes / 2;
    const Bytes fused(kKind, 2 * half);
    const Bytes wide(kKind, 2 * q.bytes);
    auto load = LoadPlan(sub.layout())
                    .into("both", fused.data(), {.parts = {"layer.1.q", "layer.0.q"}})
                    .slice(0, 1, 2)
                    .into("layer.0.q", wide.data(), {.dtype = Dtype::f32});
    EXPECT_EQ(sub.load(load, kPatience), 1U);
    EXPECT_EQ(load.arrived("both"), 1U);
    const auto got = fused.download();
    for (const auto& [name, at] : {std::pair{"layer.1.q", std::uint64_t{0}}, {"layer.0.q", half}}) {
      const auto whole = model_.bytes_of(model_.layout.at(name), 1);
      EXPECT_TRUE(std::equal(whole.begin() + static_cast<std::ptrdiff_t>(half), whole.end(),
                             got.begin() + static_cast<std::ptrdiff_t>(at)))
          << name;
    }
    const auto narrow = model_.bytes_of(model_.layout.at("layer.0.q"), 1);
    const auto floats = wide.download();
    std::uint64_t wrong = 0;
    for (std::size_t e = 0; e < narrow.size() / 2; ++e)  // bf16 is the upper half of an f32
      wrong += std::memcmp(floats.data() + 4 * e + 2, narrow.data() + 2 * e, 2) != 0 ? 1 : 0;
    EXPECT_EQ(wrong, 0U);
    return 0;
  });
  Publisher pub = create(Mode::in_place);
  pub.publish(model_.sources(1));
  EXPECT_EQ(engine.wait(), 0);
}

TEST_F(Device, TheTrainersOwnMemoryIsReadInPlace) {
  Child engine([this] {
    auto sub = attach();
    const Lease lease = sub.wait(newest(), kPatience);
    return Bytes::get(kKind, lease["w"].data(), 4096) == std::vector<std::byte>(4096, std::byte{7})
               ? 0
               : 1;
  });
  const Bytes weights(kKind, 4U << 20U, std::byte{7});
  const std::vector<Parameter> one{{"w", Dtype::u8, {4096}}};
  const std::vector<Source> where{{weights.data() + 1000}};
  const UnpackedPlan plan = plan_unpacked(one, where);
  EXPECT_TRUE(plan.gathered.empty());
  Publisher pub = Publisher::create(name_, plan);
  pub.publish(where);
  EXPECT_EQ(engine.wait(), 0);
}

TEST_F(Device, ALeaseReleasedBehindAStreamHoldsUntilItHasPassed) {
  Child engine([this] {
    auto sub = attach();
    const Bytes copy(kKind, model_.layout.bucket_bytes(0));
    Lease lease = sub.wait(exactly(1), kPatience);
    const std::byte* bucket = lease.bucket(0);
    held_.poke();
    if (!let_go_.wait()) return 2;
    for (int i = 0; i < 200; ++i)  // the last of them is long after the release below
      detail::cuda::check(cudaMemcpyAsync(copy.data(), bucket, model_.layout.bucket_bytes(0),
                                          cudaMemcpyDeviceToDevice, own_stream()),
                          "reading behind");
    lease.release(own_stream());
    const auto bytes = copy.download();
    const Placement first = model_.layout[0];
    const auto expected = model_.bytes_of(0, 1);
    return std::equal(expected.begin(), expected.end(),
                      bytes.begin() + static_cast<std::ptrdiff_t>(first.offset))
               ? 0
               : 1;
  });
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1, {.deadline = kPatience, .require = 1});
  ASSERT_TRUE(held_.wait());
  let_go_.poke();
  model_.publish(pub, 2, {.deadline = kPatience});
  EXPECT_EQ(engine.wait(), 0) << "version 2 was written while version 1 was still being read";
}

TEST_F(Device, ASlowReaderIsNamedAndTheOldVersionStaysCurrent) {
  Child slow = holder();
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1, {.deadline = kPatience, .require = 1});
  ASSERT_TRUE(held_.wait());
  EXPECT_THROWS(DeadlinePassed, "(slow-engine) holds version 1",
                (void)pub.publish(model_.sources(2), {.deadline = 50ms}));
  EXPECT_EQ(pub.version(), 1U);
  let_go_.poke();
  EXPECT_EQ(slow.wait(), 0);
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
}

TEST_F(Device, AKilledReaderFreesThePublisher) {
  Child slow = holder();
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1, {.deadline = kPatience, .require = 1});
  ASSERT_TRUE(held_.wait());
  slow.signal(SIGKILL);
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
}

TEST_F(Device, AKilledPublisherIsNoticedAndReplaced) {
  Child trainer([this] {
    Publisher pub = create(Mode::in_place);
    model_.publish(pub, 1, {.deadline = kPatience, .require = 1});
    held_.poke();
    for (;;) ::pause();
    return 0;
  });
  Child successor([this] {
    if (!let_go_.wait()) return 2;
    Publisher pub = create(Mode::in_place);
    model_.publish(pub, 1, {.deadline = kPatience, .require = 1});
    model_.publish(pub, 2, {.deadline = kPatience});
    for (int i = 0; i < 3000 && !pub.subscribers().empty(); ++i) std::this_thread::sleep_for(10ms);
    return 0;
  });
  {
    auto sub = attach();
    Lease lease = sub.wait(exactly(1), kPatience);
    EXPECT_EQ(model_.wrong(lease), 0U);
    ASSERT_TRUE(held_.wait());
    trainer.signal(SIGKILL);
    EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
    EXPECT_EQ(lease.publisher(), PublisherStatus::gone);
  }
  trainer.kill();
  let_go_.poke();
  {
    auto again = attach();
    EXPECT_EQ(model_.wrong(again.wait(exactly(2), kPatience)), 0U);
  }
  EXPECT_EQ(successor.wait(), 0);
}

TEST_F(Device, TheMemoryOfAClosedPublicationOutlivesItsReaders) {
  Child slow = holder();
  std::optional<Publisher> pub = create(Mode::in_place);
  model_.publish(*pub, 1, {.deadline = kPatience, .require = 1});
  ASSERT_TRUE(held_.wait());
  std::jthread later([&] {
    std::this_thread::sleep_for(300ms);
    let_go_.poke();
  });
  pub.reset();  // waits for the reader to detach, then frees
  EXPECT_EQ(slow.wait(), 0);
}

TEST_F(Device, AProcessReadsItsOwnPublicationThroughItsOwnPointer) {
  Publisher pub = create(Mode::in_place);
  auto sub = attach();
  model_.publish(pub, 1);
  const Lease lease = sub.wait(newest(), kPatience);
  EXPECT_EQ(lease["embed"].data(), pub.storage("embed"));
  EXPECT_EQ(model_.wrong(lease), 0U);
}

}  // namespace
}  // namespace tenon::test
