// Looking at this machine.
#pragma once

#include <optional>
#include <string>
#include <tenon/detail/wait.hpp>

#include "check.hpp"

namespace tenon::cli::doctor {

/// Everything but what takes other processes: files, limits, leftovers of `owner`.
[[nodiscard]] Evidence collect(Uid owner);
[[nodiscard]] Publication look_at(const std::string& name, Uid owner);
/// In the build: Gloo, and NCCL where it can be loaded.
void look_for_engines(Evidence& evidence);

}  // namespace tenon::cli::doctor
