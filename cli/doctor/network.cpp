// What relays to other nodes need.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "check.hpp"

namespace tenon::cli::doctor {
namespace {

Finding gloo(const Evidence& evidence) {
  if (evidence.relay_built_in) return {Status::ok, "built in: host memory to other nodes"};
  return {Status::not_checked, "this tenon was built without the relay"};
}

Finding nccl(const Evidence& evidence) {
  const Nccl& found = evidence.nccl;
  if (!found.built_in) return {Status::not_checked, "this tenon was built without NCCL's header"};
  if (!found.version.empty()) return {Status::ok, found.version + ": GPU memory to other nodes"};
  if (!evidence.variable("TENON_NCCL_LIBRARY").empty())
    return {Status::fail, found.trouble, "correct or unset TENON_NCCL_LIBRARY"};
  if (evidence.gpus.all.empty()) return {Status::not_checked, "not found, and no GPU is seen"};
  return {Status::warn, "libnccl.so.2 cannot be loaded, or is too old",
          "GPU memory cannot be relayed to other nodes: " + found.trouble};
}

Finding interfaces(const Evidence& evidence) {
  if (!evidence.interfaces.empty())
    return {Status::ok, fmt::format("{}", fmt::join(evidence.interfaces, ", "))};
  return {Status::warn, "none is up but loopback",
          "relays reach no other node: in a container give it a network (docker: --network=host)"};
}

}  // namespace

const std::vector<Check>& network_checks() {
  static const std::vector<Check> kChecks{
      {"gloo", gloo}, {"nccl", nccl}, {"interfaces", interfaces}};
  return kChecks;
}

}  // namespace tenon::cli::doctor
