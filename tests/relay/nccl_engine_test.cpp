// What is NCCL's alone; what it has in common with other engines is in engine_contract_test.
#include <gtest/gtest.h>

#include "engines.hpp"
#include "group.hpp"

namespace tenon::test {
namespace {

using detail::Deadline;
using relay::Engine;
using relay::Membership;

Deadline soon() { return Deadline(kPatience); }

TEST(NcclEngine, AllReduceAddsUp) {
  const Node node;
  Group group(3, [](const Membership& membership) {
    const auto engine = make_simulated_nccl_engine(membership, soon());
    const Bytes data(MemoryKind::cuda, 1000, std::byte{static_cast<unsigned char>(membership.rank)});
    engine->all_reduce(data.data(), 1000, Dtype::i8, relay::ReduceOp::sum, soon());
    EXPECT_EQ(data.download(), std::vector<std::byte>(1000, std::byte{3}));
  });
  group.expect_success();
}

}  // namespace
}  // namespace tenon::test
