// What a block of an engine finds: C++17 and the client's headers, nothing of the library.

// std: c++17

#include <chrono>
#include <cstdint>
#include <string>
#include <tenon/subscriber.hpp>

using namespace std::chrono_literals;

void serve_with(const tenon::Lease& lease);

[[maybe_unused]] static void block() {
  // BLOCK
}
