// What every engine promises (lib/relay/engine.hpp), for groups of 1 to 4 ranks.
#include <gtest/gtest.h>

#include "engines.hpp"
#include "group.hpp"

namespace tenon::test {
namespace {

using detail::Deadline;
using relay::Engine;
using relay::Membership;

Deadline soon() { return Deadline(kPatience); }

/// Bytes that tell who made them (`who`) and what for (`seed`).
std::vector<std::byte> content(std::size_t bytes, int who, std::size_t seed) {
  std::vector<std::byte> result(bytes);
  std::uint64_t x = static_cast<std::uint64_t>(who + 1) * 0x9E3779B97F4A7C15U + seed;
  for (std::byte& b : result) {
    x = x * 6364136223846793005U + 1442695040888963407U;
    b = static_cast<std::byte>(x >> 56U);
  }
  return result;
}

/// Nothing, odd sizes, one piece exactly, and several.
const std::vector<std::size_t> kSizes{0, 1, 1021, std::size_t{4} << 20U,
                                      (std::size_t{9} << 20U) + 5};

class EngineContract : public ::testing::TestWithParam<EngineRow> {
 protected:
  /// Runs `body` as every rank of groups of 1 to 4.
  static void for_all_sizes(const std::function<void(Engine&)>& body) {
    for (int size = 1; size <= 4; ++size) {
      const Node node;
      Group group(size, [&](const Membership& membership) {
        const auto engine = GetParam().make(membership, soon());
        ASSERT_EQ(engine->rank(), membership.rank);
        ASSERT_EQ(engine->size(), membership.size);
        ASSERT_EQ(engine->memory(), GetParam().memory);
        body(*engine);
      });
      group.expect_success();
    }
  }
  static Bytes bytes(std::size_t count, std::byte value = {}) {
    return {GetParam().memory, count, value};
  }
};

TEST_P(EngineContract, BroadcastBringsTheRootsBytesToAll) {
  for_all_sizes([](Engine& engine) {
    for (int root = 0; root < engine.size(); ++root) {
      for (const std::size_t size : kSizes) {
        const Bytes data = bytes(size, std::byte{0xEE});
        if (engine.rank() == root) data.upload(content(size, root, size));
        engine.broadcast(data.data(), size, root, soon());
        EXPECT_TRUE(data.download() == content(size, root, size))
            << size << " bytes from " << root << " at " << engine.rank();
      }
    }
  });
}

TEST_P(EngineContract, ReduceScatterMayWriteIntoItsOwnPart) {
  for_all_sizes([](Engine& engine) {
    const std::size_t parts = static_cast<std::size_t>(engine.size());
    const auto mine = static_cast<std::size_t>(engine.rank());
    for (const std::size_t elements : {std::size_t{1}, std::size_t{1021}, std::size_t{2} << 20U}) {
      const Bytes data = bytes(parts * elements, std::byte{3});
      engine.reduce_scatter(data.data(), data.data() + mine * elements, elements, Dtype::u8,
                            relay::ReduceOp::sum, soon());
      const std::vector<std::byte> result = data.download();
      const auto sum = static_cast<std::byte>(3 * parts);
      for (std::size_t i = 0; i < elements; ++i)
        ASSERT_EQ(result[mine * elements + i], sum) << i << " of " << elements;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Of, EngineContract, ::testing::ValuesIn(engine_rows()),
                         [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace tenon::test
