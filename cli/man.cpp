// tenon(1), written from the command's own help. `tenon man` is hidden: the build runs it.
#include <fmt/format.h>

#include <sstream>

#include "commands.hpp"
#include "described.hpp"

namespace tenon::cli {
namespace {

// Text that roff takes for nothing else.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return !out.empty() && (out[0] == '.' || out[0] == '\'') ? "\\&" + out : out;
}

std::string synopsis(const Described& command) {
  std::string line = fmt::format(".B {}\n", escaped(command.name));
  if (!command.options.empty()) line += "[\\fIOPTIONS\\fR]\n";
  for (const Argument& argument : command.positionals) {
    line += fmt::format("\\fI{}\\fR{}\n", escaped(argument.name), argument.repeats ? "..." : "");
  }
  if (!command.commands.empty()) line += "\\fICOMMAND\\fR\n";
  return line;
}

// A paragraph of its own: as it stands where it is indented, filled elsewhere.
void add_footer(std::string& page, const std::string& footer) {
  std::istringstream lines(footer);
  bool verbatim = false;
  for (std::string line; std::getline(lines, line);) {
    const bool indented = line.rfind("  ", 0) == 0;
    if (verbatim && !indented) page += ".EE\n.RE\n";
    if (!verbatim && indented) page += ".RS 4\n.EX\n";
    verbatim = indented;
    page += line.empty() ? ".PP\n" : escaped(indented ? line.substr(2) : line) + "\n";
  }
  if (verbatim) page += ".EE\n.RE\n";
}

void add_argument(std::string& page, const Argument& argument) {
  page += ".TP\n";
  if (!argument.short_name.empty()) {
    page += fmt::format("\\fB{}\\fR, ", escaped(argument.short_name));
  }
  const bool positional = argument.name[0] != '-';
  page += fmt::format("\\f{}{}\\fR", positional ? 'I' : 'B', escaped(argument.name));
  if (!positional && !argument.value.empty()) {
    page += fmt::format(" \\fI{}\\fR", escaped(argument.value));
  }
  page += "\n" + escaped(argument.help) + ".\n";
  if (!argument.bounds.empty()) page += fmt::format("{}.\n", escaped(argument.bounds));
  if (!argument.default_value.empty()) {
    page += fmt::format("Default: {}.\n", escaped(argument.default_value));
  }
  if (!positional && argument.required) page += "Required.\n";
}

void add_command(std::string& page, const Described& command) {
  page += fmt::format(".SS {}\n{}.PP\n{}.\n", escaped(command.name), synopsis(command),
                      escaped(command.help));
  for (const Argument& argument : command.positionals) add_argument(page, argument);
  for (const Argument& argument : command.options) add_argument(page, argument);
  if (!command.footer.empty()) {
    page += ".PP\n";
    add_footer(page, command.footer);
  }
  for (const Described& deeper : command.commands) add_command(page, deeper);
}

}  // namespace

std::string man_page(const Described& tenon) {
  std::string page = fmt::format(
      ".TH {} 1 \"\" \"tenon {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n{}",
      "TENON", TENON_VERSION, tenon.name, escaped(tenon.help), synopsis(tenon));
  page += ".SH OPTIONS\n";
  for (const Argument& argument : tenon.options) add_argument(page, argument);
  page += ".SH COMMANDS\n";
  for (const Described& command : tenon.commands) add_command(page, command);
  page += ".SH NOTES\n";
  add_footer(page, tenon.footer);
  return page;
}

void add_man(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("man", "Print the man page")->group("");
  command->callback([&app, &run] {
    run = [&app] {
      print(man_page(describe(app)));
      return Exit::ok;
    };
  });
}

}  // namespace tenon::cli
