// The questions that `tenon doctor` asks, by group. docs/doctor.md has a row for each.
#pragma once

#include <string>
#include <tenon/format.hpp>
#include <vector>

#include "evidence.hpp"

namespace tenon::cli::doctor {

enum class Status { ok, warn, fail, not_checked };
[[nodiscard]] constexpr const char* name_of(Status status) noexcept {
  switch (status) {
    case Status::ok:
      return "ok";
    case Status::warn:
      return "warn";
    case Status::fail:
      return "fail";
    case Status::not_checked:
      return "not checked";
  }
  return "unknown";
}

struct Finding {
  Status status;
  std::string detail;    ///< what was seen
  std::string advice{};  ///< what to do; empty when all is well, and where nothing is to be done
};

struct Check {
  const char* name;
  Finding (*ask)(const Evidence&);  ///< pure
};

[[nodiscard]] const std::vector<Check>& host_checks();
[[nodiscard]] const std::vector<Check>& cuda_checks();
[[nodiscard]] const std::vector<Check>& network_checks();

/// What makes a publication readable here, as `doctor NAME` asks.
struct Publication {
  std::string name;
  std::string state;  ///< as `tenon ls` has it, or "damaged"
  std::string why;
  std::string device{};                  ///< UUID; empty for host memory
  std::uint64_t pid = 0;                 ///< of its publisher, in that one's pid namespace
  std::uint64_t pid_namespace = 0;       ///< 0: unknown
  std::uint64_t here = 0;                ///< this process's pid namespace
  std::uint32_t driver = 0;              ///< CUDA's, as the publisher saw it
  unsigned places = 0;                   ///< taken
  std::uint32_t minor = format::kMinor;  ///< of the format that its publisher writes
};
[[nodiscard]] Finding judge(const Publication& publication, const Evidence& evidence);

}  // namespace tenon::cli::doctor
