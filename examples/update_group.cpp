// An inference engine with a "parameter update group": joins the trainer's relay from any node, takes
// every version, and looks whether the values arrived.
//
//   update_group ADDRESS PORT NAME LAST_VERSION
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <tenon/update_group.hpp>

using namespace std::chrono_literals;

namespace {

bool serve(const tenon::relay::UpdateGroupOptions& options, std::uint64_t last) {
  auto group = tenon::relay::UpdateGroup::init(options);
  std::cout << "in group " << options.name << " of " << group.world_size() << " ranks" << std::endl;
  for (std::uint64_t version = 0; version < last;) {
    // Names, dtypes and shapes as this engine has them: another model is refused.
    version = group.update({{"layers.0.weight", tenon::Dtype::f32, {64, 16}},
                            {"layers.1.weight", tenon::Dtype::f32, {16, 64}}},
                           30s);
    const double first = group.get("layers.0.weight", 1).at(0);
    std::cout << "version " << version << ": layers.0.weight begins with " << first << std::endl;
    if (first != static_cast<double>(version)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::uint64_t last = argc == 5 ? std::strtoull(argv[4], nullptr, 10) : 0;
  if (last == 0) {
    std::cerr << "usage: update_group ADDRESS PORT NAME LAST_VERSION\n";
    return 2;
  }
  tenon::relay::UpdateGroupOptions options;
  options.address = argv[1];
  options.port = static_cast<std::uint16_t>(std::strtoul(argv[2], nullptr, 10));
  options.name = argv[3];
  options.receiver.as = options.name + ".here";  // trainer and engine of this example share a node
  return serve(options, last) ? 0 : 1;
} catch (const std::exception& e) {
  std::cerr << "update_group: " << e.what() << '\n';
  return 1;
}
