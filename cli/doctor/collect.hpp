// Looking at this machine.
#pragma once

#include <optional>
#include <string>
#include <tenon/detail/wait.hpp>

#include "check.hpp"

namespace tenon::cli::doctor {

/// Everything but what takes other processes: files, limits, leftovers of `owner`.
[[nodiscard]] Evidence collect(Uid owner);
/// The files alone, by their paths on the machine whose root is at `root`; links of /proc hold what
/// they point to. `user` is the name of who lingers, or not.
[[nodiscard]] std::map<std::string, std::string> files_of(const std::string& root,
                                                          const std::string& user);
[[nodiscard]] Publication look_at(const std::string& name, Uid owner);
/// In the build: Gloo, and NCCL where it can be loaded.
void look_for_engines(Evidence& evidence);

}  // namespace tenon::cli::doctor
