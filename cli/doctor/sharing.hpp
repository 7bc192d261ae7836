// Whether two processes get along in /dev/shm: bytes, futex, file locks. And whether one may take
// the other one's descriptors.
#pragma once

#include <string>
#include <tenon/detail/wait.hpp>

#include "evidence.hpp"

namespace tenon::cli::doctor {

/// Makes a file in `folder` for as long as this takes. Throws Interrupted, without that file, when
/// a signal was remembered.
[[nodiscard]] Sharing try_sharing(const std::string& folder, Duration timeout);
/// The other process's part.
void share_back(const std::string& path);

}  // namespace tenon::cli::doctor
