// tenon relay in a build without it.
#include "commands.hpp"

namespace tenon::cli {

void add_relay(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("relay", "The same publication on other nodes");
  command->allow_extras();
  command->callback([&run] {
    run = []() -> Exit {
      throw Error(Errc::NoEngine,
                  "this build of Tenon has no relay: build it where Gloo and OpenSSL are found "
                  "(Debian: libgloo-dev libssl-dev)");
    };
  });
}

}  // namespace tenon::cli
