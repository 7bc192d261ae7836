#include "options.hpp"

#include "common.hpp"

namespace tenon::cli {

void add_owner(CLI::App& command, std::optional<Uid>& owner) {
  command
      .add_option("--owner", owner, "User id that publishes, where a group shares a publication")
      ->type_name("UID");
}

void add_duration(CLI::App& command, const std::string& option, Duration& value,
                  const std::string& help) {
  command
      .add_option_function<std::string>(
          option,
          [&value, option](const std::string& text) { value = parse_duration(option, text); }, help)
      ->type_name("DURATION")
      ->default_str(human_duration(value));
}

void add_memory(CLI::App& command, Memory& memory) {
  command
      .add_option_function<std::string>(
          "--memory", [&memory](const std::string& text) { memory = parse_memory(text); },
          "Where the slots are: host, cuda (the first GPU seen here) or cuda:N")
      ->type_name("KIND")
      ->default_str(text_of(memory));
}

void add_quiet(CLI::App& command, bool& quiet) {
  command.add_flag("--quiet", quiet, "No progress on standard error");
}

void add_reader(CLI::App& command, ReaderOptions& options) {
  command.add_option("NAME", options.name, "Name of the publication")->required();
  add_duration(command, "--timeout", options.timeout,
               "How long to wait for the name and a version");
  add_owner(command, options.owner);
}

}  // namespace tenon::cli
