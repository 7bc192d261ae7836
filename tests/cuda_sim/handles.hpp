// What is inside the 64 bytes of an interprocess handle.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

#include "process_id.hpp"

namespace tenon::sim {

struct MemoryHandle {
  static constexpr std::uint32_t kMagic = 0x4D53'4E54;  // "TNSM"

  std::uint32_t magic = kMagic;
  std::uint32_t index = 0;
  std::uint64_t node = 0;  // hash of its name
  ProcessId exporter;
  std::uint64_t bytes = 0;
  std::uint32_t generation = 0;  // 0: not told (TENON_SIM_HANDLE_REUSE)
  std::uint32_t reserved = 0;
};

struct EventHandle {
  static constexpr std::uint32_t kMagic = 0x4553'4E54;  // "TNSE"

  std::uint32_t magic = kMagic;
  std::uint32_t reserved = 0;
  std::uint64_t node = 0;
  ProcessId exporter;
  std::uint64_t number = 0;
};

template <class Inside, class Handle>
void write_handle(const Inside& inside, Handle& handle) {
  static_assert(std::is_trivially_copyable_v<Inside> && sizeof(Inside) <= sizeof(Handle));
  std::memset(&handle, 0, sizeof handle);
  std::memcpy(&handle, &inside, sizeof inside);
}

/// Nothing when the bytes are not of such a handle.
template <class Inside, class Handle>
std::optional<Inside> read_handle(const Handle& handle) {
  Inside inside;
  std::memcpy(static_cast<void*>(&inside), &handle, sizeof inside);
  if (inside.magic != Inside::kMagic) return std::nullopt;
  return inside;
}

}  // namespace tenon::sim
