// What a block of an engine on another node finds.

// std: c++20

// needs: relay

#include <chrono>
#include <string>
#include <tenon/connect.hpp>

using namespace std::chrono_literals;

extern const std::string secret;

[[maybe_unused]] static void block() {
  // BLOCK
}
