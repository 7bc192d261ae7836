// The kernels' twins: they run behind what was queued before, and copy and sum as the host does.
#include <checksum_walk.hpp>
#include <copy_items.hpp>
#include <device_kernels.hpp>
#include <support/copy_cases.hpp>
#include <tenon/checksum.hpp>

#include "test_support.hpp"

namespace tenon::sim::test {
namespace {

using tenon::test::CopyCase;

/// A stream and memory of the simulated device, for one test.
class Kernels : public ::testing::Test {
 protected:
  Kernels() { EXPECT_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  template <class T>
  T* on_device(const std::vector<T>& values) {
    void* memory = nullptr;
    EXPECT_OK(cudaMalloc(&memory, values.size() * sizeof(T)));
    EXPECT_OK(cudaMemcpyAsync(memory, values.data(), values.size() * sizeof(T),
                              cudaMemcpyHostToDevice, stream_));
    EXPECT_OK(cudaStreamSynchronize(stream_));  // the caller's vector may be gone by then
    return static_cast<T*>(memory);
  }
  template <class T>
  std::vector<T> from_device(const T* memory, std::size_t count) {
    std::vector<T> values(count);
    EXPECT_OK(
        cudaMemcpyAsync(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost, stream_));
    EXPECT_OK(cudaStreamSynchronize(stream_));
    return values;
  }

  FreshNode node_;
  Variable no_host_access_{"TENON_SIM_HOST_ACCESS", "0"};
  cudaStream_t stream_ = nullptr;
  std::mt19937_64 random_{7};
};

TEST_F(Kernels, CopyWhatTheHostCopies) {
  for (int round = 0; round < 20; ++round) {
    const CopyCase work = tenon::test::random_case(random_, 1 + random_() % 40, 300);
    const auto source = tenon::test::random_bytes(random_, work.from_bytes);
    std::vector<std::byte> expected(work.to_bytes, tenon::test::kUntouched);
    const std::byte* from = on_device(source);
    std::byte* to = on_device(expected);
    const auto table = work.items(nullptr, nullptr);  // offsets from
    ASSERT_OK(device::launch_copy(
        0,
        {on_device(table), static_cast<std::uint32_t>(table.size()), work.bytes(), has_rows(table)},
        {from, to}, stream_));
    copy_items(work.items(source.data(), expected.data()));
    EXPECT_EQ(from_device(to, expected.size()), expected);
  }
}

TEST_F(Kernels, SumWhatTheHostSums) {
  std::vector<device::ChecksumItem> table;
  std::vector<std::uint64_t> expected;
  for (const std::size_t bytes : {1U, 7U, 8U, 9U, 4096U, 100'001U}) {
    const auto data = tenon::test::random_bytes(random_, bytes);
    table.push_back({on_device(data), bytes});
    expected.push_back(checksum(data.data(), bytes));
  }
  std::uint64_t* sums = on_device(std::vector<std::uint64_t>(table.size()));
  ASSERT_OK(device::launch_checksum(on_device(table), static_cast<std::uint32_t>(table.size()),
                                    sums, stream_));
  EXPECT_EQ(from_device(sums, table.size()), expected);
}

TEST_F(Kernels, ATableThatIsNoListOfRowsIsAFault) {
  const std::vector<CopyItem> table(1);
  ASSERT_OK(device::launch_copy(0, {on_device(table), 1, 5, true}, {}, stream_));
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorIllegalAddress);
}

TEST_F(Kernels, RowsThatWereNotSpokenOfAreAFault) {
  CopyCase work;
  work.add(Cast::none, 100, 2, 0, 0, 0, 0);
  const std::byte* from = on_device(std::vector<std::byte>(work.from_bytes));
  std::byte* to = on_device(std::vector<std::byte>(work.to_bytes));
  const auto table = work.items(nullptr, nullptr);
  ASSERT_OK(
      device::launch_copy(0, {on_device(table), 1, work.bytes(), false}, {from, to}, stream_));
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorIllegalAddress);
}

}  // namespace
}  // namespace tenon::sim::test
