// Bytes that anybody can make again: what `tenon demo` publishes and checks.
//
// Byte i of parameter p in version v follows from (p, v, i) alone, and nearly every 8-byte word of
// a version differs from the same word of every other version, of every other parameter and of
// every other place. So a torn, stale, shifted or swapped piece shows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenon::cli {

class Pattern {
 public:
  Pattern(std::uint64_t parameter, std::uint64_t version) noexcept;
  /// Bytes [offset, offset + bytes) of the parameter; `offset` is a multiple of 8.
  void fill(std::uint64_t offset, std::byte* to, std::uint64_t bytes) const noexcept;
  /// How many of these bytes are not what fill() makes.
  [[nodiscard]] std::uint64_t count_wrong(std::uint64_t offset, const std::byte* from,
                                          std::uint64_t bytes) const noexcept;

 private:
  std::uint64_t seed_;
};

}  // namespace tenon::cli
