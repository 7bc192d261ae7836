// What every engine promises (lib/relay/engine.hpp) as long as nobody fails, for groups of 1 to 4
// ranks. engine_failure_test.cpp has the rest.
#include <random>

#include "contract.hpp"

namespace tenon::test {
namespace {

/// Nothing, odd sizes, one piece of Gloo's exactly, and several.
const std::vector<std::size_t> kSizes{0, 1, 1021, std::size_t{4} << 20U,
                                      (std::size_t{5} << 20U) + 5};
const std::vector<Dtype> kDtypesToReduce{Dtype::f32, Dtype::f64, Dtype::f16, Dtype::bf16,
                                         Dtype::u8,  Dtype::i32, Dtype::i64};

TEST_P(EngineContract, AnEngineKnowsItsPlace) {
  for (int size = 1; size <= 4; ++size) {
    const Node node;
    Group group(size, [&](const Membership& membership) {
      const auto engine = GetParam().make(membership, soon());
      EXPECT_EQ(engine->rank(), membership.rank);
      EXPECT_EQ(engine->size(), membership.size);
      EXPECT_EQ(engine->memory(), GetParam().memory);
      EXPECT_EQ(engine->bytes_sent(), 0U);
      engine->warm_up(soon());  // nobody leaves who another one may still be connecting to
    });
    group.expect_success();
  }
}

TEST_P(EngineContract, BroadcastBringsTheRootsBytesToAll) {
  for_all_sizes([](Engine& engine) {
    for (int root = 0; root < engine.size(); ++root) {
      for (const std::size_t size : kSizes) {
        const Bytes data = bytes(size);
        if (engine.rank() == root) data.upload(content(size, root, size));
        engine.broadcast(data.data(), size, root, soon());
        EXPECT_TRUE(data.download() == content(size, root, size))
            << size << " bytes from " << root << " at " << engine.rank();
      }
    }
  });
}

/// Everybody's content, in order of rank.
std::vector<std::byte> all_content(int ranks, std::size_t size, std::size_t seed) {
  std::vector<std::byte> all;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto one = content(size, rank, seed);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

TEST_P(EngineContract, AllGatherPutsAllInputsInOrderOfRank) {
  for_all_sizes([](Engine& engine) {
    for (const std::size_t size : kSizes) {
      const Bytes input = bytes(content(size, engine.rank(), size));
      const Bytes output = bytes(size * static_cast<std::size_t>(engine.size()));
      engine.all_gather(input.data(), output.data(), size, soon());
      EXPECT_TRUE(output.download() == all_content(engine.size(), size, size)) << size;
      EXPECT_TRUE(input.download() == content(size, engine.rank(), size)) << size;
    }
  });
}

/// Small numbers, of which also four have a sum that every dtype can say.
double number(int rank, std::size_t i) {
  return static_cast<double>((i * 7 + i / 13) % 5 + static_cast<std::size_t>(rank));
}

std::vector<double> numbers(int rank, std::size_t count, std::size_t from = 0) {
  std::vector<double> result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = number(rank, from + i);
  return result;
}
/// The sum over all ranks.
std::vector<double> sums(int ranks, std::size_t count, std::size_t from = 0) {
  std::vector<double> result(count);
  for (int rank = 0; rank < ranks; ++rank) {
    for (std::size_t i = 0; i < count; ++i) result[i] += number(rank, from + i);
  }
  return result;
}

TEST_P(EngineContract, ReduceScatterGivesEachRankItsPart) {
  for_all_sizes([](Engine& engine) {
    for (const Dtype dtype : kDtypesToReduce) {
      for (const std::size_t elements : {std::size_t{0}, std::size_t{1}, std::size_t{1021}}) {
        const std::size_t all = elements * static_cast<std::size_t>(engine.size());
        const Bytes input = bytes(encoded(dtype, numbers(engine.rank(), all)));
        const Bytes output = bytes(elements * info(dtype).bytes);
        engine.reduce_scatter(input.data(), output.data(), elements, dtype, ReduceOp::sum, soon());
        const std::size_t from = elements * static_cast<std::size_t>(engine.rank());
        EXPECT_TRUE(output.download() == encoded(dtype, sums(engine.size(), elements, from)))
            << elements << " of " << info(dtype).name << " at " << engine.rank();
      }
    }
  });
}

TEST_P(EngineContract, ReduceScatterOfSeveralPiecesAndInPlace) {
  for_all_sizes([](Engine& engine) {
    // Of 4 bytes: two pieces, or three.
    const std::size_t elements = (std::size_t{engine.size() == 2 ? 2U : 1U} << 20U) + 3;
    const std::size_t all = elements * static_cast<std::size_t>(engine.size());
    const std::size_t from = elements * static_cast<std::size_t>(engine.rank());
    const auto expected = encoded(Dtype::f32, sums(engine.size(), elements, from));
    const Bytes input = bytes(encoded(Dtype::f32, numbers(engine.rank(), all)));
    const Bytes output = bytes(elements * 4);
    engine.reduce_scatter(input.data(), output.data(), elements, Dtype::f32, ReduceOp::sum, soon());
    EXPECT_TRUE(output.download() == expected);
    std::byte* own = input.data() + from * 4;
    engine.reduce_scatter(input.data(), own, elements, Dtype::f32, ReduceOp::sum, soon());
    EXPECT_TRUE(Bytes::get(GetParam().memory, own, elements * 4) == expected);
  });
}

TEST_P(EngineContract, AllReduceOfAnyNumberOfElements) {
  for_all_sizes([](Engine& engine) {
    for (const Dtype dtype : kDtypesToReduce) {
      for (const std::size_t elements : {0, 1, 2, 3, 5, 1021, (3 << 20) + 1}) {
        if (elements > 10000 && dtype != Dtype::f32) continue;
        const Bytes data = bytes(encoded(dtype, numbers(engine.rank(), elements)));
        engine.all_reduce(data.data(), elements, dtype, ReduceOp::sum, soon());
        EXPECT_TRUE(data.download() == encoded(dtype, sums(engine.size(), elements)))
            << elements << " of " << info(dtype).name;
      }
    }
  });
}

TEST_P(EngineContract, TheMeanIsTheSumDividedByTheGroupsSize) {
  for_all_sizes([](Engine& engine) {
    if (!GetParam().exact && engine.size() == 3) return;  // nothing else divides inexactly
    for (const Dtype dtype : kDtypesToReduce) {
      // Rank r has 2r + i: the mean is i + size - 1, a whole number.
      std::vector<double> mine, mean;
      for (int i = 0; i < 37; ++i) {
        mine.push_back(2 * engine.rank() + i);
        mean.push_back(i + engine.size() - 1);
      }
      const Bytes data = bytes(encoded(dtype, mine));
      engine.all_reduce(data.data(), mine.size(), dtype, ReduceOp::mean, soon());
      EXPECT_TRUE(data.download() == encoded(dtype, mean)) << info(dtype).name;
    }
  });
}

TEST_P(EngineContract, SixteenBitFloatsAreSummedInF32AndRoundedOnce) {
  if (!GetParam().exact) GTEST_SKIP() << "this engine promises less (engine.hpp)";
  run_group(4, [](Engine& engine) {
    for (const auto& [dtype, large] : {std::pair{Dtype::bf16, 256.0}, {Dtype::f16, 2048.0}}) {
      // large + 1 is a tie, which rounds to large: rounded at every step the ones would be lost.
      const Bytes one = bytes(encoded(dtype, {engine.rank() == 0 ? large : 1.0}));
      engine.all_reduce(one.data(), 1, dtype, ReduceOp::sum, soon());
      EXPECT_TRUE(one.download() == encoded(dtype, {large + 4})) << info(dtype).name;  // of + 3
    }
  });
}

TEST_P(EngineContract, AllReduceGivesAllRanksTheSameBits) {
  run_group(3, [](Engine& engine) {
    std::mt19937 random(static_cast<unsigned>(engine.rank()));
    std::vector<double> mine(1001);
    for (double& x : mine) x = std::uniform_real_distribution(-1.0, 1.0)(random);
    const Bytes data = bytes(encoded(Dtype::f32, mine));
    engine.all_reduce(data.data(), mine.size(), Dtype::f32, ReduceOp::sum, soon());
    const std::size_t size = mine.size() * 4;
    const Bytes all = bytes(size * 3);
    engine.all_gather(data.data(), all.data(), size, soon());
    for (std::size_t rank = 0; rank < 3; ++rank) {
      EXPECT_TRUE(Bytes::get(GetParam().memory, all.data() + rank * size, size) == data.download())
          << rank << " has others than " << engine.rank();
    }
  });
}

TEST_P(EngineContract, SendAndReceiveMeetForEachPairOfRanks) {
  for_all_sizes([](Engine& engine) {
    for (const std::size_t size : {0, 1, 1021, (4 << 20) + 1}) {
      for (int from = 0; from < engine.size(); ++from) {
        for (int to = 0; to < engine.size(); ++to) {
          if (from == to) continue;
          const auto expected = content(size, from, static_cast<std::size_t>(to));
          const Bytes data = engine.rank() == from ? bytes(expected) : bytes(size);
          if (engine.rank() == from) engine.send(data.data(), size, to, soon());
          if (engine.rank() == to) engine.receive(data.data(), size, from, soon());
          if (engine.rank() == to) {
            EXPECT_TRUE(data.download() == expected) << size;
          }
        }
      }
    }
  });
}

/// One operation of a sequence that all ranks draw alike.
void random_operation(Engine& engine, std::mt19937_64& random, std::size_t seed,
                      const std::function<Bytes(const std::vector<std::byte>&)>& make) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const std::size_t size = random() % 5 == 0 ? random() % (6U << 20U) : random() % 5000;
  const int root = below(engine.size());
  const int peer = (root + 1 + below(engine.size() - 1)) % engine.size();
  const int operation = below(4);
  if (operation == 0) {
    const Bytes data = make(content(size, engine.rank(), seed));
    engine.broadcast(data.data(), size, root, soon());
    EXPECT_TRUE(data.download() == content(size, root, seed));
  } else if (operation == 1) {
    const Bytes input = make(content(size, engine.rank(), seed));
    const Bytes output =
        make(std::vector<std::byte>(size * static_cast<std::size_t>(engine.size())));
    engine.all_gather(input.data(), output.data(), size, soon());
    EXPECT_TRUE(output.download() == all_content(engine.size(), size, seed));
  } else if (operation == 2) {
    const Bytes data = make(encoded(Dtype::i32, numbers(engine.rank(), size / 4)));
    engine.all_reduce(data.data(), size / 4, Dtype::i32, ReduceOp::sum, soon());
    EXPECT_TRUE(data.download() == encoded(Dtype::i32, sums(engine.size(), size / 4)));
  } else {
    const Bytes data = make(content(size, engine.rank(), seed));
    if (engine.rank() == root) engine.send(data.data(), size, peer, soon());
    if (engine.rank() == peer) engine.receive(data.data(), size, root, soon());
    if (engine.rank() == peer) {
      EXPECT_TRUE(data.download() == content(size, root, seed));
    }
  }
}

TEST_P(EngineContract, OperationsFollowEachOtherInAnyOrder) {
  run_group(3, [](Engine& engine) {
    std::mt19937_64 random(20261127);
    for (std::size_t i = 0; i < 40; ++i)
      random_operation(engine, random, i, [](const auto& value) { return bytes(value); });
  });
}

TEST_P(EngineContract, WrongArgumentsAreRefusedAndNothingIsSent) {
  run_group(2, [](Engine& engine) {
    const Bytes data = bytes(64);
    std::byte* p = data.data();
    for (const int rank : {-1, 2}) {
      EXPECT_THROWS(InvalidArgument, "rank", engine.broadcast(p, 8, rank, soon()));
      EXPECT_THROWS(InvalidArgument, "rank", engine.send(p, 8, rank, soon()));
      EXPECT_THROWS(InvalidArgument, "rank", engine.receive(p, 8, rank, soon()));
    }
    EXPECT_THROWS(InvalidArgument, "rank", engine.send(p, 8, engine.rank(), soon()));
    EXPECT_THROWS(InvalidArgument, "rank", engine.receive(p, 8, engine.rank(), soon()));
    EXPECT_THROWS(InvalidArgument, "BOOL",
                  engine.reduce_scatter(p, p, 8, Dtype::boolean, ReduceOp::sum, soon()));
    EXPECT_THROWS(InvalidArgument, "BOOL",
                  engine.all_reduce(p, 8, Dtype::boolean, ReduceOp::sum, soon()));
    EXPECT_EQ(engine.bytes_sent(), 0U);
    if (engine.rank() == 1) data.upload(content(64, 1, 0));
    engine.broadcast(p, 64, 1, soon());  // and the engine is as good as before
    EXPECT_TRUE(data.download() == content(64, 1, 0));
  });
}

TEST_P(EngineContract, BytesSentCountsWhatWent) {
  run_group(2, [](Engine& engine) {
    const Bytes data = bytes(1000);
    if (engine.rank() == 0)
      engine.send(data.data(), 1000, 1, soon());
    else
      engine.receive(data.data(), 1000, 0, soon());
    EXPECT_EQ(engine.bytes_sent(), engine.rank() == 0 ? 1000U : 0U);
  });
}

INSTANTIATE_TEST_SUITE_P(Of, EngineContract, ::testing::ValuesIn(engine_rows()), row_name);

}  // namespace
}  // namespace tenon::test
