// What a block of a trainer finds, beside <tenon/publisher.hpp>: parameters, sources, a layout, a
// publisher.

// std: c++20

#include <array>
#include <chrono>
#include <span>
#include <string>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <vector>

using namespace std::chrono_literals;

extern const std::vector<tenon::Parameter> parameters;
extern const std::vector<tenon::Source> sources;
void train_one_step();

[[maybe_unused]] static void block() {
  // BLOCK
}
