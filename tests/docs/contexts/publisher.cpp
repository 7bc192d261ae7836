// As trainer.cpp, with the publisher there already.

// std: c++20

#include <chrono>
#include <iostream>
#include <span>
#include <string>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <vector>

using namespace std::chrono_literals;

extern const std::vector<tenon::Parameter> parameters;
extern const std::vector<tenon::Source> sources;
void train_one_step();

[[maybe_unused]] static void block([[maybe_unused]] tenon::Publisher& pub) {
  // BLOCK
}
