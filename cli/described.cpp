#include "described.hpp"

#include <algorithm>
#include <sstream>
#include <tenon/types.hpp>

namespace tenon::cli {
namespace {

// What CLI11 shows as "N:UINT in [2 - 64]" or "OP:{mean,sum}" is a name and, behind it, what checks
// it.
void take_type(Argument& argument, const std::string& type) {
  const std::size_t choices = type.find(":{");
  const std::size_t range = type.find(" in [");
  if (choices != std::string::npos) {
    argument.value = type.substr(0, choices);
    std::istringstream list(type.substr(choices + 2, type.size() - choices - 3));
    for (std::string word; std::getline(list, word, ',');) argument.words.push_back(word);
    argument.bounds = "One of";
    for (const std::string& word : argument.words) {
      argument.bounds += (&word == &argument.words.front() ? " " : ", ") + word;
    }
  } else if (range != std::string::npos) {
    argument.value = type.substr(0, type.find(':'));
    argument.bounds = "Within " + type.substr(range + 5, type.size() - range - 6);
  } else {
    argument.value = type;
  }
}

// By what help calls it.
void take_offer(Argument& argument, bool positional) {
  const std::string& shown = positional ? argument.name : argument.value;
  if (shown == "MODE") {
    for (const Mode mode : {Mode::in_place, Mode::double_buffered, Mode::streaming}) {
      argument.words.emplace_back(name_of(mode));
    }
  } else if (shown == "KIND" || shown == "MEMORY") {
    argument.words = {"host", "cuda"};
  }
  if (!argument.words.empty()) {
    argument.offer = Offer::words;
  } else if (shown == "FILE" || shown == "OUT" || shown == "NAME|FILE") {
    argument.offer = Offer::files;
  } else if (shown == "DIR") {
    argument.offer = Offer::folders;
  } else if (positional && shown == "NAME") {
    argument.offer = Offer::publications;
  }
}

Argument argument_of(const CLI::Option& option) {
  Argument argument;
  const bool positional = option.get_positional();
  argument.name = positional ? option.get_name(true) : option.get_name();
  if (!option.get_snames().empty() && !option.get_lnames().empty()) {
    argument.short_name = "-" + option.get_snames().front();
  }
  if (option.get_items_expected_max() > 0) take_type(argument, option.get_type_name());
  argument.help = option.get_description();
  argument.default_value = option.get_default_str();
  argument.required = option.get_required();
  argument.repeats = option.get_items_expected_max() >= CLI::detail::expected_max_vector_size;
  take_offer(argument, positional);
  return argument;
}

Described describe_as(const std::string& name, const CLI::App& app) {
  Described described;
  described.name = name;
  described.help = app.get_description();
  // A command without one has got its parent's, which is said there.
  const bool inherited =
      app.get_parent() != nullptr && app.get_footer() == app.get_parent()->get_footer();
  if (!inherited) described.footer = app.get_footer();
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;
    auto& list = option->get_positional() ? described.positionals : described.options;
    list.push_back(argument_of(*option));
  }
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_group().empty()) continue;
    described.commands.push_back(describe_as(name + " " + command->get_name(), *command));
  }
  return described;
}

}  // namespace

Described describe(const CLI::App& app) { return describe_as(app.get_name(), app); }

}  // namespace tenon::cli
