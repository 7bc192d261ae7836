// Who sends which bytes of a bucket that is reduced.
#include <gtest/gtest.h>

#include <relay/shares.hpp>
#include <tenon/plan.hpp>

namespace tenon::test {
namespace {

using relay::runs_of;
using relay::Share;
using relay::share_elements;
using relay::shares_of;

struct Size {
  std::uint64_t elements;
  int senders;
  std::vector<std::uint64_t> parts;  ///< elements of each share
};

TEST(Shares, CoverARunAlsoWhereItDoesNotDivide) {
  for (const Size& size : std::vector<Size>{{12, 3, {4, 4, 4}},
                                            {13, 3, {5, 5, 3}},
                                            {16, 5, {4, 4, 4, 4}},
                                            {7, 4, {2, 2, 2, 1}},
                                            {1, 3, {1}},
                                            {2, 3, {1, 1}},
                                            {5, 1, {5}}}) {
    const relay::Run run{Dtype::i32, 512, size.elements * 4};
    std::vector<std::uint64_t> parts;
    std::uint64_t at = 512;
    for (const Share& share : shares_of(run, size.senders)) {
      EXPECT_EQ(share.sender, static_cast<int>(parts.size()));
      EXPECT_EQ(share.offset, at);
      at += share.bytes;
      parts.push_back(share.bytes / 4);
    }
    EXPECT_EQ(parts, size.parts) << size.elements << " among " << size.senders;
    EXPECT_EQ(share_elements(run, size.senders), size.parts.front());
  }
}

TEST(Shares, RunsJoinParametersOfOneDtypeOverTheirPadding) {
  const Layout layout = plan(std::vector<Parameter>{{"a", Dtype::bf16, {3}},
                                                    {"none", Dtype::f64, {0}},
                                                    {"b", Dtype::bf16, {5}},
                                                    {"tied", Dtype::bf16, {3}, "a"},
                                                    {"c", Dtype::f32, {2}},
                                                    {"d", Dtype::bf16, {1}}});
  const std::vector<relay::Run> runs = runs_of(layout, 0);
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_EQ(runs[0].dtype, Dtype::bf16);
  EXPECT_EQ(runs[0].offset, 0U);
  EXPECT_EQ(runs[0].bytes, layout[layout.at("b")].offset + 10);
  EXPECT_EQ(runs[1].dtype, Dtype::f32);
  EXPECT_EQ(runs[1].offset, layout[layout.at("c")].offset);
  EXPECT_EQ(runs[1].bytes, 8U);
  EXPECT_EQ(runs[2].dtype, Dtype::bf16);
  EXPECT_EQ(runs[2].bytes, 2U);
  EXPECT_EQ(shares_of(layout, 0, 2).size(), 5U) << "the last run has one element, for one sender";
}

TEST(Shares, OfOneSenderAreTheBucketAsItIs) {
  const Layout layout = plan(std::vector<Parameter>{
      {"a", Dtype::bf16, {3}}, {"b", Dtype::f32, {2}}, {"c", Dtype::boolean, {2}}});
  const std::vector<Share> shares = shares_of(layout, 0, 1);
  ASSERT_EQ(shares.size(), 1U);
  EXPECT_EQ(shares[0].sender, 0);
  EXPECT_EQ(shares[0].offset, 0U);
  EXPECT_EQ(shares[0].bytes, layout.bucket_bytes(0));
}

TEST(Shares, NothingTravelsOfABucketWithoutElements) {
  const Layout layout = plan(std::vector<Parameter>{{"none", Dtype::f32, {0}}});
  EXPECT_TRUE(shares_of(layout, 0, 2).empty());
  EXPECT_EQ(shares_of(layout, 0, 1).size(), 1U);
}

}  // namespace
}  // namespace tenon::test
