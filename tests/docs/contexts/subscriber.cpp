// As engine.cpp, with the subscriber there already, and storage of the engine's own.

// std: c++17

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tenon/subscriber.hpp>

using namespace std::chrono_literals;

extern std::byte* norm;
void serve_with(const tenon::Lease& lease);
void run_batch();

[[maybe_unused]] static void block([[maybe_unused]] tenon::Subscriber& sub) {
  // BLOCK
}
