// Options that several commands take.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <tenon/detail/wait.hpp>
#include <tenon/name.hpp>

#include "memory.hpp"

namespace tenon::cli {

/// What a command that reads a version needs to find it.
struct ReaderOptions {
  std::string name;
  std::optional<Uid> owner{};                   ///< whose publication; default: this user's
  Duration timeout = std::chrono::seconds(10);  ///< for the name and the version together
  std::uint64_t version = 0;                    ///< exactly this one; 0: the newest there is
  bool quiet = false;
};

void add_owner(CLI::App& command, std::optional<Uid>& owner);
void add_duration(CLI::App& command, const std::string& option, Duration& value,
                  const std::string& help);
void add_memory(CLI::App& command, Memory& memory);
/// --quiet, of a command that says nothing on standard error but errors and its progress.
void add_quiet(CLI::App& command, bool& quiet);
/// NAME, --timeout, --owner.
void add_reader(CLI::App& command, ReaderOptions& options);

}  // namespace tenon::cli
