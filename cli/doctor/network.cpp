// What relays to other nodes need.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

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

// Whether NCCL takes the interface `name` by NCCL_SOCKET_IFNAME: a list of prefixes; behind '=' of
// whole names; behind '^' of what it does not take.
bool takes(std::string_view wanted, const std::string& name) {
  const bool excludes = wanted.starts_with('^');
  if (excludes) wanted.remove_prefix(1);
  const bool whole = wanted.starts_with('=');
  if (whole) wanted.remove_prefix(1);
  bool listed = false;
  while (!wanted.empty()) {
    const std::string_view entry = wanted.substr(0, wanted.find(','));
    listed |= !entry.empty() && (whole ? name == entry : name.starts_with(entry));
    wanted.remove_prefix(std::min(entry.size() + 1, wanted.size()));
  }
  return listed != excludes;
}

// Of NCCL_SOCKET_IFNAME, when something is wrong with it.
std::optional<Finding> wrong_interface(const Evidence& evidence) {
  const std::string wanted = evidence.variable("NCCL_SOCKET_IFNAME");
  if (wanted.size() < 2) return std::nullopt;  // as NCCL has it: not set
  const auto some = [&](const std::vector<std::string>& names) {
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& name) { return takes(wanted, name); });
  };
  if (some(evidence.interfaces)) return std::nullopt;
  const std::string text = "NCCL_SOCKET_IFNAME='" + wanted + "'";
  if (some(evidence.loopbacks))
    return Finding{Status::warn, text + " leaves only loopback",
                   "NCCL reaches no other node: name an interface that does, or unset it"};
  std::vector<std::string> here = evidence.interfaces;
  here.insert(here.end(), evidence.loopbacks.begin(), evidence.loopbacks.end());
  return Finding{Status::fail, text + " leaves none of the interfaces that are up",
                 fmt::format("NCCL does not start ('no socket interface found'): correct or unset "
                             "it; up are: {}",
                             here.empty() ? "none" : fmt::format("{}", fmt::join(here, ", ")))};
}

Finding nccl_environment(const Evidence& evidence) {
  if (evidence.gpus.all.empty()) return {Status::not_checked, "no GPU is seen"};
  if (evidence.variable("NCCL_COMM_BLOCKING") == "1")
    return {Status::fail, "NCCL_COMM_BLOCKING=1",
            "relays of GPU memory refuse it, as they could keep no deadline: unset it"};
  if (const auto finding = wrong_interface(evidence)) return *finding;
  if (evidence.variable("NCCL_CUMEM_ENABLE") == "0")
    return {Status::warn, "NCCL_CUMEM_ENABLE=0",
            "ranks of one communicator that differ in it fail or hang: set it for all of them, "
            "also where an engine sets it for itself, or for none"};
  return {Status::ok, "nothing set that hinders NCCL"};
}

Finding interfaces(const Evidence& evidence) {
  if (!evidence.interfaces.empty())
    return {Status::ok, fmt::format("{}", fmt::join(evidence.interfaces, ", "))};
  return {Status::warn, "none is up but loopback",
          "relays reach no other node: in a container give it a network (docker: --network=host)"};
}

}  // namespace

const std::vector<Check>& network_checks() {
  static const std::vector<Check> kChecks{{"gloo", gloo},
                                          {"nccl", nccl},
                                          {"nccl-environment", nccl_environment},
                                          {"interfaces", interfaces}};
  return kChecks;
}

}  // namespace tenon::cli::doctor
