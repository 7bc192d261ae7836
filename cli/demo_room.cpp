// The memory that `tenon demo` needs, and what there is of it.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <tenon/format.hpp>

#include "demo.hpp"
#include "gpu.hpp"
#include "parallel.hpp"

namespace tenon::cli {
namespace {

// The number behind `key` in a file of lines "key number".
std::optional<std::uint64_t> number_in(const char* file, std::string_view key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string first;
    std::uint64_t number = 0;
    if (words >> first >> number && first == key) return number;
  }
  return std::nullopt;
}

// What the machine has, or what the container may still take where it has a limit.
std::uint64_t available_memory() {
  std::uint64_t available = ~std::uint64_t{0};
  if (const auto kilobytes = number_in("/proc/meminfo", "MemAvailable:")) {
    available = *kilobytes * 1024;
  }
  std::uint64_t limit = 0;
  std::uint64_t used = 0;
  std::ifstream max("/sys/fs/cgroup/memory.max");
  std::ifstream current("/sys/fs/cgroup/memory.current");
  if (max >> limit && current >> used) {                          // "max" is no number: no limit
    for (const char* cache : {"inactive_file", "active_file"}) {  // given back when memory is short
      used -= std::min(used, number_in("/sys/fs/cgroup/memory.stat", cache).value_or(0));
    }
    available = std::min(available, limit > used ? limit - used : 0);
  }
  return available;
}

/// What a child that asked the GPU says. Smaller than PIPE_BUF: written whole or not at all.
struct Answer {
  std::uint64_t free = 0;
  std::optional<Errc> refused;
  std::array<char, 1000> why{};
};
static_assert(std::is_trivially_copyable_v<Answer>);

Answer ask_gpu(const Memory& memory) {
  Answer answer;
  try {
    use_device(memory);
    answer.free = gpu::free_memory();
  } catch (const Error& error) {
    answer.refused = error.code();
    std::strncpy(answer.why.data(), error.message().c_str(), answer.why.size() - 1);
  }
  return answer;
}

// In a child: whoever has used CUDA must not fork, and this process is about to.
std::uint64_t free_gpu_memory(const Memory& memory) {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) throw SystemError{errno, "making a pipe"};
  const safetensors::Descriptor read_end(fds[0]);
  safetensors::Descriptor write_end(fds[1]);
  const pid_t child = ::fork();
  if (child < 0) throw SystemError{errno, "forking to ask the GPU"};
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const Answer answer = ask_gpu(memory);
    ::_exit(::write(write_end.get(), &answer, sizeof(answer)) == sizeof(answer) ? 0 : 1);
  }
  write_end = safetensors::Descriptor();
  Answer answer;
  const bool answered = ::read(read_end.get(), &answer, sizeof(answer)) == sizeof(answer);
  (void)::waitpid(child, nullptr, 0);
  if (!answered) throw Error(Errc::Cuda, "the process that asked the GPU died");
  if (answer.refused) throw Error(*answer.refused, answer.why.data());
  return answer.free;
}

}  // namespace

DemoRoom needed_by(const DemoPlan& plan) {
  const Layout& layout = plan.layout;
  std::uint64_t all = 0;
  std::uint64_t largest = 0;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
    const std::uint64_t slot = format::round_up(std::max<std::uint64_t>(layout.bucket_bytes(b), 1),
                                                format::kSlotGranularity);
    all += slot;
    largest = std::max(largest, slot);
  }
  constexpr std::uint64_t kOther = 16ULL << 20U;  // the segment, stacks, page tables
  std::uint64_t slots = plan.mode == Mode::double_buffered ? 2 * all : all;
  std::uint64_t weights = layout.payload_bytes();  // of the trainer and, streaming, of everybody
  if (plan.mode == Mode::streaming) {
    slots = largest * std::min<std::uint64_t>(4, layout.bucket_count() - 1);
    weights *= 1 + plan.subscribers;
  }
  if (plan.memory.kind == MemoryKind::host)
    return {.shared = kOther + slots, .memory = kOther + slots + weights, .gpu = 0};
  constexpr std::uint64_t kContext = 512ULL << 20U;  // CUDA's own, in each process
  const std::uint64_t pieces = (plan.threads + plan.threads * plan.subscribers) * kPieceBytes;
  return {.shared = kOther,
          .memory = kOther + pieces,
          .gpu = slots + weights + kContext * plan.subscribers};
}

DemoRoom room_here(const Memory& memory) {
  struct ::statvfs shm {};
  if (::statvfs("/dev/shm", &shm) != 0) throw SystemError{errno, "looking at /dev/shm"};
  const std::uint64_t available = available_memory();
  const bool is_limited = shm.f_blocks != 0;
  return {
      .shared = is_limited ? static_cast<std::uint64_t>(shm.f_bavail) * shm.f_frsize : available,
      .memory = available,
      .gpu = memory.kind == MemoryKind::host ? 0 : free_gpu_memory(memory)};
}

}  // namespace tenon::cli
