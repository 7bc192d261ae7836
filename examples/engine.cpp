// An inference engine: reads every version it gets to see in place, without copying it. C++17.
//
//   engine NAME LAST_VERSION
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <tenon/subscriber.hpp>

using namespace std::chrono_literals;

namespace {

// What the trainer of this example publishes: all weights are the version's number, or its
// negative.
bool holds_only(const tenon::View& view, float expected) {
  const auto* weights = reinterpret_cast<const float*>(view.data());
  const auto count = view.bytes() / sizeof(float);
  return std::all_of(weights, weights + count, [&](float w) { return w == expected; });
}

bool serve(const char* name, std::uint64_t last) {
  tenon::AttachOptions options;
  options.deadline = 10s;  // for a trainer that is not there yet
  options.label = "engine";
  auto subscriber = tenon::Subscriber::attach(name, options);
  for (std::uint64_t version = 0; version < last;) {
    const tenon::Lease lease = subscriber.wait(tenon::newer_than(version), 30s);
    version = lease.version();
    const auto n = static_cast<float>(version);
    const bool right =
        holds_only(lease["layers.0.weight"], n) && holds_only(lease["layers.1.weight"], -n);
    std::cout << "version " << version << ": " << lease.size() << " parameters "
              << (right ? "verified" : "WRONG") << std::endl;
    if (!right) return false;
  }  // each turn ends its lease: the trainer may write over what it held
  return true;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::uint64_t last = argc == 3 ? std::strtoull(argv[2], nullptr, 10) : 0;
  if (last == 0) {
    std::cerr << "usage: engine NAME LAST_VERSION\n";
    return 2;
  }
  return serve(argv[1], last) ? 0 : 1;
} catch (const std::exception& e) {
  std::cerr << "engine: " << e.what() << '\n';
  return 1;
}
