// What the environment asks of the simulator; cuda_sim.hpp lists the variables.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tenon::sim {

inline constexpr int kMaxDevices = 16;

/// Ends the program: for what is wrong with the test, not with the program under test.
[[noreturn]] void die(const std::string& message);

struct Failure {
  std::string function;
  int nth = 1;  // counts down; 0: every call
  cudaError_t error = cudaErrorUnknown;
};

struct Config {
  std::string node;
  int devices = 0;
  std::vector<int> visible;  // index: ordinal in this process; value: device of the node
  std::uint64_t memory = 0;
  bool no_peers = false;
  std::set<std::pair<int, int>> separate;  // both orders
  int compute_mode = cudaComputeModeDefault;
  int driver = 0;
  int runtime = 0;
  std::string device_name;
  std::map<int, int> attributes;
  std::chrono::microseconds max_delay{};
  std::uint64_t seed = 0;
  bool poison = true;
  bool host_access = true;
  bool stale_handles_open = false;
  bool handle_reuse = false;
  std::vector<Failure> failures;

  [[nodiscard]] static Config read();

  [[nodiscard]] bool peers(int a, int b) const {
    return a != b && !no_peers && separate.count({a, b}) == 0;
  }
};

/// TENON_SIM_NODE.
[[nodiscard]] std::string node_from_environment();
/// TENON_SIM_STALE.
[[nodiscard]] bool stale_from_environment();

using Uuid = std::array<unsigned char, 16>;
[[nodiscard]] Uuid uuid_of(const std::string& node, int device);
[[nodiscard]] std::string uuid_text(const Uuid& uuid);

}  // namespace tenon::sim
