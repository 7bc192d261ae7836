// What every fuzz target has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <tenon/detail/hash.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size);

namespace tenon::fuzz {

/// Whether the slow steps, which need system calls, are done with this input: one in eight, and all
/// of the corpus when it is replayed. The input alone decides.
inline bool by_name_too(const std::uint8_t* input, std::size_t size) {
  static const bool always = std::getenv("TENON_FUZZ_EVERY_STEP") != nullptr;
  return always || detail::hash64(input, size) % 32 == 0;
}

}  // namespace tenon::fuzz
