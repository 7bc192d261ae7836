// Layouts from outside, damaged at random: parse() refuses them or they are harmless.
// Deterministic.
#include <gtest/gtest.h>

#include <cstring>
#include <iterator>
#include <optional>
#include <random>
#include <support/support.hpp>
#include <vector>

#include "layout_block.hpp"

namespace tenon {
namespace {

using test::Block;
using test::sample_layout;

// Everything that a layout can be asked for stays inside its block and its buckets.
void use_everything(const Layout& layout) {
  const auto* first = reinterpret_cast<const char*>(layout.bytes().first);
  const char* end = first + layout.bytes().second;
  const auto inside = [&](const void* at, std::size_t bytes) {
    const auto* p = static_cast<const char*>(at);
    return p >= first && p <= end && bytes <= static_cast<std::size_t>(end - p);
  };
  ASSERT_TRUE(inside(layout.metadata().data(), layout.metadata().size()));
  std::uint64_t payload = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement p = layout[i];
    ASSERT_TRUE(inside(p.name.data(), p.name.size()));
    ASSERT_LE(p.shape.rank(), kMaxRank);
    ASSERT_TRUE(inside(p.shape.begin(), p.shape.rank() * sizeof(std::uint64_t)));
    ASSERT_EQ(byte_size(p.dtype, p.shape), p.bytes);
    ASSERT_LT(p.bucket, layout.bucket_count());
    ASSERT_EQ(p.offset % format::kAlignment, 0u);
    ASSERT_LE(p.bytes, layout.bucket_bytes(p.bucket));
    ASSERT_LE(p.offset, layout.bucket_bytes(p.bucket) - p.bytes);
    ASSERT_EQ(layout.find(p.name), i);
    ASSERT_EQ(layout.at(p.name), i);
    if (const auto original = layout.tied_to(i)) {
      ASSERT_LT(*original, i);
      ASSERT_EQ(layout[*original].offset, p.offset);
    } else {
      payload += p.bytes;
    }
    if (const auto box = layout.box(i)) {
      ASSERT_EQ(box->offset.size(), p.shape.rank());
      for (std::size_t d = 0; d < p.shape.rank(); ++d)
        ASSERT_LE(p.shape[d], box->global_shape[d] - box->offset[d]);
    }
  }
  ASSERT_EQ(layout.payload_bytes(), payload);
  std::size_t next = 0;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
    ASSERT_LE(layout.bucket_bytes(b), format::kMaxBucketBytes);
    ASSERT_EQ(layout.bucket_parameters(b).first, next);
    next = layout.bucket_parameters(b).second;
  }
  ASSERT_EQ(next, layout.size());
  ASSERT_FALSE(layout.find("no such name"));
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  void mutate(std::vector<std::byte>& bytes) {
    static constexpr std::size_t kWidths[] = {1, 1, 2, 4, 4, 8};
    const std::size_t width = kWidths[random_() % 6];
    const std::size_t at = random_() % (bytes.size() / width) * width;
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, width);
    switch (random_() % 4) {
      case 0:
        value = random_();
        break;
      case 1:
        value ^= 1ULL << random_() % (8 * width);
        break;
      case 2:
        value += random_() % 17 - 8;
        break;
      default:
        value = kInteresting[random_() % std::size(kInteresting)];
    }
    std::memcpy(bytes.data() + at, &value, width);
  }
  [[nodiscard]] std::uint64_t below(std::uint64_t n) { return random_() % n; }

 private:
  static constexpr std::uint64_t kInteresting[] = {
      0,         1,   2,         8,           255,         256,         1U << 20U,
      1U << 24U, ~0U, 1U << 31U, 1ULL << 46U, 1ULL << 63U, ~0ULL - 255, ~0ULL};
  std::mt19937_64 random_;
};

TEST(LayoutMutation, SurvivesTwoHundredThousandMutations) {
  const Block valid(sample_layout());
  Mutator mutator(20240501);
  int accepted = 0;
  for (int round = 0; round < 200'000; ++round) {
    Block block = valid;
    for (std::uint64_t n = 1 + mutator.below(3); n > 0; --n) mutator.mutate(block.bytes());
    std::optional<Layout> layout;
    try {
      layout = block.parse();
    } catch (const Error& e) {
      ASSERT_EQ(e.code(), Errc::BadFormat) << "round " << round << ": " << e.what();
      continue;
    }
    ++accepted;
    use_everything(*layout);
    if (HasFatalFailure()) FAIL() << "in round " << round;
  }
  EXPECT_GT(accepted, 1000);  // reserved bytes, metadata: otherwise the test tries nothing
  EXPECT_LT(accepted, 150'000);
}

TEST(LayoutMutation, SurvivesBytesThatWereNeverALayout) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 20'000; ++round) {
    Block block(sample_layout());
    block.bytes().resize(random() % 2000);
    for (std::byte& b : block.bytes()) b = static_cast<std::byte>(random());
    SCOPED_TRACE(round);
    EXPECT_THROWS(BadFormat, "layout.", (void)block.parse());
  }
}

}  // namespace
}  // namespace tenon
