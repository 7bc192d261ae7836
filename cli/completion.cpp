// tenon completion: what bash and zsh complete, written from the command's own help.
#include <fmt/format.h>

#include <functional>

#include "commands.hpp"
#include "described.hpp"

namespace tenon::cli {
namespace {

// Ours are in ASCII, but not free of quotes.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

void for_each(const Described& command, const std::function<void(const Described&)>& act) {
  act(command);
  for (const Described& deeper : command.commands) for_each(deeper, act);
}

std::string last_word(const std::string& name) { return name.substr(name.rfind(' ') + 1); }

// bash: what a command takes is data in one function, and the other, the same for all, reads it.

// "text", "files", "folders", "publications" or "host,cuda".
std::string bash_offer(const Argument& argument) {
  switch (argument.offer) {
    case Offer::words:
      return fmt::format("{}", fmt::join(argument.words, ","));
    case Offer::files:
      return "files";
    case Offer::folders:
      return "folders";
    case Offer::publications:
      return "publications";
    case Offer::nothing:
      break;
  }
  return "text";
}

std::string bash_row(const Described& command) {
  std::vector<std::string> commands;
  std::vector<std::string> options;
  std::vector<std::string> places;
  for (const Described& deeper : command.commands) commands.push_back(last_word(deeper.name));
  for (const Argument& option : command.options) {
    const std::string value = option.value.empty() ? "" : ":" + bash_offer(option);
    options.push_back(option.name + value);
    if (!option.short_name.empty()) options.push_back(option.short_name + value);
  }
  for (const Argument& place : command.positionals) {
    places.push_back(bash_offer(place) + (place.repeats ? "+" : ""));
  }
  return fmt::format("    {}) commands='{}' options='{}' places='{}' ;;\n", quoted(command.name),
                     fmt::join(commands, " "), fmt::join(options, " "), fmt::join(places, " "));
}

constexpr const char* kBashEngine = R"sh(
# Names of publications. Nothing else that stands in /dev/shm gets near the shell.
_tenon_publications() {
  local name rest
  "${COMP_WORDS[0]/#\~\//$HOME/}" ls 2>/dev/null | while read -r name rest; do
    [[ $name != NAME && $name =~ ^[A-Za-z0-9][A-Za-z0-9._@-]*$ ]] && echo "$name"
  done
}

_tenon_offer() {  # WHAT WORD
  case $1 in
    text) ;;
    files | folders)
      local kind=file
      [[ $1 == folders ]] && kind=directory
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -A "$kind" -- "$2") ;;
    publications) mapfile -t COMPREPLY < <(compgen -W "$(_tenon_publications)" -- "$2") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "${1//,/ }" -- "$2") ;;
  esac
}

_tenon() {
  local IFS=$' \t\n' at=tenon wanted= place=0 repeats= option word i commands options places
  local current=${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  _tenon_describe tenon
  for ((i = 1; i < COMP_CWORD; ++i)); do
    word=${COMP_WORDS[i]}
    if [[ $word == = ]]; then  # --option=value is three words
      continue
    elif [[ $wanted ]]; then
      wanted=
    elif [[ $word == -* ]]; then
      for option in $options; do
        [[ $option == "$word":* ]] && wanted=${option#*:}
      done
    elif [[ " $commands " == *" $word "* ]]; then
      at+=" $word"
      _tenon_describe "$at"
    else
      ((++place))
    fi
  done
  [[ $current == = ]] && current=
  if [[ $wanted ]]; then
    _tenon_offer "$wanted" "$current"
  elif [[ $current == -* ]]; then
    options=" $options"
    mapfile -t COMPREPLY < <(for option in $options; do compgen -W "${option%%:*}" -- "$current"; done)
  elif [[ $commands ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$current")
  elif [[ $places ]]; then
    local -a each=($places)
    ((place < ${#each[@]})) || place=$((${#each[@]} - 1)) repeats=yes
    word=${each[place]}
    [[ $repeats && $word != *+ ]] || _tenon_offer "${word%+}" "$current"
  fi
}

complete -F _tenon tenon
)sh";

// zsh: a function for each command, in the words of its own _arguments.

// Within [...] and between colons of a specification.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_offer(const Argument& argument) {
  switch (argument.offer) {
    case Offer::words:
      return fmt::format("({})", fmt::join(argument.words, " "));
    case Offer::files:
      return "_files";
    case Offer::folders:
      return "_files -/";
    case Offer::publications:
      return "_tenon_publications";
    case Offer::nothing:
      break;
  }
  return " ";
}

std::string zsh_function(const Described& command) {
  std::string name = "_" + command.name;
  for (char& c : name) c = c == ' ' ? '_' : c;
  std::string body = name + "() {\n";
  if (!command.commands.empty()) {  // _arguments tells which word it came to
    body += "  local curcontext=$curcontext state line\n  typeset -A opt_args\n";
  }
  body += command.commands.empty() ? "  _arguments" : "  _arguments -C";
  for (const Argument& option : command.options) {
    std::string what = "[" + zsh_text(option.help) + "]";
    const bool takes = !option.value.empty();  // in the same word too: --name=VALUE, -nVALUE
    if (takes) what += fmt::format(":{}:{}", zsh_text(option.value), zsh_offer(option));
    body += " \\\n    " + quoted(option.name + (takes ? "=" : "") + what);
    if (option.short_name.empty()) continue;
    body += " \\\n    " + quoted(option.short_name + (takes ? "+" : "") + what);
  }
  for (const Argument& place : command.positionals) {
    body += " \\\n    " + quoted(fmt::format("{}:{}:{}", place.repeats ? "*" : "",
                                             zsh_text(place.name), zsh_offer(place)));
  }
  if (command.commands.empty()) return body + "\n}\n";
  std::string list;
  std::string cases;
  for (const Described& deeper : command.commands) {
    const std::string word = last_word(deeper.name);
    list += "\n        " + quoted(word + ":" + zsh_text(deeper.help));
    cases += fmt::format("        {}) {}_{} ;;\n", word, name, word);
  }
  return body + fmt::format(R"sh( \
    '1: :->command' '*:: :->rest' && return
  case $state in
    command)
      local -a commands=({}
      )
      _describe command commands ;;
    rest)
      case $words[1] in
{}      esac ;;
  esac
}}
)sh",
                            list, cases);
}

constexpr const char* kZshNames = R"sh(
_tenon_publications() {
  local -a names=(${(f)"$(_call_program publications tenon ls 2>/dev/null)"})
  names=(${${names[2,-1]}%% *})
  compadd -a names
}
)sh";

}  // namespace

std::string bash_completion(const Described& tenon) {
  std::string script =
      "# bash completion of tenon, written by 'tenon completion bash'\n\n"
      "_tenon_describe() {\n  case $1 in\n";
  for_each(tenon, [&script](const Described& command) { script += bash_row(command); });
  return script + "    *) commands= options= places= ;;\n  esac\n}\n" + kBashEngine;
}

std::string zsh_completion(const Described& tenon) {
  std::string script =
      "#compdef tenon\n# zsh completion of tenon, written by 'tenon completion zsh'\n";
  script += kZshNames;
  for_each(tenon, [&script](const Described& command) { script += "\n" + zsh_function(command); });
  return script +
         "\nif [[ $funcstack[1] == _tenon ]]; then _tenon \"$@\"; else compdef _tenon tenon; fi\n";
}

void add_completion(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("completion", "Print what makes a shell complete 'tenon'");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "The shell")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh"}));
  command->footer(
      "Installed already where Tenon was installed.\n\nExamples:\n"
      "  source <(tenon completion bash)\n  tenon completion zsh > ~/.zfunc/_tenon");
  command->callback([&app, shell, &run] {
    run = [&app, shell] {
      const Described described = describe(app);
      print(*shell == "bash" ? bash_completion(described) : zsh_completion(described));
      return Exit::ok;
    };
  });
}

}  // namespace tenon::cli
