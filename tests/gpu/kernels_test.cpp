// The kernels on a real GPU against the host's copying, and how fast they are. No GoogleTest: hosts
// with a GPU may lack it. Exit status 77 without a GPU, or 1 when TENON_REQUIRE_GPU=1.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <copy_items.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <device_kernels.hpp>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <support/copy_cases.hpp>
#include <tenon/checksum.hpp>
#include <vector>

namespace {

using tenon::Cast;
using tenon::CopyItem;
using tenon::device::ChecksumItem;
using tenon::test::CopyCase;
using tenon::test::kUntouched;

int failed = 0;

bool check(bool good, const char* what, int line = __builtin_LINE()) {
  if (good) return true;
  std::printf("line %d: %s\n", line, what);
  ++failed;
  return false;
}
// Nothing here makes sense after a CUDA error.
void must(cudaError_t error, const char* doing, int line = __builtin_LINE()) {
  if (error == cudaSuccess) return;
  std::printf("line %d: %s: %s\n", line, doing, cudaGetErrorString(error));
  std::exit(1);
}

struct Free {
  void operator()(std::byte* memory) const { must(cudaFree(memory), "cudaFree"); }
};
using Memory = std::unique_ptr<std::byte, Free>;
Memory allocate(std::size_t bytes) {
  void* memory = nullptr;
  must(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "cudaMalloc");
  return Memory(static_cast<std::byte*>(memory));
}
template <class T>
Memory upload(const std::vector<T>& values) {
  Memory memory = allocate(values.size() * sizeof(T));
  must(cudaMemcpy(memory.get(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
       "upload");
  // That call can return before the bytes have arrived, and stream() waits for no other.
  must(cudaStreamSynchronize(cudaStreamLegacy), "uploading");
  return memory;
}
std::vector<std::byte> download(const std::byte* memory, std::size_t bytes) {
  std::vector<std::byte> result(bytes);
  must(cudaMemcpy(result.data(), memory, bytes, cudaMemcpyDeviceToHost), "download");
  return result;
}

cudaStream_t stream() {
  static const cudaStream_t made = [] {
    cudaStream_t s = nullptr;
    must(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return s;
  }();
  return made;
}

using Copier = std::function<void(const std::vector<CopyItem>& items, const CopyItem* table)>;

void launch(const std::vector<CopyItem>& items, const CopyItem* table, bool rows) {
  must(tenon::device::launch_copy(0,
                                  {table, static_cast<std::uint32_t>(items.size()),
                                   items.empty() ? 0 : items.back().end, rows},
                                  {}, stream()),
       "launch_copy");
}
void by_kernel(const std::vector<CopyItem>& items, const CopyItem* table) {
  launch(items, table, tenon::has_rows(items));
}
void by_kernel_for_rows(const std::vector<CopyItem>& items, const CopyItem* table) {
  launch(items, table, true);
}
void by_cub(const std::vector<CopyItem>& items, const CopyItem* table) {
  const auto count = static_cast<std::uint32_t>(items.size());
  std::size_t bytes = 0;
  must(tenon::device::launch_copy_cub(table, count, {}, nullptr, bytes, stream()), "cub's size");
  const Memory scratch = allocate(bytes);
  must(tenon::device::launch_copy_cub(table, count, {}, scratch.get(), bytes, stream()), "cub");
  must(cudaStreamSynchronize(stream()), "cub");
}
void by_copies(const std::vector<CopyItem>& items, const CopyItem*) {
  std::uint64_t done = 0;
  for (const CopyItem& item : items) {
    for (std::uint64_t row = 0; row < (item.end - done) / item.row_bytes; ++row)
      must(cudaMemcpyAsync(item.to + row * item.to_pitch, item.from + row * item.from_pitch,
                           item.row_bytes, cudaMemcpyDeviceToDevice, stream()),
           "cudaMemcpyAsync");
    done = item.end;
  }
}

bool copies_right(const CopyCase& c, const Copier& copier, std::mt19937_64& random) {
  const auto source = tenon::test::random_bytes(random, c.from_bytes);
  std::vector<std::byte> expected(c.to_bytes, kUntouched);
  const Memory from = upload(source);
  const Memory to = upload(expected);
  tenon::copy_items(c.items(source.data(), expected.data()));
  const std::vector<CopyItem> items = c.items(from.get(), to.get());
  const Memory table = upload(items);
  copier(items, reinterpret_cast<const CopyItem*>(table.get()));
  must(cudaStreamSynchronize(stream()), "copying");
  return download(to.get(), c.to_bytes) == expected;
}

// By the kernel that is taken for it, and, where that is the one for whole rows, by the other too.
bool check_kernels(const CopyCase& c, std::mt19937_64& random) {
  if (!check(copies_right(c, by_kernel, random), "launch_copy copied wrongly")) return false;
  return tenon::has_rows(c.items(nullptr, nullptr)) ||
         check(copies_right(c, by_kernel_for_rows, random), "the kernel for rows copied wrongly");
}

// Items that every way of copying can do: one row, no cast.
CopyCase plain_case(std::mt19937_64& random, std::size_t items, std::uint64_t most) {
  CopyCase c;
  for (std::size_t i = 0; i < items; ++i)
    c.add(Cast::none, 1 + random() % most, 1, 0, 0, random() % 17, random() % 17);
  return c;
}

void random_lists() {
  std::mt19937_64 random(1);
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t most = round % 3 == 0 ? 200 : round % 3 == 1 ? 5000 : 300000;
    const CopyCase c = tenon::test::random_case(random, 1 + random() % 60, most, round % 2 == 0);
    if (!check_kernels(c, random)) return;
  }
}

void plain_lists() {
  std::mt19937_64 random(2);
  for (int round = 0; round < 60; ++round) {
    const CopyCase c = plain_case(random, 1 + random() % 200, round % 2 == 0 ? 500 : 60000);
    if (!check_kernels(c, random)) return;
    if (!check(copies_right(c, by_cub, random), "launch_copy_cub copied wrongly")) return;
    if (!check(copies_right(c, by_copies, random), "cudaMemcpyAsync copied wrongly")) return;
  }
}

void alignments() {
  std::mt19937_64 random(3);
  for (std::uint64_t from = 0; from < 16; ++from) {
    CopyCase whole;
    CopyCase rows;
    for (std::uint64_t to = 0; to < 16; ++to) {
      for (const std::uint64_t bytes : {1, 2, 3, 15, 16, 17, 31, 33, 511, 513, 20001, 100003})
        whole.add(Cast::none, bytes, 1, 0, 0, from, to);
      for (const Cast cast : {Cast::f32_to_bf16, Cast::f32_to_f16, Cast::bf16_to_f32}) {
        rows.add(cast, 1 + from + to, 3 + to, from, to, from % 4, to % 8);
        whole.add(cast, 70001, 1, 0, 0, from % 4, to % 8);
      }
      rows.add(Cast::none, 9000 + to, 5, 3, 5, from, to);
    }
    if (!check_kernels(whole, random) || !check_kernels(rows, random)) return;
  }
}

void large() {
  std::mt19937_64 random(4);
  CopyCase c;
  c.add(Cast::none, 300'000'001, 1, 0, 0, 3, 3);
  c.add(Cast::none, 1024, 50'000, 3072, 0, 0, 0);
  c.add(Cast::none, 30'000'000, 1, 0, 0, 1, 2);
  c.add(Cast::f32_to_bf16, 20'000'000, 1, 0, 0, 0, 0);
  CopyCase whole;
  whole.add(Cast::none, 300'000'001, 1, 0, 0, 3, 3);
  whole.add(Cast::none, 30'000'000, 1, 0, 0, 1, 2);
  whole.add(Cast::f32_to_bf16, 20'000'000, 1, 0, 0, 0, 0);
  if (check_kernels(c, random)) check_kernels(whole, random);
}

void nothing() {
  check(tenon::device::launch_copy(0, {}, {}, stream()) == cudaSuccess, "no items");
  check(tenon::device::launch_checksum(nullptr, 0, nullptr, stream()) == cudaSuccess, "no sums");
  must(cudaStreamSynchronize(stream()), "nothing");
}

void errors_leave_nothing_behind() {
  must(cudaGetLastError(), "before");
  check(tenon::device::launch_checksum(nullptr, 1, nullptr, stream()) != cudaSuccess,
        "sums that are no memory were accepted");
  check(cudaGetLastError() == cudaSuccess, "an error was left behind");
}

void checksums() {
  std::mt19937_64 random(5);
  const auto data = tenon::test::random_bytes(random, 40'000'000);
  const Memory memory = upload(data);
  std::vector<ChecksumItem> items;
  std::vector<std::uint64_t> expected;
  for (std::uint64_t i = 0; i < 500; ++i) {
    const std::uint64_t at = random() % 1000;
    const std::uint64_t bytes = i < 100 ? i : i == 100 ? 39'000'000 : random() % 100'000;
    items.push_back({memory.get() + at, bytes});
    expected.push_back(tenon::checksum(data.data() + at, bytes));
  }
  const Memory table = upload(items);
  const Memory sums = upload(std::vector<std::uint64_t>(items.size(), 99));
  must(tenon::device::launch_checksum(reinterpret_cast<const ChecksumItem*>(table.get()),
                                      static_cast<std::uint32_t>(items.size()),
                                      reinterpret_cast<std::uint64_t*>(sums.get()), stream()),
       "launch_checksum");
  must(cudaStreamSynchronize(stream()), "launch_checksum");
  const auto got = download(sums.get(), expected.size() * 8);
  check(std::memcmp(got.data(), expected.data(), got.size()) == 0, "a checksum differs");
}

// --- Timing: a line of JSON, no judgement ---

double median_ms(const std::function<void()>& work) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  must(cudaEventCreate(&begin), "cudaEventCreate");
  must(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times(11);
  for (float& time : times) {
    must(cudaEventRecord(begin, stream()), "cudaEventRecord");
    work();
    must(cudaEventRecord(end, stream()), "cudaEventRecord");
    must(cudaEventSynchronize(end), "timing");
    must(cudaEventElapsedTime(&time, begin, end), "cudaEventElapsedTime");
  }
  must(cudaEventDestroy(begin), "cudaEventDestroy");
  must(cudaEventDestroy(end), "cudaEventDestroy");
  std::sort(times.begin() + 1, times.end());  // the first warms up
  return times[times.size() / 2];
}

// The sizes of Qwen3-30B-A3B, which has 18,867 tensors, `shrink` times smaller.
CopyCase model(std::uint64_t shrink) {
  CopyCase c;
  const auto add = [&](std::uint64_t bytes) {
    c.add(Cast::none, std::max<std::uint64_t>(bytes / shrink / 16 * 16, 256), 1, 0, 0, 0, 0);
  };
  add(622'329'856);
  for (int layer = 0; layer < 48; ++layer) {
    for (int i = 0; i < 384; ++i) add(3'145'728);
    for (const std::uint64_t bytes : {16'777'216, 2'097'152, 2'097'152, 16'777'216, 524'288})
      add(bytes);
    for (const std::uint64_t bytes : {4096, 4096, 256, 256}) add(bytes);
  }
  add(4096);
  add(622'329'856);
  return c;
}

void timing() {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  must(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  std::uint64_t shrink = 1;
  while (62'000'000'000 / shrink * 2 > free_bytes / 10 * 9) ++shrink;
  const CopyCase c = model(shrink);
  const Memory from = allocate(c.from_bytes);
  const Memory to = allocate(c.to_bytes);
  const std::vector<CopyItem> items = c.items(from.get(), to.get());
  const Memory memory = upload(items);
  const auto* const table = reinterpret_cast<const CopyItem*>(memory.get());
  const auto count = static_cast<std::uint32_t>(items.size());
  std::size_t scratch_bytes = 0;
  must(tenon::device::launch_copy_cub(table, count, {}, nullptr, scratch_bytes, stream()), "size");
  const Memory scratch = allocate(scratch_bytes);
  const double kernel = median_ms([&] { by_kernel(items, table); });
  const double cub = median_ms([&] {
    must(tenon::device::launch_copy_cub(table, count, {}, scratch.get(), scratch_bytes, stream()),
         "launch_copy_cub");
  });
  const double loop = median_ms([&] { by_copies(items, table); });
  const double one = median_ms([&] {
    must(cudaMemcpyAsync(to.get(), from.get(), c.bytes(), cudaMemcpyDeviceToDevice, stream()),
         "cudaMemcpyAsync");
  });
  std::printf(
      "{\"tensors\": %u, \"bytes\": %llu, \"launch_copy_ms\": %.3f, \"cub_ms\": %.3f, "
      "\"memcpy_loop_ms\": %.3f, \"one_memcpy_ms\": %.3f, \"launch_copy_over_one_memcpy\": %.3f}\n",
      count, static_cast<unsigned long long>(c.bytes()), kernel, cub, loop, one, kernel / one);
}

int without_gpu(const char* why) {
  std::printf("no GPU: %s\n", why);
  const char* const required = std::getenv("TENON_REQUIRE_GPU");
  const bool must_have = required != nullptr && std::strcmp(required, "1") == 0;
  std::printf("0 passed, %d failed, %d skipped\n", must_have ? 1 : 0, must_have ? 0 : 1);
  return must_have ? 1 : 77;
}

}  // namespace

// Arguments: which tests, or "correct", all but the timing; none: all. Under compute-sanitizer some
// take a minute.
int main(int argc, char** argv) {
  std::vector<std::string_view> wanted(argv + 1, argv + argc);
  const bool correct = argc == 1 || std::erase(wanted, "correct") > 0;
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return without_gpu(cudaGetErrorString(error));
  if (devices == 0) return without_gpu("none is there");
  int passed = 0;
  int wrong = 0;
  const auto run = [&](const char* name, void (*test)(), bool is_meant) {
    if (std::erase(wanted, name) == 0 && !is_meant) return;
    failed = 0;
    test();
    ++(failed == 0 ? passed : wrong);
    std::printf("%s %s\n", failed == 0 ? "ok    " : "FAILED", name);
    std::fflush(stdout);
  };
  run("nothing", nothing, correct);
  run("random lists", random_lists, correct);
  run("plain lists", plain_lists, correct);
  run("alignments", alignments, correct);
  run("large", large, correct);
  run("checksums", checksums, correct);
  run("errors leave nothing behind", errors_leave_nothing_behind, correct);
  run("timing", timing, argc == 1);
  for (const std::string_view name : wanted) {
    std::printf("FAILED there is no test '%s'\n", std::string(name).c_str());
    ++wrong;
  }
  std::printf("%d passed, %d failed, 0 skipped\n", passed, wrong);
  return wrong == 0 ? 0 : 1;
}
