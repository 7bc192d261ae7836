// What is NCCL's alone; what it has in common with other engines is in engine_contract_test. Most
// groups here have one member: NCCL fails as well alone.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <test_support.hpp>

#include "contract.hpp"

namespace tenon::test {
namespace {

using sim::test::Variable;

/// Communicators of this process that are neither destroyed nor aborted.
int live_communicators() {
  void* const library = ::dlopen(TENON_NCCL_SIM, RTLD_NOW | RTLD_NOLOAD);
  return library == nullptr
             ? 0
             : reinterpret_cast<int (*)()>(::dlsym(library, "tenon_nccl_sim_live"))();
}

class NcclEngine : public ::testing::Test {
 protected:
  [[nodiscard]] std::unique_ptr<Engine> make(const Deadline& deadline = soon(), int device = 0) {
    return relay::make_nccl_engine({.store = &store_}, device, deadline);
  }
  static void all_reduce(Engine& engine, const Bytes& data, const Deadline& deadline = soon()) {
    engine.all_reduce(data.data(), 8, Dtype::u8, ReduceOp::sum, deadline);
  }
  static Bytes eight_bytes(std::byte value = {}) { return {MemoryKind::cuda, 8, value}; }

  ~NcclEngine() override { EXPECT_EQ(live_communicators(), 0); }

  Node node_;
  SharedStore store_;
  Variable library_{"TENON_NCCL_LIBRARY", TENON_NCCL_SIM};
};

// --- The library ---

TEST_F(NcclEngine, LibraryThatIsMissingIsNamed) {
  const Variable library("TENON_NCCL_LIBRARY", "/nowhere/libnccl.so.2");
  EXPECT_THROWS(NoEngine, "/nowhere/libnccl.so.2: cannot open shared object file", (void)make());
  EXPECT_THROWS(NoEngine, "(TENON_NCCL_LIBRARY names this file", (void)make());
}

TEST_F(NcclEngine, LibraryThatIsNotNcclIsRefused) {
  const Variable library("TENON_NCCL_LIBRARY", "libm.so.6");
  EXPECT_THROWS(NoEngine, "'libm.so.6' has no ncclGetVersion: it is not NCCL", (void)make());
}

TEST_F(NcclEngine, LibraryThatIsTooOldIsRefused) {
  const Variable version("TENON_NCCL_SIM_VERSION", "21705");
  EXPECT_THROWS(NoEngine, "is NCCL 2.17.5: at least 2.18.0 is needed", (void)make());
}

TEST_F(NcclEngine, LibraryInTheProcessIsTakenBeforeAnyOther) {
  ::unsetenv("TENON_NCCL_LIBRARY");
  void* const library = ::dlopen(TENON_NCCL_SIM, RTLD_NOW | RTLD_LOCAL);  // as PyTorch does
  ASSERT_NE(library, nullptr) << ::dlerror();
  const Variable version("TENON_NCCL_SIM_VERSION", "21705");
  EXPECT_THROWS(NoEngine, "'libnccl.so.2' is NCCL 2.17.5", (void)make());
  ::dlclose(library);
}

/// Again in a process whose loader finds something else under that name, wherever there is NCCL.
TEST_F(NcclEngine, LibraryThatIsNowhereSaysWhatWasTried) {
  ::unsetenv("TENON_NCCL_LIBRARY");
  const char* const variable = "TENON_TEST_FOLDER_WITHOUT_NCCL";
  if (std::getenv(variable) != nullptr) {
    EXPECT_THROWS(NoEngine, "(tried: a copy in this process, then the loader's search; install it",
                  (void)make());
    return;
  }
  std::string folder = ::testing::TempDir() + "/tenon-no-nccl-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/libnccl.so.2") << "no library";
  Child child([&] {
    ::setenv("LD_LIBRARY_PATH", folder.c_str(), 1);
    ::setenv(variable, folder.c_str(), 1);
    const std::string self = "--gtest_filter=NcclEngine.LibraryThatIsNowhereSaysWhatWasTried";
    return ::execl("/proc/self/exe", "nccl_engine_test", self.c_str(), nullptr);
  });
  EXPECT_EQ(child.wait(), 0);
  std::filesystem::remove_all(folder);
}

// --- Connecting ---

TEST_F(NcclEngine, ThatIsLeftInPeaceIsFinalizedAndDestroyed) {
  const auto engine = make();
  EXPECT_EQ(live_communicators(), 1);
  EXPECT_EQ(engine->bytes_sent(), 0U);
}

TEST_F(NcclEngine, ConnectingThatNeverEndsMissesItsDeadline) {
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclCommInitRankConfig:1:7");
  EXPECT_THROWS(DeadlinePassed, "connecting with NCCL (rank 0 of 1) was not done in time",
                (void)make(Deadline(50ms)));
}

TEST_F(NcclEngine, MemberThatDoesNotComeIsWaitedForUntilTheDeadline) {
  const Membership two{.rank = 0, .size = 2, .store = &store_};
  EXPECT_THROWS(DeadlinePassed, "connecting with NCCL (rank 0 of 2)",
                (void)relay::make_nccl_engine(two, 0, Deadline(50ms)));
}

TEST_F(NcclEngine, ConnectingThatFailsAtOnceSaysWhatNcclSays) {
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclCommInitRankConfig:1:1");
  EXPECT_THROWS(Cuda, "connecting with NCCL (rank 0 of 1): unhandled cuda error (injected failure)",
                (void)make());
}

TEST_F(NcclEngine, UniqueIdThatCannotBeMadeSaysWhatNcclSays) {
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclGetUniqueId:1:2");
  EXPECT_THROWS(System, "unhandled system error (injected failure)", (void)make());
}

TEST_F(NcclEngine, FirstCollectiveThatFailsIsAFailureToWarmUp) {
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclAllReduce:1:6");
  const auto engine = make();
  EXPECT_THROWS(PeerGone, "remote process exited or there was a network error",
                engine->warm_up(soon()));
}

TEST_F(NcclEngine, IdOfAnotherEngineIsRefused) {
  store_.set("nccl-id", "127.0.0.1:4711");
  EXPECT_THROWS(Mismatch, "the group's NCCL id has 14 bytes",
                (void)relay::make_nccl_engine({.rank = 1, .size = 2, .store = &store_}, 0, soon()));
}

TEST_F(NcclEngine, BlockingCommunicatorsByEnvironmentAreRefused) {
  const Variable blocking("NCCL_COMM_BLOCKING", "1");
  EXPECT_THROWS(InvalidArgument, "NCCL_COMM_BLOCKING=1", (void)make());
}

TEST_F(NcclEngine, MembershipThatCannotBeIsRefused) {
  EXPECT_THROWS(InvalidArgument, "a rank below its size",
                (void)relay::make_nccl_engine({.rank = 1, .store = &store_}, 0, soon()));
  EXPECT_THROWS(InvalidArgument, "needs a store", (void)relay::make_nccl_engine({}, 0, soon()));
  EXPECT_THROWS(NoDevice, "there is no device 2", (void)make(soon(), 2));
}

TEST(NcclGroup, TwoRanksOnOneGpuOfOneHostAreRefused) {
  const Node node;
  Group group(2, [](const Membership& membership) {
    const Variable library("TENON_NCCL_LIBRARY", TENON_NCCL_SIM);
    EXPECT_THROWS(InvalidArgument, "Duplicate GPU detected",
                  (void)relay::make_nccl_engine(membership, 0, soon()));
  });
  group.expect_success();
}

// --- Operations ---

TEST_F(NcclEngine, ErrorsOfNcclBecomeConditions) {
  const std::pair<int, const char*> conditions[] = {{1, "Cuda: "},
                                                    {2, "System: "},
                                                    {3, "System: "},
                                                    {4, "InvalidArgument: "},
                                                    {5, "InvalidArgument: "},
                                                    {6, "PeerGone: "}};
  const Bytes data = eight_bytes();
  for (const auto& [result, condition] : conditions) {
    const auto engine = make();
    const Variable fail("TENON_NCCL_SIM_FAIL", "ncclAllReduce:1:" + std::to_string(result));
    const std::string what = thrown([&] { all_reduce(*engine, data); });
    EXPECT_TRUE(
        what.starts_with(condition + std::string("an all-reduce over NCCL (rank 0 of 1): ")))
        << what;
    EXPECT_TRUE(what.ends_with("(injected failure)")) << what;
    EXPECT_EQ(live_communicators(), 0);
  }
}

TEST_F(NcclEngine, FailureIsTheEndOfTheEngine) {
  const auto engine = make();
  const Bytes data = eight_bytes();
  {
    const Variable fail("TENON_NCCL_SIM_FAIL", "ncclAllReduce:1:6");
    EXPECT_THROWS(PeerGone, "injected failure", all_reduce(*engine, data));
  }
  EXPECT_THROWS(PeerGone, "a broadcast over NCCL (rank 0 of 1): after an all-reduce",
                engine->broadcast(data.data(), 8, 0, soon()));
  engine->abort();
  EXPECT_THROWS(Aborted, "the group was broken up", all_reduce(*engine, data));
}

TEST_F(NcclEngine, ErrorThatComesWhileItWorksIsThrown) {
  const auto engine = make();
  const Bytes data = eight_bytes();
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclCommGetAsyncError:2:6");
  EXPECT_THROWS(PeerGone, "injected failure", all_reduce(*engine, data));
  EXPECT_EQ(live_communicators(), 0);
}

TEST_F(NcclEngine, OperationThatIsNeverLaunchedMissesItsDeadline) {
  const auto engine = make();
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclAllReduce:1:7");
  EXPECT_THROWS(DeadlinePassed, "an all-reduce over NCCL (rank 0 of 1) was not done in time",
                all_reduce(*engine, eight_bytes(), Deadline(50ms)));
  EXPECT_EQ(live_communicators(), 0);
}

TEST_F(NcclEngine, OperationThatIsNeverLaunchedCanBeAborted) {
  const auto engine = make();
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclAllReduce:1:7");
  std::thread other([&] {
    std::this_thread::sleep_for(20ms);
    engine->abort();
  });
  EXPECT_THROWS(Aborted, "an all-reduce over NCCL", all_reduce(*engine, eight_bytes()));
  other.join();
  EXPECT_EQ(live_communicators(), 0);
}

TEST_F(NcclEngine, AbortLeavesTheCommunicatorToTheThreadThatIsInIt) {
  const auto engine = make();
  engine->abort();
  EXPECT_EQ(live_communicators(), 1);
  EXPECT_THROWS(Aborted, "the group was broken up", all_reduce(*engine, eight_bytes()));
}

TEST_F(NcclEngine, KernelThatFaultsIsAnErrorOfCuda) {
  const auto engine = make();
  const Bytes data = eight_bytes();
  sim::break_context();
  EXPECT_THROWS(Cuda, "", all_reduce(*engine, data));
}

TEST_F(NcclEngine, FarewellThatNeverEndsIsCutShort) {
  auto engine = make();
  const Variable fail("TENON_NCCL_SIM_FAIL", "ncclCommFinalize:1:7");
  const auto begin = std::chrono::steady_clock::now();
  engine.reset();
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 500ms);  // it was given its time
  EXPECT_EQ(live_communicators(), 0);
}

TEST_F(NcclEngine, DeviceOfTheThreadIsNeitherUsedNorChanged) {
  const auto engine = make(soon(), 1);
  EXPECT_FALSE(sim::has_context(0));  // 500 MiB of a GPU that is none of ours
  std::byte* const data = [] {
    const detail::cuda::DeviceScope scope(1);
    return sim::test::allocate(8);
  }();
  engine->all_reduce(data, 8, Dtype::u8, ReduceOp::sum, soon());
  EXPECT_FALSE(sim::has_context(0));
  int current = -1;
  EXPECT_EQ(cudaGetDevice(&current), cudaSuccess);
  EXPECT_EQ(current, 0);
}

TEST_F(NcclEngine, WhatNcclCannotReduceIsRefusedAndNothingIsSent) {
  const auto engine = make();
  const Bytes data = eight_bytes(std::byte{7});
  for (const Dtype dtype : {Dtype::boolean, Dtype::f8_e4m3, Dtype::f8_e5m2, Dtype::i16, Dtype::u16})
    EXPECT_THROWS(InvalidArgument, "NCCL cannot reduce " + std::string(info(dtype).name) + ";",
                  engine->all_reduce(data.data(), 1, dtype, ReduceOp::sum, soon()));
  EXPECT_THROWS(InvalidArgument, "more than there can be",
                engine->all_reduce(data.data(), SIZE_MAX / 2, Dtype::f32, ReduceOp::sum, soon()));
  EXPECT_THROWS(InvalidArgument, "is this process itself", engine->send(data.data(), 8, 0, soon()));
  all_reduce(*engine, data);  // and it still works
  EXPECT_EQ(data.download(), std::vector<std::byte>(8, std::byte{7}));
}

TEST(NcclGroup, MemoryOfTheHostIsRefusedByNccl) {
  const Node node;
  Group group(2, [](const Membership& membership) {
    const auto engine = make_simulated_nccl_engine(membership, soon());
    std::byte here[8] = {};
    EXPECT_THROWS(InvalidArgument, "not memory of the communicator's device",
                  engine->broadcast(here, 8, 0, soon()));
  });
  group.expect_success();
}

/// The double reports it; NCCL itself would hang, until the deadline.
TEST(NcclGroup, RanksAtDifferentOperationsFail) {
  const Node node;
  Group group(2, [](const Membership& membership) {
    const auto engine = make_simulated_nccl_engine(membership, soon());
    const Bytes data(MemoryKind::cuda, 64);
    const std::string what = thrown([&] {
      engine->all_reduce(data.data(), membership.rank == 0 ? 64 : 32, Dtype::u8, ReduceOp::sum,
                         soon());
    });
    EXPECT_TRUE(what.starts_with("System: ") || what.starts_with("PeerGone: ")) << what;
  });
  group.expect_success();
}

/// Floats are divided by 3 before they are added, integers behind that.
TEST(NcclGroup, MeanOfThreeIsAsGoodAsNcclMakesIt) {
  const Node node;
  Group group(3, [](const Membership& membership) {
    const auto engine = make_simulated_nccl_engine(membership, soon());
    const double mine = 2.0 * membership.rank + 5;  // 5, 7, 9
    Bytes data(MemoryKind::cuda, 4);
    data.upload(encoded(Dtype::f32, {mine}));
    engine->all_reduce(data.data(), 1, Dtype::f32, ReduceOp::mean, soon());
    float mean = 0;
    std::memcpy(&mean, data.download().data(), sizeof mean);
    EXPECT_NEAR(mean, 7, 1e-5);
    data.upload(encoded(Dtype::i32, {mine}));
    engine->all_reduce(data.data(), 1, Dtype::i32, ReduceOp::mean, soon());
    EXPECT_EQ(data.download(), encoded(Dtype::i32, {7}));
  });
  group.expect_success();
}

TEST(NcclGroup, BytesSentAreThoseOfARing) {
  const Node node;
  Group group(3, [](const Membership& membership) {
    const auto engine = make_simulated_nccl_engine(membership, soon());
    const Bytes input(MemoryKind::cuda, 1200);
    const Bytes output(MemoryKind::cuda, 3600);
    std::uint64_t before = 0;
    const auto sent = [&] {
      return engine->bytes_sent() - std::exchange(before, engine->bytes_sent());
    };
    engine->broadcast(input.data(), 1200, 1, soon());
    EXPECT_EQ(sent(), membership.rank == 0 ? 0U : 1200U);  // 1 to 2 to 0
    engine->all_gather(input.data(), output.data(), 1200, soon());
    EXPECT_EQ(sent(), 2400U);
    engine->reduce_scatter(output.data(), input.data(), 300, Dtype::f32, ReduceOp::sum, soon());
    EXPECT_EQ(sent(), 2400U);
    engine->all_reduce(input.data(), 300, Dtype::f32, ReduceOp::sum, soon());
    EXPECT_EQ(sent(), 1600U);
  });
  group.expect_success();
}

TEST(NcclGroup, WhatWasSentArrivesAlthoughTheSenderLeavesAtOnce) {
  const Node node;
  Group group(2, [](const Membership& membership) {
    const auto engine = make_simulated_nccl_engine(membership, soon());
    const std::size_t many = std::size_t{3} << 20U;
    const Bytes data(MemoryKind::cuda, many, std::byte(membership.rank == 0 ? 0x5A : 0));
    if (membership.rank == 0) return engine->send(data.data(), many, 1, soon());
    std::this_thread::sleep_for(20ms);
    engine->receive(data.data(), many, 0, soon());
    EXPECT_TRUE(data.download() == std::vector<std::byte>(many, std::byte{0x5A}));
  });
  group.expect_success();
}

}  // namespace
}  // namespace tenon::test
