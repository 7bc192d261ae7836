// Planning a layout: where everything goes, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <support/support.hpp>
#include <tenon/model.hpp>
#include <tenon/plan.hpp>
#include <vector>

namespace tenon {
namespace {

using Dims = std::vector<std::uint64_t>;

Parameter bytes_of(const std::string& name, std::uint64_t bytes) {
  return {name, Dtype::u8, {bytes}};
}
Parameter tie(const std::string& name, Dtype dtype, Dims shape, const std::string& to) {
  return {name, dtype, std::move(shape), to};
}
Parameter shard(const std::string& name, Dims shape, Dims global, Dims offset) {
  return {name, Dtype::f32, std::move(shape), {}, Box{std::move(global), std::move(offset)}};
}
Layout plan_in(std::uint64_t bucket_bytes, const std::vector<Parameter>& parameters) {
  return plan(parameters, {bucket_bytes});
}
Dims offsets(const Layout& layout) {
  Dims all;
  for (std::size_t i = 0; i < layout.size(); ++i) all.push_back(layout[i].offset);
  return all;
}
Dims buckets(const Layout& layout) {
  Dims all;
  for (std::size_t i = 0; i < layout.size(); ++i) all.push_back(layout[i].bucket);
  return all;
}
void expect_same_bytes(const Layout& a, const Layout& b) {
  ASSERT_EQ(a.bytes().second, b.bytes().second);
  EXPECT_EQ(std::memcmp(a.bytes().first, b.bytes().first, a.bytes().second), 0);
  EXPECT_EQ(a.hash(), b.hash());
}

TEST(Plan, ParametersBeginAtMultiplesOf256) {
  const Layout layout = plan_in(
      1U << 20U, {bytes_of("a", 1), bytes_of("b", 256), bytes_of("c", 257), bytes_of("d", 3)});
  EXPECT_EQ(offsets(layout), (Dims{0, 256, 512, 1024}));
  EXPECT_EQ(buckets(layout), (Dims{0, 0, 0, 0}));
  EXPECT_EQ(layout.bucket_bytes(0), 1027u);
  EXPECT_EQ(layout.payload_bytes(), 517u);
}

TEST(Plan, OneThatDoesNotFitClosesTheBucket) {
  const Layout layout = plan_in(1024, {bytes_of("a", 512), bytes_of("b", 512), bytes_of("c", 1),
                                       bytes_of("d", 769), bytes_of("e", 512)});
  EXPECT_EQ(buckets(layout), (Dims{0, 0, 1, 2, 3}));  // d: 256 + 769 > 1024; e: 1024 + 512 > 1024
  EXPECT_EQ(offsets(layout), (Dims{0, 512, 0, 0, 0}));
  EXPECT_EQ(layout.bucket_parameters(0), (std::pair<std::size_t, std::size_t>{0, 2}));
  EXPECT_EQ(layout.bucket_parameters(3), (std::pair<std::size_t, std::size_t>{4, 5}));
}

TEST(Plan, OneThatFitsExactlyStays) {
  const Layout layout = plan_in(1024, {bytes_of("a", 256), bytes_of("b", 768), bytes_of("c", 1)});
  EXPECT_EQ(buckets(layout), (Dims{0, 0, 1}));
  EXPECT_EQ(layout.bucket_bytes(0), 1024u);
}

TEST(Plan, PaddingCountsAgainstTheBucket) {
  // 300 bytes end at 512 when rounded up, and 512 + 600 is beyond 1100.
  const Layout layout = plan_in(1100, {bytes_of("a", 300), bytes_of("b", 600)});
  EXPECT_EQ(buckets(layout), (Dims{0, 1}));
}

TEST(Plan, AClosedBucketIsNotReopened) {
  const Layout layout = plan_in(1024, {bytes_of("a", 512), bytes_of("b", 1000), bytes_of("c", 1)});
  EXPECT_EQ(buckets(layout), (Dims{0, 1, 2}));  // c would have fitted behind a
}

TEST(Plan, AnOversizedParameterStandsAlone) {
  const Layout layout = plan_in(1024, {bytes_of("a", 1), bytes_of("big", 5000), bytes_of("c", 1)});
  EXPECT_EQ(buckets(layout), (Dims{0, 1, 2}));
  EXPECT_EQ(layout.bucket_bytes(1), 5000u);
}

TEST(Plan, BucketsOfOneByteTakeOneParameterEach) {
  const Layout layout = plan_in(1, {bytes_of("a", 1), bytes_of("b", 1), bytes_of("c", 2)});
  EXPECT_EQ(buckets(layout), (Dims{0, 1, 2}));
}

TEST(Plan, EmptyAndScalarParametersAreLegal) {
  const Layout layout = plan(std::vector<Parameter>{{"nothing", Dtype::f32, {0}},
                                                    {"scalar", Dtype::f64, {}},
                                                    {"none", Dtype::bf16, {4, 0, 1ULL << 60U}},
                                                    {"after", Dtype::u8, {1}}});
  EXPECT_EQ(layout[0].bytes, 0u);
  EXPECT_EQ(layout[1].bytes, 8u);
  EXPECT_EQ(layout[1].shape.rank(), 0u);
  EXPECT_EQ(layout[2].bytes, 0u);
  EXPECT_EQ(layout[2].shape[2], 1ULL << 60U);
  EXPECT_EQ(offsets(layout), (Dims{0, 0, 256, 256}));
  EXPECT_EQ(layout.payload_bytes(), 9u);
}

TEST(Plan, AllParametersMayBeEmpty) {
  const Layout layout = plan(std::vector<Parameter>{{"a", Dtype::f32, {0}}, {"b", Dtype::i8, {0}}});
  EXPECT_EQ(layout.bucket_count(), 1u);
  EXPECT_EQ(layout.bucket_bytes(0), 0u);
  EXPECT_EQ(layout.payload_bytes(), 0u);
}

TEST(Plan, TakesEveryDtypeAndRank) {
  std::vector<Parameter> parameters;
  for (const DtypeInfo& d : kDtypes) {
    parameters.push_back({std::string(d.name), d.dtype, Dims(parameters.size() % 9, 2)});
  }
  const Layout layout = plan(parameters);
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement p = layout[i];
    EXPECT_EQ(p.name, kDtypes[i].name);
    EXPECT_EQ(p.dtype, kDtypes[i].dtype);
    EXPECT_EQ(Dims(p.shape.begin(), p.shape.end()), parameters[i].shape);
    EXPECT_EQ(p.bytes, std::uint64_t{kDtypes[i].bytes} << (i % 9));
  }
}

TEST(Plan, GivesTheSameBytesEveryTime) {
  const auto make = [] {
    return plan(std::vector<Parameter>{{"embed", Dtype::bf16, {100, 3}},
                                       shard("mlp", {4, 2}, {8, 2}, {4, 0}),
                                       tie("head", Dtype::bf16, {100, 3}, "embed")},
                {512, R"({"format":"pt"})"});
  };
  const Layout first = make();
  std::vector<std::byte> noise(1U << 16U, std::byte{0xA5});  // fresh memory is not always zero
  noise.clear();
  noise.shrink_to_fit();
  expect_same_bytes(first, make());
}

TEST(Plan, ReadsBackAsWhatItWas) {
  const Layout layout =
      plan(std::vector<Parameter>{{"a", Dtype::f16, {7}}, {"b", Dtype::i64, {2}}});
  detail::Block copy = detail::allocate_block(layout.bytes().second);
  std::memcpy(copy.get(), layout.bytes().first, layout.bytes().second);
  expect_same_bytes(layout, Layout::parse(std::move(copy), layout.bytes().second));
}

TEST(Plan, ADifferenceAnywhereIsAnotherHash) {
  const std::vector<Parameter> base = {{"a", Dtype::f16, {4, 6}}, {"b", Dtype::f16, {4}}};
  std::set<std::uint64_t> hashes = {plan(base).hash(), plan(base, {.metadata = "{}"}).hash(),
                                    plan_in(8, base).hash()};
  auto changed = base;
  changed[0].name = "c";
  hashes.insert(plan(changed).hash());
  changed = base;
  changed[0].dtype = Dtype::bf16;
  hashes.insert(plan(changed).hash());
  changed = base;
  changed[0].shape = {6, 4};
  hashes.insert(plan(changed).hash());
  EXPECT_EQ(hashes.size(), 6u);
}

TEST(Plan, CarriesMetadata) {
  const std::vector<Parameter> one = {bytes_of("a", 1)};
  EXPECT_EQ(plan(one).metadata(), "");
  EXPECT_EQ(plan(one, {.metadata = R"({"step":"7"})"}).metadata(), R"({"step":"7"})");
  const std::string long_text(100'000, 'm');
  EXPECT_EQ(plan(one, {.metadata = long_text}).metadata(), long_text);
}

TEST(Ties, AreStoredOnceAtTheSamePlace) {
  const Layout layout = plan_in(1024, {{"embed", Dtype::bf16, {100, 3}},
                                       bytes_of("other", 1024),
                                       tie("head", Dtype::bf16, {300}, "embed"),
                                       bytes_of("last", 10)});
  EXPECT_EQ(layout[2].bucket, layout[0].bucket);
  EXPECT_EQ(layout[2].offset, layout[0].offset);
  EXPECT_EQ(layout[2].bytes, 600u);
  EXPECT_EQ(layout[2].shape.rank(), 1u);  // another shape of as many bytes is fine
  EXPECT_EQ(layout.tied_to(2), 0u);
  EXPECT_FALSE(layout.tied_to(0));
  EXPECT_EQ(layout.payload_bytes(), 600u + 1024u + 10u);
  // Listed where it comes, though it lies in an earlier bucket.
  EXPECT_EQ(layout.bucket_parameters(1), (std::pair<std::size_t, std::size_t>{1, 3}));
  EXPECT_EQ(layout[3].bucket, 2u);
}

TEST(Ties, SeveralMayShareOneOriginal) {
  const Layout layout = plan(std::vector<Parameter>{bytes_of("a", 9), tie("b", Dtype::u8, {9}, "a"),
                                                    tie("c", Dtype::u8, {9}, "a")});
  EXPECT_EQ(layout.tied_to(1), 0u);
  EXPECT_EQ(layout.tied_to(2), 0u);
  EXPECT_EQ(layout.payload_bytes(), 9u);
}

TEST(Ties, ToNothingLaterTiedOrDifferentAreRefused) {
  const auto refuses = [](const std::string& why, const std::vector<Parameter>& parameters) {
    EXPECT_THROWS(InvalidArgument, why, (void)plan(parameters));
  };
  refuses("'b': it is tied to 'x', which is no earlier parameter",
          {bytes_of("a", 4), tie("b", Dtype::u8, {4}, "x")});
  refuses("'b': it is tied to 'a', which is no earlier parameter",
          {tie("b", Dtype::u8, {4}, "a"), bytes_of("a", 4)});
  refuses("'a': it is tied to 'a'", {tie("a", Dtype::u8, {4}, "a")});
  refuses("'c': it is tied to 'b', which is tied itself",
          {bytes_of("a", 4), tie("b", Dtype::u8, {4}, "a"), tie("c", Dtype::u8, {4}, "b")});
  refuses("'b': it is tied to 'a' of another dtype or size",
          {bytes_of("a", 4), tie("b", Dtype::i8, {4}, "a")});
  refuses("'b': it is tied to 'a' of another dtype or size",
          {bytes_of("a", 4), tie("b", Dtype::u8, {5}, "a")});
}

TEST(Boxes, AreKeptAsGiven) {
  const Layout layout =
      plan(std::vector<Parameter>{bytes_of("whole", 1), shard("part", {2, 8}, {6, 8}, {4, 0}),
                                  shard("scalar", {}, {}, {}), shard("empty", {0}, {5}, {5})});
  EXPECT_FALSE(layout.box(0));
  ASSERT_TRUE(layout.box(1));
  EXPECT_EQ(layout.box(1)->global_shape, (Dims{6, 8}));
  EXPECT_EQ(layout.box(1)->offset, (Dims{4, 0}));
  ASSERT_TRUE(layout.box(2));
  EXPECT_TRUE(layout.box(2)->offset.empty());
  EXPECT_EQ(layout.box(3)->offset, (Dims{5}));
}

TEST(Boxes, OutsideTheirGlobalShapeAreRefused) {
  const auto refuses = [](const std::string& why, const Parameter& p) {
    EXPECT_THROWS(InvalidArgument, why, (void)plan(std::span(&p, 1)));
  };
  refuses("'w': its box leaves the global shape in dimension 1",
          shard("w", {2, 3}, {2, 5}, {0, 3}));
  refuses("dimension 0", shard("w", {2, 3}, {1, 5}, {0, 0}));
  refuses("dimension 0", shard("w", {0}, {4}, {5}));
  refuses("dimension 0", shard("w", {2}, {4}, {~0ULL}));  // offset + 2 wraps to 1
  refuses("its box has another rank", shard("w", {2, 3}, {2}, {0, 0}));
  refuses("its box has another rank", shard("w", {2, 3}, {2, 3}, {0}));
}

TEST(Plan, RefusesNoParametersAtAll) {
  EXPECT_THROWS(InvalidArgument, "at least one parameter", (void)plan({}));
}

TEST(Plan, RefusesBucketsOfNoBytes) {
  EXPECT_THROWS(InvalidArgument, "bucket_bytes is 0", (void)plan_in(0, {bytes_of("a", 1)}));
}

TEST(Plan, RefusesNamesThatAreEmptyTooLongOrThereTwice) {
  const auto refuses = [](const std::string& why, const std::vector<Parameter>& parameters) {
    EXPECT_THROWS(InvalidArgument, why, (void)plan(parameters));
  };
  refuses("'': its name must be 1 to 4096 bytes", {bytes_of("", 1)});
  refuses("its name must be 1 to 4096 bytes", {bytes_of(std::string(4097, 'n'), 1)});
  EXPECT_EQ(plan_in(9, {bytes_of(std::string(4096, 'n'), 1)})[0].name.size(), 4096u);
  refuses("'twice': there are two parameters of this name",
          {bytes_of("twice", 1), bytes_of("b", 1), bytes_of("twice", 2)});
}

TEST(Plan, NamesAreBytes) {
  using namespace std::string_literals;
  const std::vector<std::string> names = {"a b\n", "\0"s, "\0\0"s, "Gewicht.µ", "a/../b", "\xFF"s};
  std::vector<Parameter> parameters;
  for (const std::string& name : names) parameters.push_back(bytes_of(name, 1));
  const Layout layout = plan(parameters);
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(layout[i].name, names[i]);
    EXPECT_EQ(layout.find(names[i]), i);
  }
}

TEST(Plan, RefusesRankNine) {
  EXPECT_EQ(plan(std::vector<Parameter>{{"w", Dtype::f32, Dims(8, 1)}})[0].shape.rank(), 8u);
  EXPECT_THROWS(InvalidArgument, "'w': rank 9 is above 8",
                (void)plan(std::vector<Parameter>{{"w", Dtype::f32, Dims(9, 1)}}));
}

TEST(Plan, RefusesSizesBeyondTheFormat) {
  const auto refuses = [](Dtype dtype, Dims shape) {
    EXPECT_THROWS(InvalidArgument, "'w': its size is beyond 2^46 bytes",
                  (void)plan(std::vector<Parameter>{{"w", dtype, shape}}));
  };
  refuses(Dtype::u8, {(1ULL << 46U) + 1});
  refuses(Dtype::f32, {1ULL << 32U, 1ULL << 30U});  // the product wraps to 0
  refuses(Dtype::u8, {(1ULL << 32U) + 1, 1ULL << 32U});
  refuses(Dtype::f64, {~0ULL});
  EXPECT_EQ(plan(std::vector<Parameter>{{"w", Dtype::u8, {1ULL << 46U}}}).bucket_bytes(0),
            1ULL << 46U);
}

TEST(Plan, RefusesADtypeThatDoesNotExist) {
  for (const int value : {0, 16, 255}) {
    EXPECT_THROWS(InvalidArgument, "'w': its dtype is not one of Tenon's",
                  (void)plan(std::vector<Parameter>{{"w", static_cast<Dtype>(value), {1}}}));
  }
}

TEST(Plan, BucketsNeverGrowBeyondTheFormatWhateverIsAskedFor) {
  const std::uint64_t half = (1ULL << 45U) + 1;
  const Layout layout = plan_in(std::numeric_limits<std::uint64_t>::max(),
                                {bytes_of("a", half), bytes_of("b", half)});
  EXPECT_EQ(buckets(layout), (Dims{0, 1}));
}

TEST(Lookup, FindsEveryOneOfTwentyThousandAndNothingElse) {
  std::vector<Parameter> parameters;
  for (int i = 0; i < 20'000; ++i) {
    parameters.push_back(
        {"layers." + std::to_string(i / 128) + ".experts." + std::to_string(i % 128) + ".weight",
         Dtype::bf16,
         {static_cast<std::uint64_t>(i % 700), 3}});
  }
  const Layout layout = plan_in(1U << 16U, parameters);
  ASSERT_EQ(layout.size(), parameters.size());
  std::uint64_t payload = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement p = layout[i];
    ASSERT_EQ(layout.find(parameters[i].name), i);
    ASSERT_EQ(layout.at(parameters[i].name), i);
    ASSERT_EQ(p.offset % 256, 0u);
    ASSERT_LE(p.offset + p.bytes, layout.bucket_bytes(p.bucket));
    ASSERT_LE(layout.bucket_bytes(p.bucket), 1U << 16U);
    payload += p.bytes;
    ASSERT_FALSE(layout.find(parameters[i].name + "s"));
  }
  EXPECT_EQ(layout.payload_bytes(), payload);
  EXPECT_FALSE(layout.find(""));
  EXPECT_THROWS(NoSuchParameter, "among 20000; the nearest are 'layers.7.experts.8.weight'",
                (void)layout.at("layers.7.experts.8.wieght"));
}

// Checking an index of names that all begin probing at one entry takes a step for each pair of
// them.
TEST(Lookup, NamesChosenToCollideAreRefused) {
  constexpr std::size_t kNames = 200;
  constexpr std::uint64_t kCapacity = 512;
  std::vector<Parameter> parameters;
  for (int i = 0; parameters.size() < kNames; ++i) {
    const std::string name = std::to_string(i);
    if (detail::hash64(name.data(), name.size()) % kCapacity != 0) continue;
    parameters.push_back({name, Dtype::u8, {1}});
  }
  try {
    (void)plan(parameters);
    FAIL() << "not refused";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::BadFormat);
    EXPECT_NE(std::string(e.what()).find("do not all collide"), std::string::npos) << e.what();
  }
}

TEST(Lookup, AMissingNameIsAnsweredWithTheNearestOnes) {
  const Layout layout =
      plan(std::vector<Parameter>{bytes_of("model.norm.weight", 1), bytes_of("model.norm.bias", 1),
                                  bytes_of("lm_head.weight", 1), bytes_of("embed", 1)});
  EXPECT_EQ(layout.at("embed"), 3u);
  EXPECT_FALSE(layout.find("model.norm.wight"));
  EXPECT_THROWS(NoSuchParameter,
                "no parameter 'model.norm.wight' among 4; the nearest are 'model.norm.weight', "
                "'model.norm.bias', 'lm_head.weight'",
                (void)layout.at("model.norm.wight"));
  EXPECT_THROWS(NoSuchParameter, "the nearest are", (void)layout.at(""));
}

TEST(Lookup, SuggestsAsManyAsThereAre) {
  const Layout layout = plan_in(9, {bytes_of("only", 1)});
  EXPECT_THROWS(NoSuchParameter, "the nearest are 'only'", (void)layout.at("other"));
}

TEST(Layouts, CopiesShareTheirBytes) {
  const Layout layout = plan_in(9, {bytes_of("a", 1)});
  const Layout copy = layout;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_EQ(copy.bytes().first, layout.bytes().first);
  EXPECT_EQ(copy[0].name.data(), layout[0].name.data());
}

TEST(Layouts, OfWholeModelsKeepEveryRule) {
  for (const std::string_view model : model_names()) {
    const std::vector<Parameter> parameters = model_parameters(model);
    const Layout layout = plan(parameters);
    ASSERT_EQ(layout.size(), parameters.size()) << model;
    std::uint64_t end = 0;
    std::uint32_t bucket = 0;
    for (std::size_t i = 0; i < layout.size(); ++i) {
      const Placement p = layout[i];
      ASSERT_EQ(p.name, parameters[i].name);
      ASSERT_TRUE(p.bucket == bucket || p.bucket == bucket + 1);
      ASSERT_EQ(p.offset, p.bucket == bucket ? (end + 255) / 256 * 256 : 0);
      bucket = p.bucket;
      end = p.offset + p.bytes;
      ASSERT_LE(end, layout.bucket_bytes(bucket));
      ASSERT_TRUE(end <= 512ULL << 20U || p.bytes > 512ULL << 20U) << model << " " << p.name;
    }
    EXPECT_EQ(layout.bucket_count(), bucket + 1) << model;
  }
}

}  // namespace
}  // namespace tenon
