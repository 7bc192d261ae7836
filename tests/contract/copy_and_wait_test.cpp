// Copies between host memory and each memory kind.
#include <support/memory.hpp>
#include <support/support.hpp>
#include <tenon/copy_and_wait.hpp>
#include <thread>

namespace tenon::test {
namespace {

constexpr std::uint64_t kBytes = (3U << 20U) + 5;

std::vector<std::byte> pattern(unsigned seed) {
  std::vector<std::byte> bytes(kBytes);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i * 7 + i / 251 + seed);
  return bytes;
}

class CopyAndWait : public ::testing::TestWithParam<MemoryKind> {
 protected:
  Node node_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, CopyAndWait, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(CopyAndWait, EachWayAndWithinTheKind) {
  const Bytes first(GetParam(), kBytes);
  const Bytes second(GetParam(), kBytes);
  const std::vector<std::byte> from = pattern(1);
  std::vector<std::byte> to(kBytes);
  copy_and_wait(GetParam(), first.data(), from.data(), kBytes);
  EXPECT_EQ(first.download(), from);
  copy_and_wait(GetParam(), second.data(), first.data(), kBytes);
  EXPECT_EQ(second.download(), from);
  copy_and_wait(GetParam(), to.data(), second.data(), kBytes);
  EXPECT_EQ(to, from);
  copy_and_wait(GetParam(), to.data(), nullptr, 0);
}

TEST_P(CopyAndWait, FromThreadsThatChoseNoDevice) {
  const Bytes memory(GetParam(), kBytes);
  const std::vector<std::byte> from = pattern(2);
  memory.upload(from);
  std::vector<std::vector<std::byte>> parts(4);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < parts.size(); ++t)
      threads.emplace_back([&, t] {
        for (int round = 0; round < 20; ++round) {
          std::vector<std::byte> part(kBytes);
          copy_and_wait(GetParam(), part.data(), memory.data(), kBytes);
          parts[t] = std::move(part);
        }
      });
  }
  for (const auto& part : parts) EXPECT_EQ(part, from);
}

#if TENON_TEST_SIM
TEST(CopyAndWaitSim, GivesUpWhenTheStreamIsStuck) {
  const Node node;
  const Bytes memory(MemoryKind::cuda, kBytes);
  std::vector<std::byte> to(kBytes);
  sim::hold_stream(own_stream(), true);
  EXPECT_THROWS(DeadlinePassed, "3145733 bytes",
                copy_and_wait(MemoryKind::cuda, to.data(), memory.data(), kBytes,
                              std::chrono::milliseconds(50)));
  sim::hold_stream(own_stream(), false);
  (void)memory.download();  // behind the copy, which still writes to `to`
}

TEST(CopyAndWaitSim, GoesThroughTheDeviceThatTheMemoryIsOn) {
  const Node node;
  detail::cuda::check(cudaSetDevice(1), "cudaSetDevice");
  void* memory = nullptr;
  detail::cuda::check(cudaMalloc(&memory, kBytes), "cudaMalloc");
  detail::cuda::check(cudaSetDevice(0), "cudaSetDevice");
  const std::vector<std::byte> from = pattern(3);
  // Behind work on that device's stream.
  const cudaStream_t stream = detail::per_process<detail::cuda::Devices>().stream(1);
  sim::hold_stream(stream, true);
  EXPECT_THROWS(
      DeadlinePassed, "in time",
      copy_and_wait(MemoryKind::cuda, memory, from.data(), kBytes, std::chrono::milliseconds(50)));
  sim::hold_stream(stream, false);
  std::vector<std::byte> to(kBytes);
  copy_and_wait(MemoryKind::cuda, to.data(), memory, kBytes);
  EXPECT_EQ(to, from);
  int current = -1;
  detail::cuda::check(cudaGetDevice(&current), "cudaGetDevice");
  EXPECT_EQ(current, 0);
  detail::cuda::check(cudaFree(memory), "cudaFree");
}

TEST(CopyAndWaitSim, WithoutAGpuThatIsWhatIsSaid) {
  const Node node;
  ::setenv("TENON_SIM_DRIVER", "0", 1);
  std::vector<std::byte> to(8);
  EXPECT_THROWS(NoDevice, "there is no NVIDIA driver",
                copy_and_wait(MemoryKind::cuda, to.data(), to.data(), 8));
  ::unsetenv("TENON_SIM_DRIVER");
}
#endif

}  // namespace
}  // namespace tenon::test
