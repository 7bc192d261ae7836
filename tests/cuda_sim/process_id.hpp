// Which process: a pid alone may have been given to another.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace tenon::sim {

/// A process of this machine, as it is written into shared memory.
struct ProcessId {
  std::int32_t pid = 0;
  std::uint32_t reserved = 0;
  std::uint64_t start = 0;  // clock ticks since boot

  [[nodiscard]] static ProcessId self() {
    return {static_cast<std::int32_t>(::getpid()), 0, started(::getpid()).value_or(0)};
  }
  /// A process that ended but was not waited for yet is not alive.
  [[nodiscard]] bool alive() const { return started(pid) == start; }
  friend bool operator==(const ProcessId&, const ProcessId&) = default;

 private:
  static std::optional<std::uint64_t> started(int pid) {
    char text[512] = {};
    std::snprintf(text, sizeof text, "/proc/%d/stat", pid);
    std::FILE* file = std::fopen(text, "re");
    if (file == nullptr) return std::nullopt;
    const std::size_t length = std::fread(text, 1, sizeof text - 1, file);
    std::fclose(file);
    text[length] = 0;
    // The name of the program, in parentheses, may contain anything.
    const char* field = std::strrchr(text, ')');
    if (field == nullptr) return std::nullopt;
    field += 2;
    if (*field == 'Z' || *field == 'X') return std::nullopt;
    for (int i = 3; i < 22 && field != nullptr; ++i) {
      field = std::strchr(field, ' ');
      if (field != nullptr) ++field;
    }
    if (field == nullptr) return std::nullopt;
    return std::strtoull(field, nullptr, 10);
  }
};

}  // namespace tenon::sim
