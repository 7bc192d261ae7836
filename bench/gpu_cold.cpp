// handles, part cold: cudaIpcOpenMemHandle and cudaIpcCloseMemHandle of memory that the process has
// not open, by size of one allocation, and for many of 2 MiB at once. (R10)
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "child.hpp"
#include "gpu.hpp"
#include "gpu_handles.hpp"

namespace tenon::bench {
namespace {

namespace cuda = detail::cuda;

constexpr std::array<std::uint64_t, 5> kSizes{2ULL << 20U, 64ULL << 20U, 1ULL << 30U, 4ULL << 30U,
                                              16ULL << 30U};
constexpr std::array<std::size_t, 2> kMany{57, 1000};
constexpr std::size_t kMost = 1000;

/// So many allocations of that size.
struct Case {
  std::size_t count;
  std::uint64_t bytes;
  [[nodiscard]] std::string text() const {
    return count == 1 ? size_text(bytes) : fmt::format("{} of {}", count, size_text(bytes));
  }
};

struct Board {
  Turn exported;
  Turn closed;
  std::array<cudaIpcMemHandle_t, kMost> handles;
  Series open;
  Series close;
};

void own(const Options& options, const Case& c, Board& board) {
  const GpuStream stream(*options.device);
  std::vector<DeviceMemory> memory;
  memory.reserve(c.count);
  for (std::size_t k = 0; k < c.count; ++k) {
    memory.emplace_back(c.bytes);
    cuda::check(cudaIpcGetMemHandle(&board.handles[k], memory.back().data()),
                "cudaIpcGetMemHandle");
  }
  board.exported.set(1);
  board.closed.await(1);
}

void open_and_close(const Options& options, const Case& c, Board& board) {
  const GpuStream stream(*options.device);
  board.exported.await(1);
  std::vector<void*> opened(c.count);
  const std::size_t warm_up = options.warm_up(kGpuWarmUp);
  for (std::size_t round = 0; round < warm_up + options.samples(kGpuRounds); ++round) {
    const std::uint64_t t0 = monotonic_ns();
    for (std::size_t k = 0; k < c.count; ++k)
      cuda::check(
          cudaIpcOpenMemHandle(&opened[k], board.handles[k], cudaIpcMemLazyEnablePeerAccess),
          "cudaIpcOpenMemHandle");
    const std::uint64_t t1 = monotonic_ns();
    for (void* at : opened) cuda::check(cudaIpcCloseMemHandle(at), "cudaIpcCloseMemHandle");
    const std::uint64_t t2 = monotonic_ns();
    if (round < warm_up) continue;
    board.open.add_ns(t0, t1);
    board.close.add_ns(t1, t2);
  }
  board.closed.set(1);
}

void measure(const Options& options, Report& report, const Case& c) {
  const std::string open_name = "R10 open, " + c.text();
  const std::string close_name = "R10 close, " + c.text();
  if (const auto why = too_large(options, c.count * c.bytes, 2)) {
    report.skip(open_name, *why);
    report.skip(close_name, *why);
    return;
  }
  say(open_name);
  const Shared<Board> board;
  Family family;
  family.fork([&] { own(options, c, *board); });
  family.fork([&] { open_and_close(options, c, *board); });
  family.join(kGpuPatience);
  report.add(Row{.name = open_name, .samples = board->open.samples()});
  report.add(Row{.name = close_name, .samples = board->close.samples()});
}

}  // namespace

void measure_cold_handles(const Options& options, Report& report) {
  for (const std::uint64_t bytes : kSizes) measure(options, report, {1, bytes});
  for (const std::size_t count : kMany) measure(options, report, {count, kSizes[0]});
}

}  // namespace tenon::bench
