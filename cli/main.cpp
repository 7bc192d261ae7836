// The `tenon` command: parses the line, runs one command, turns errors into one line and an exit
// code.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <new>

#include "commands.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

// Where one of them is closed, the next file to be opened would become it, and get what we print.
void open_standard_streams() {
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = ::open("/dev/null", O_RDWR);
  if (fd >= 0) ::close(fd);
}

Exit parse_and_run(int argc, char** argv) {
  open_standard_streams();
  handle_signals(OnSignal::exit);
  CLI::App app("Hands model weights from a trainer to inference processes with no second copy.",
               "tenon");
  app.set_version_flag("--version", "tenon " TENON_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 ok, 1 failed, 2 bad usage or bad input file, 3 no such publication or "
      "parameter,\n4 deadline passed, 5 peer died, 6 refused, 130 interrupted.\n"
      "'tenon COMMAND --help' has an example of each command.");
  Run run;
  for (const auto add :
       {add_serve, add_dump, add_ls, add_inspect, add_get, add_verify, add_gc, add_relay, add_demo,
        add_completion, add_man, add_doctor, add_watch, add_metrics, add_trace}) {
    add(app, run);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      app.exit(error);
      return Exit::ok;
    }
    std::string command = "tenon";
    for (const CLI::App* used : app.get_subcommands()) command += " " + used->get_name();
    complain(printable(error.what()) + " (see '" + command + " --help')");
    return Exit::usage;
  }
  return run();
}

Exit guarded(int argc, char** argv) {
  try {
    return parse_and_run(argc, argv);
  } catch (const Interrupted&) {
    return Exit::interrupted;
  } catch (const SystemError& error) {
    // The reader of our output went away (`| head`): it knows.
    if (error.error() != EPIPE) complain(printable(error.what()));
    return exit_of(error.code());
  } catch (const Error& error) {
    complain(printable(error.what()));
    return exit_of(error.code());
  } catch (const std::bad_alloc&) {
    complain("there is not enough memory for this");
    return Exit::failed;
  } catch (const std::exception& error) {
    complain(printable(error.what()));
    return Exit::failed;
  }
}

}  // namespace
}  // namespace tenon::cli

int main(int argc, char** argv) { return static_cast<int>(tenon::cli::guarded(argc, argv)); }
