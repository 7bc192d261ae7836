// Where and with what a run was made. Says nothing that names the machine.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tenon::bench {

/// {machine: {...}, version, commit}
[[nodiscard]] nlohmann::json describe_run();
/// The same for people, in a few lines.
[[nodiscard]] std::string header_text(const nlohmann::json& run);

/// Bytes that processes can still allocate, and bytes still free in /dev/shm.
[[nodiscard]] std::uint64_t available_memory();
[[nodiscard]] std::uint64_t available_shm();

}  // namespace tenon::bench
