// A trainer: publishes a two-layer model after every step of its training.
//
//   trainer NAME STEPS
#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <tenon/publisher.hpp>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

namespace {

// Closing right after the last version would take it from an engine that is not quite there yet.
void wait_until_engines_left(const tenon::Publisher& publisher) {
  const auto deadline = std::chrono::steady_clock::now() + 30s;
  while (!publisher.subscribers().empty() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(10ms);
  }
}

void train(const char* name, unsigned long steps) {
  std::vector<float> up(64 * 16);
  std::vector<float> down(16 * 64);
  const std::vector<tenon::Parameter> parameters = {
      {.name = "layers.0.weight", .dtype = tenon::Dtype::f32, .shape = {64, 16}},
      {.name = "layers.1.weight", .dtype = tenon::Dtype::f32, .shape = {16, 64}}};
  const std::vector<tenon::Source> sources = {{.data = up.data()}, {.data = down.data()}};

  auto publisher = tenon::Publisher::create(
      name, tenon::plan(parameters), {.mode = tenon::Mode::double_buffered, .label = "trainer"});
  for (unsigned long step = 1; step <= steps; ++step) {
    up.assign(up.size(), static_cast<float>(step));  // a real one trains here
    down.assign(down.size(), -static_cast<float>(step));
    const unsigned engines = step == 1 ? 1 : 0;  // the first version waits for somebody to read it
    const auto version = publisher.publish(sources, {.deadline = 30s, .require = engines});
    std::cout << "published version " << version << std::endl;
    std::this_thread::sleep_for(50ms);
  }
  wait_until_engines_left(publisher);
}

}  // namespace

int main(int argc, char** argv) try {
  const unsigned long steps = argc == 3 ? std::strtoul(argv[2], nullptr, 10) : 0;
  if (steps == 0) {
    std::cerr << "usage: trainer NAME STEPS\n";
    return 2;
  }
  train(argv[1], steps);
} catch (const std::exception& e) {
  std::cerr << "trainer: " << e.what() << '\n';
  return 1;
}
