#include "memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <tenon/copy_and_wait.hpp>

#include "common.hpp"
#include "gpu.hpp"

namespace tenon::cli {
namespace {

Error with_context(const std::string& before, const Error& error, const std::string& after) {
  return Error(error.code(), before + error.message() + after);
}

}  // namespace

Memory parse_memory(std::string_view text) {
  if (text == "host") return host();
  if (text == "cuda") return cuda(0);
  constexpr std::string_view kOrdinal = "cuda:";
  if (text.starts_with(kOrdinal)) {
    const char* end = text.data() + text.size();
    unsigned short device = 0;
    const auto [at, error] = std::from_chars(text.data() + kOrdinal.size(), end, device);
    if (error == std::errc() && at == end) return cuda(device);
  }
  throw Error(Errc::InvalidArgument,
              fmt::format("--memory: '{}' is not one of host, cuda, cuda:N", printable(text)));
}

std::string text_of(const Memory& memory) {
  return memory.kind == MemoryKind::host ? "host" : fmt::format("cuda:{}", memory.device);
}

void use_device(const Memory& memory) {
  if (memory.kind == MemoryKind::host) return;
  try {
    gpu::use_device(memory.device);
  } catch (const Error& error) {
    throw with_context("--memory " + text_of(memory) + ": ", error, " (--memory host)");
  }
}

void use_device_of(const PublicationInfo& publication) {
  if (publication.memory == MemoryKind::host) return;
  try {
    gpu::use_device(publication.device);
  } catch (const Error& error) {
    throw with_context(
        fmt::format("'{}' is in GPU memory, on {}: ", publication.name, publication.device), error,
        "");
  }
}

Bytes allocate(MemoryKind kind, std::uint64_t bytes) {
  bytes = std::max<std::uint64_t>(bytes, 1);  // an empty mapping is an error
  if (kind == MemoryKind::cuda) return gpu::allocate(bytes);
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw SystemError{errno, "allocating " + human_bytes(bytes)};
  return {static_cast<std::byte*>(at), [bytes](std::byte* all) { ::munmap(all, bytes); }};
}

Bytes allocate_for_loads(MemoryKind slots, std::uint64_t bytes) {
  if (slots == MemoryKind::host) return allocate(slots, bytes);
  return gpu::allocate_page_locked(std::max<std::uint64_t>(bytes, 1));
}

const std::byte* on_host(MemoryKind kind, const std::byte* at, std::uint64_t bytes,
                         std::vector<std::byte>& room) {
  if (kind == MemoryKind::host || bytes == 0) return at;
  room.resize(std::max<std::size_t>(room.size(), bytes));
  copy_and_wait(kind, room.data(), at, bytes);
  return room.data();
}

}  // namespace tenon::cli
