#include "faults.hpp"

#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

namespace tenon::nccl_sim {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// "function:nth:result" of an order for this call.
std::optional<ncclResult_t> find(const std::string& orders, const std::string& call) {
  std::istringstream list(orders);
  for (std::string order; std::getline(list, order, ',');) {
    if (order.rfind(call + ":", 0) == 0)
      return static_cast<ncclResult_t>(std::stoi(order.substr(call.size() + 1)));
  }
  return std::nullopt;
}

}  // namespace

std::optional<ncclResult_t> injected(std::string_view function) {
  static std::mutex mutex;
  static std::string orders;
  static std::map<std::string, int> calls;
  const std::lock_guard lock(mutex);
  const std::string now = variable("TENON_NCCL_SIM_FAIL");
  if (now != orders) {
    orders = now;
    calls.clear();
  }
  const std::string name(function);
  return find(orders, name + ":" + std::to_string(++calls[name]));
}

int version() {
  const std::string value = variable("TENON_NCCL_SIM_VERSION");
  return value.empty() ? NCCL_VERSION_CODE : std::stoi(value);
}

}  // namespace tenon::nccl_sim
