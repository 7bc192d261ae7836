// What the command line says, and what a role is told when it is started.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <tenon/types.hpp>
#include <vector>

namespace tenon::stress {

struct Options {
  std::uint64_t seed = 0;
  unsigned seconds = 30;
  unsigned subscribers = 16;
  unsigned publishers = 2;  ///< each with a name of its own; subscribers are shared out
  MemoryKind memory = MemoryKind::host;
  std::optional<Mode> mode{};  ///< none: another one with every publication
  unsigned patience = 10;      ///< seconds over its deadline after which an operation hangs
  bool verbose = false;        ///< what the roles do goes to the log too
  bool json = false;
  bool shared_shm = false;  ///< no /dev/shm of its own, also where it could have one
  bool schedule = false;    ///< print the faults that this seed gives, and do nothing
  std::string log{};        ///< file; empty: chaos-<memory>-<seed>.log

  // For roles, which the supervisor starts.
  std::string role{};
  int board = -1;          ///< descriptor of the shared board
  unsigned actor = 0;      ///< row of the board
  std::uint64_t life = 0;  ///< how many processes were started before, plus one
  bool own_shm = false;    ///< nobody else uses this /dev/shm
  std::string names{};     ///< what the names of this run's publications begin with
};

/// Ends the program when the command line is wrong or asks for help.
[[nodiscard]] Options parse(int argc, char** argv);
/// The options that make a run what it is, as the command line takes them.
[[nodiscard]] std::vector<std::string> to_arguments(const Options& options);

}  // namespace tenon::stress
