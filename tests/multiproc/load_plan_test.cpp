// Load plans: slices, fused destinations and casts, from slots of either kind to memory of the
// same.
#include <cmath>
#include <support/support.hpp>

namespace tenon::test {
namespace {

// Three projections as an attention layer has them, in buckets of their own, and a norm.
std::vector<Parameter> attention() {
  return {{"q", Dtype::f32, {16, 24}},
          {"k", Dtype::f32, {8, 24}},
          {"norm", Dtype::f32, {24}},
          {"v", Dtype::f32, {8, 24}}};
}

class LoadPlans : public ::testing::TestWithParam<MemoryKind> {
 protected:
  static MemoryKind kind() { return GetParam(); }

  Publisher create(Mode mode, std::uint32_t slots = 0) {
    return Publisher::create(name_, layout_, {.memory = {kind()}, .mode = mode, .slots = slots});
  }
  /// Element e of parameter i in version v.
  static float value(std::size_t i, std::size_t e, std::uint64_t v) {
    return static_cast<float>(i) * 10000.0F + static_cast<float>(e) +
           static_cast<float>(v) * 0.125F;
  }
  std::vector<Source> sources(std::uint64_t v) {
    std::vector<Source> all;
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      std::vector<std::byte> bytes(layout_[i].bytes);
      for (std::size_t e = 0; e < bytes.size() / 4; ++e) {
        const float x = value(i, e, v);
        std::memcpy(bytes.data() + 4 * e, &x, 4);
      }
      if (i == sources_.size()) sources_.emplace_back(kind(), bytes.size());
      sources_[i].upload(bytes);
      all.push_back({sources_[i].data()});
    }
    return all;
  }
  static std::vector<float> floats(const Bytes& from) {
    const auto bytes = from.download();
    std::vector<float> all(bytes.size() / 4);
    std::memcpy(all.data(), bytes.data(), all.size() * 4);
    return all;
  }

  Node node_;
  std::string name_ = unique_name("plan");
  Layout layout_ = plan(attention(), {.bucket_bytes = 1});
  std::vector<Bytes> sources_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, LoadPlans, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// Rank 1 of 2 of q, k and v, one behind another: what a tensor-parallel engine keeps.
TEST_P(LoadPlans, TensorParallelSlicesOfThreeParametersBecomeOne) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  const Bytes qkv(kind(), (8 + 4 + 4) * 24 * 4);
  auto load =
      LoadPlan(sub.layout()).into("qkv", qkv.data(), {.parts = {"q", "k", "v"}}).slice(0, 1, 2);
  EXPECT_EQ(load.arrived("qkv"), 0U);
  for (std::uint64_t v = 1; v <= 2; ++v) {
    publish(pub, sources(v));
    EXPECT_EQ(sub.load(load, kPatience), v);
    EXPECT_EQ(load.arrived("qkv"), v);
    std::vector<float> expected;
    for (const auto& [i, rows] : {std::pair{0U, 16U}, {1U, 8U}, {3U, 8U}})
      for (std::size_t e = rows / 2 * 24; e < rows * std::size_t{24}; ++e)
        expected.push_back(value(i, e, v));
    EXPECT_EQ(floats(qkv), expected);
  }
}

TEST_P(LoadPlans, ARowParallelSliceTakesColumns) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  const Bytes part(kind(), 16 * 6 * 4);
  auto load = LoadPlan(sub.layout()).into("q", part.data()).slice(1, 2, 4);
  publish(pub, sources(1));
  sub.load(load, kPatience);
  const auto got = floats(part);
  for (std::size_t row = 0; row < 16; ++row)
    for (std::size_t column = 0; column < 6; ++column)
      ASSERT_EQ(got[row * 6 + column], value(0, row * 24 + 12 + column, 1)) << row << "," << column;
}

TEST_P(LoadPlans, ADestinationMayHaveAnotherDtype) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  const Bytes half(kind(), 24 * 2);
  auto load = LoadPlan(sub.layout()).into("norm", half.data(), {.dtype = Dtype::bf16});
  publish(pub, sources(3));
  sub.load(load, kPatience);
  const auto bytes = half.download();
  for (std::size_t e = 0; e < 24; ++e) {
    std::uint32_t bits = 0;
    std::memcpy(reinterpret_cast<std::byte*>(&bits) + 2, bytes.data() + 2 * e, 2);
    float got = 0;
    std::memcpy(&got, &bits, 4);
    EXPECT_NEAR(got, value(2, e, 3), value(2, e, 3) / 256) << e;
  }
}

TEST_P(LoadPlans, OneLaunchPerBucketWhateverThePlanHas) {
#if TENON_TEST_SIM
  if (kind() == MemoryKind::host) GTEST_SKIP() << "counts CUDA calls";
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  const Bytes qkv(kind(), 32 * 24 * 4);
  const Bytes norm(kind(), 24 * 2);
  auto load = LoadPlan(sub.layout())
                  .into("qkv", qkv.data(), {.parts = {"v", "q", "k"}})
                  .into("norm", norm.data(), {.dtype = Dtype::f16});
  publish(pub, sources(1));
  sub.load(load, kPatience);
  publish(pub, sources(2));
  sim::reset_calls();
  sub.load(load, kPatience);
  EXPECT_EQ(sim::calls("cudaLaunchKernel"), layout_.bucket_count());
  EXPECT_LE(sim::total_calls(), 4 * layout_.bucket_count() + 4);
#else
  GTEST_SKIP() << "counts CUDA calls";
#endif
}

// The parts arrive as their buckets pass: q, k, then v. In between the destination is of no
// version.
TEST_P(LoadPlans, AFusedDestinationIsCompleteOnlyWithAllPartsOfOneVersion) {
  Publisher pub = create(Mode::streaming, 2);
  auto sub = Subscriber::attach(name_);
  const Bytes qkv(kind(), 32 * 24 * 4);
  const Bytes norm(kind(), 24 * 4);
  auto load = LoadPlan(sub.layout())
                  .into("vqk", qkv.data(), {.parts = {"v", "q", "k"}})
                  .into("norm", norm.data(), {});
  sub.join();
  {
    std::jthread publishing([&] { pub.publish(sources(1), {.deadline = kPatience}); });
    EXPECT_EQ(sub.load(load, kPatience), 1U);
  }
  EXPECT_EQ(load.arrived("vqk"), 1U);
  EXPECT_EQ(floats(qkv)[0], value(3, 0, 1));
  {  // version 2 ends with everything but v
    auto update = pub.begin({.deadline = kPatience, .require = 1});
    const auto changed = sources(2);
    std::jthread loading(
        [&] { EXPECT_THROWS(DeadlinePassed, "bucket 3 of 4", (void)sub.load(load, 500ms)); });
    for (std::size_t b = 0; b < 3; ++b) update.put(b, std::span(changed).subspan(b, 1));
    loading.join();
  }
  EXPECT_EQ(load.state(), LoadState::torn);
  EXPECT_EQ(load.arrived("vqk"), 0U) << "q and k are of version 2, v of version 1";
  EXPECT_EQ(load.arrived("norm"), 2U) << "this one is whole";
  auto unchanged = sources(2);
  std::jthread publishing([&] { pub.publish(unchanged, {.deadline = kPatience}); });
  EXPECT_EQ(sub.load(load, kPatience), 3U);
  EXPECT_EQ(load.arrived("vqk"), 3U);
  EXPECT_EQ(load.arrived("norm"), 3U);
}

// A part that did not change is skipped, and counts as arrived.
TEST_P(LoadPlans, AnUnchangedPartCountsAsArrived) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  const Bytes kv(kind(), 16 * 24 * 4);
  auto load = LoadPlan(sub.layout()).into("kv", kv.data(), {.parts = {"k", "v"}});
  publish(pub, sources(1));
  sub.load(load, kPatience);
  kv.spoil();  // in k: a copy would repair it
  auto changed = sources(2);
  changed[1].unchanged = true;
  publish(pub, changed);
  EXPECT_EQ(sub.load(load, kPatience), 2U);
  EXPECT_EQ(load.arrived("kv"), 2U);
  EXPECT_NE(floats(kv)[0], value(1, 0, 1)) << "the unchanged part was copied again";
  EXPECT_EQ(floats(kv)[8 * 24], value(3, 0, 2));
}

TEST_P(LoadPlans, WhatCannotBeIsRefusedWhenItIsPlanned) {
  std::vector<std::byte> room(1 << 16);
  LoadPlan load(layout_);
  EXPECT_THROWS(NoSuchParameter, "'w'", load.into("qw", room.data(), {.parts = {"q", "w"}}));
  EXPECT_THROWS(InvalidArgument, "cannot fuse 'q' and 'norm'",
                load.into("x", room.data(), {.parts = {"q", "norm"}}));
  EXPECT_THROWS(InvalidArgument, "the destination is null", load.into("q", nullptr, {.dim = 0}));
  EXPECT_THROWS(InvalidArgument, "there is no cast",
                load.into("q", room.data(), {.dtype = Dtype::i8}));
  EXPECT_THROWS(InvalidArgument, "slice() before any into()", load.slice(0, 0, 2));
  load.into("q", room.data());
  EXPECT_THROWS(InvalidArgument, "not a multiple of 5", load.slice(0, 0, 5));
  EXPECT_THROWS(InvalidArgument, "no slice 2 of 2", load.slice(0, 2, 2));
  EXPECT_THROWS(InvalidArgument, "no destination 'nothing'", (void)load.arrived("nothing"));
}

}  // namespace
}  // namespace tenon::test
