// Starts the roles, does to them what the schedule says, and watches that nobody hangs.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "board.hpp"
#include "log.hpp"
#include "options.hpp"
#include "schedule.hpp"

namespace tenon::stress {

/// What only the supervisor can count.
struct Deeds {
  std::uint64_t kills = 0, stops = 0, ends = 0, starts = 0, restarts = 0;
  std::uint64_t hangs = 0, crashes = 0;  ///< must be 0
};

/// It uses neither CUDA nor an object of Tenon's, so that nothing is inherited: roles are this
/// program, executed anew.
class Supervisor {
 public:
  /// `board` and `log` are descriptors that roles inherit.
  Supervisor(const Options& options, int board, int log);
  /// The whole run. Nobody it started lives when it returns.
  [[nodiscard]] Deeds run();

 private:
  struct Process {
    pid_t pid = 0;
    std::string role;
    std::uint64_t life = 0;
    bool ending = false;            ///< told to leave
    std::uint64_t start_at = 0;     ///< when not running; 0: not again
    std::uint64_t kill_at = 0;      ///< 0: not
    std::uint64_t continue_at = 0;  ///< 0: not stopped
    std::uint64_t away = 0;         ///< after kill_at
  };
  struct Grave {
    pid_t pid;
    std::uint64_t reap_at;
  };

  void populate();
  void tick();
  void apply(const Action& action);
  void stop(unsigned actor, const Action& action);
  void help(const char* role, std::uint64_t name, std::uint64_t killed_after);
  void start(unsigned actor);
  void execute(unsigned actor);
  void kill(unsigned actor, std::uint64_t away);
  void resume(unsigned actor);
  void disturb(unsigned actor);
  void reap();
  void judge(pid_t pid, const std::string& who, int status);
  void check_hang(unsigned actor);
  void bury();
  void finish();
  void wait_for_all();
  [[nodiscard]] bool is_publisher(unsigned actor) const noexcept { return actor < kPublishers; }
  [[nodiscard]] std::string who(unsigned actor) const;

  const Options& options_;
  int board_descriptor_;
  int log_descriptor_;
  Board& board_;
  Log log_;
  Schedule schedule_;
  std::string names_;
  bool own_shm_;
  std::array<Process, kActors> processes_;
  std::vector<Grave> graves_;
  Deeds deeds_;
};

}  // namespace tenon::stress
