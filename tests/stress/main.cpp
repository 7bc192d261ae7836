// chaos: publishers and subscribers that are killed, stopped and started again at random, while
// every byte that is read is verified.
//
//   chaos --seed 7 --seconds 600                on host memory, in all modes
//   chaos_sim --memory cuda                     on the simulated CUDA runtime
//   chaos --replay chaos-host-7.log             the same faults again
//
// The seed determines the schedule: which fault befalls whom, and when. When processes get to run
// is the kernel's, so a run with the same seed meets the same faults in other states.
//
// Exit status: 0; 1 when something that must be 0 is not; 2 for bad usage.
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "report.hpp"
#include "role.hpp"
#include "supervisor.hpp"

namespace tenon::stress {
namespace {

void print_schedule(const Options& options) {
  Schedule schedule(options.seed, options.publishers, options.subscribers);
  for (Action a = schedule.next(); a.at < std::chrono::seconds(options.seconds);
       a = schedule.next())
    fmt::print("{:9.3f} {}\n", static_cast<double>(a.at.count()) / 1000, to_text(a));
}

int open_log(const Options& options) {
  const int fd =
      ::open(options.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "opening " + options.log);
  std::string command;
  for (const std::string& argument : to_arguments(options))
    command += (command.empty() ? "" : " ") + argument;
  command += "\n";
  if (::write(fd, command.data(), command.size()) < 0)
    throw std::system_error(errno, std::generic_category(), "writing " + options.log);
  return fd;
}

int supervise(const Options& options) {
  const int board = Board::make();
  Supervisor supervisor(options, board, open_log(options));
  const Deeds deeds = supervisor.run();
  return report(options, Board::map(board), deeds) ? 0 : 1;
}

int run(const Options& options) {
  if (!options.role.empty()) return run_role(options);
  if (options.schedule) {
    print_schedule(options);
    return 0;
  }
#if !TENON_TEST_CUDA
  if (options.memory == MemoryKind::cuda) {
    fmt::print(stderr, "chaos: this program has no CUDA runtime; use chaos_sim\n");
    return 2;
  }
#endif
  return supervise(options);
}

}  // namespace
}  // namespace tenon::stress

int main(int argc, char** argv) {
  try {
    return tenon::stress::run(tenon::stress::parse(argc, argv));
  } catch (const std::exception& e) {
    fmt::print(stderr, "chaos: {}\n", e.what());
    return 1;
  }
}
