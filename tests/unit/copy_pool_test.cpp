// Copying with threads: every byte arrives, and not one beside it changes.
#include <gtest/gtest.h>

#include <copy_bytes.hpp>
#include <copy_items.hpp>
#include <copy_pool.hpp>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <support/copy_cases.hpp>
#include <vector>

namespace tenon {
namespace {

constexpr std::uint64_t kMiB = 1U << 20U;
constexpr std::uint64_t kGuard = 128;
constexpr std::byte kPoison{0xA5};

// Where a piece comes from and goes to, both with an offset from a 64-byte boundary and poisoned
// guards around the destination. In allocations of their own, for AddressSanitizer.
class Strip {
 public:
  Strip(std::uint64_t bytes, std::uint64_t from_offset, std::uint64_t to_offset, unsigned seed)
      : bytes_(bytes),
        from_(allocate(from_offset + bytes)),
        to_(allocate(kGuard + to_offset + bytes + kGuard)),
        from_at_(from_offset),
        to_at_(kGuard + to_offset) {
    std::uint64_t x = seed * 0x9E3779B97F4A7C15U + 1;
    for (std::uint64_t i = 0; i < bytes_; ++i) {
      x = x * 6364136223846793005U + 1442695040888963407U;
      from_.get()[from_at_ + i] = static_cast<std::byte>(x >> 56U);
    }
    std::memset(to_.get(), static_cast<int>(kPoison), to_at_ + bytes_ + kGuard);
  }

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] const std::byte* from() const { return from_.get() + from_at_; }
  [[nodiscard]] std::byte* to() const { return to_.get() + to_at_; }
  [[nodiscard]] std::string wrong() const {
    if (bytes_ > 0 && std::memcmp(to_.get() + to_at_, from_.get() + from_at_, bytes_) != 0)
      return "bytes differ";
    for (std::uint64_t i = 0; i < to_at_; ++i) {
      if (to_.get()[i] != kPoison)
        return "wrote " + std::to_string(to_at_ - i) + " bytes too early";
    }
    for (std::uint64_t i = 0; i < kGuard; ++i) {
      if (to_.get()[to_at_ + bytes_ + i] != kPoison)
        return "wrote beyond byte " + std::to_string(i);
    }
    return "";
  }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept { ::operator delete[](p, std::align_val_t{64}); }
  };
  using Memory = std::unique_ptr<std::byte[], Free>;
  static Memory allocate(std::uint64_t bytes) {
    return Memory(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64})));
  }

  std::uint64_t bytes_;
  Memory from_;
  Memory to_;
  std::uint64_t from_at_;
  std::uint64_t to_at_;
};

std::vector<CopyItem> items_of(const std::vector<Strip>& strips) {
  std::vector<CopyItem> items;
  std::uint64_t end = 0;
  for (const Strip& s : strips) {
    if (s.bytes() == 0) continue;
    items.push_back({s.from(), s.to(), s.bytes(), 0, 0, end += s.bytes(), Cast::none, 0, 0});
  }
  return items;
}
void expect_all_right(const std::vector<Strip>& strips) {
  for (std::size_t i = 0; i < strips.size(); ++i)
    EXPECT_EQ(strips[i].wrong(), "") << "piece " << i << " of " << strips[i].bytes();
}

TEST(CopyBytes, CopiesEverySizeAtEveryAlignment) {
  for (const std::uint64_t bytes : {0U, 1U, 2U, 15U, 16U, 17U, 63U, 64U, 65U, 127U, 128U, 4097U}) {
    for (std::uint64_t to = 0; to < 64; to += 7) {
      const Strip strip(bytes, (to * 5) % 64, to, 1);
      copy_bytes(strip.to(), strip.from(), bytes);
      ASSERT_EQ(strip.wrong(), "") << bytes << " bytes to offset " << to;
    }
  }
}

TEST(CopyBytes, CopiesAroundTheSizeWhereItGoesPastTheCache) {
  for (const std::uint64_t bytes : {kMiB - 1, kMiB, kMiB + 1, kMiB + 63, kMiB + 64, kMiB + 65}) {
    for (const std::uint64_t to : {0U, 1U, 8U, 16U, 33U, 63U}) {
      for (const std::uint64_t from : {0U, 1U, 16U, 63U}) {
        const Strip strip(bytes, from, to, 2);
        copy_bytes(strip.to(), strip.from(), bytes);
        ASSERT_EQ(strip.wrong(), "") << bytes << " bytes from " << from << " to offset " << to;
      }
    }
  }
}

TEST(CopyBytes, OfNothingTouchesNothing) { copy_bytes(nullptr, nullptr, 0); }

TEST(CopyPools, HaveAsManyThreadsAsAskedForAndAtLeastOne) {
  EXPECT_EQ(CopyPool(0).threads(), 1u);
  EXPECT_EQ(CopyPool(1).threads(), 1u);
  EXPECT_EQ(CopyPool(8).threads(), 8u);
}

class CopyPools : public ::testing::TestWithParam<unsigned> {
 protected:
  CopyPool pool_{GetParam()};
};

TEST_P(CopyPools, CopyNothing) { pool_.run({}); }

TEST_P(CopyPools, CopyOnePieceOfEverySize) {
  for (const std::uint64_t bytes :
       {std::uint64_t{1}, std::uint64_t{63}, std::uint64_t{64}, std::uint64_t{65}, kMiB - 1, kMiB,
        kMiB + 1, 2 * kMiB - 1, 3 * kMiB + 17}) {
    for (const std::uint64_t offset : {0U, 13U, 63U}) {
      std::vector<Strip> strips;
      strips.emplace_back(bytes, offset, 63 - offset, 3);
      pool_.run(items_of(strips));
      expect_all_right(strips);
    }
  }
}

TEST_P(CopyPools, CopyManySmallPiecesThatAddUp) {
  std::vector<Strip> strips;
  for (unsigned i = 0; i < 3000; ++i) strips.emplace_back(i % 1500, i % 64, i % 61, i);
  pool_.run(items_of(strips));
  expect_all_right(strips);
}

TEST_P(CopyPools, CopyLargePiecesMixedWithSmallOnes) {
  std::vector<Strip> strips;
  std::mt19937 random(GetParam());
  for (const std::uint64_t bytes : {3 * kMiB + 1, std::uint64_t{1}, 2 * kMiB - 63,
                                    std::uint64_t{64}, 5 * kMiB, std::uint64_t{65}, kMiB}) {
    strips.emplace_back(bytes, random() % 64, random() % 64, static_cast<unsigned>(random()));
  }
  pool_.run(items_of(strips));
  expect_all_right(strips);
}

TEST_P(CopyPools, CopyTotalsThatDoNotDivide) {
  for (std::uint64_t more = 0; more < 8; ++more) {
    std::vector<Strip> strips;
    strips.emplace_back(kMiB / 2 + more, more, 0, 4);
    strips.emplace_back(kMiB / 2 + 3 * more, 0, more, 5);
    pool_.run(items_of(strips));
    expect_all_right(strips);
  }
}

TEST_P(CopyPools, CopyAgainAndAgain) {
  std::vector<Strip> small;
  small.emplace_back(100, 1, 2, 6);
  for (unsigned round = 0; round < 30; ++round) {
    std::vector<Strip> large;
    large.emplace_back(kMiB + round * 97, 0, round % 64, round);
    pool_.run(items_of(large));
    pool_.run(items_of(small));  // not worth sharing: the helpers sleep through it
    expect_all_right(large);
  }
  expect_all_right(small);
}

// Shares may meet anywhere, also inside an element or in a gap between rows.
TEST_P(CopyPools, CastAndCopyRowsAsOneThreadDoes) {
  std::mt19937_64 random(GetParam());
  const test::CopyCase work = test::random_case(random, 300, 60000);
  ASSERT_GT(work.bytes(), kMiB);
  const auto source = test::random_bytes(random, work.from_bytes);
  std::vector<std::byte> expected(work.to_bytes, test::kUntouched);
  std::vector<std::byte> got = expected;
  copy_items(work.items(source.data(), expected.data()));
  pool_.run(work.items(nullptr, nullptr), {source.data(), got.data()});
  EXPECT_EQ(got, expected);
}

INSTANTIATE_TEST_SUITE_P(Threads, CopyPools, ::testing::Range(1U, 9U),
                         [](const auto& test) { return std::to_string(test.param); });

}  // namespace
}  // namespace tenon
