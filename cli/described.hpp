// The command described as data, by a walk over what parses its line: the man page and the shells'
// completion are written from this, so that they cannot lag behind it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace tenon::cli {

/// What a shell can offer for a value.
enum class Offer { nothing, words, files, folders, publications };

/// An option or a positional argument.
struct Argument {
  std::string name;          ///< "--mode"; of a positional argument "NAME"
  std::string short_name{};  ///< "-o", or nothing
  std::string value{};       ///< what it takes, as help shows it: "MODE"; nothing: a flag
  std::string bounds{};      ///< "Within 2 - 64", "One of mean, sum" or nothing
  std::string help{};
  std::string default_value{};  ///< or nothing
  bool required = false;
  bool repeats = false;  ///< takes all words that are left
  Offer offer = Offer::nothing;
  std::vector<std::string> words{};  ///< with Offer::words
};

struct Described {
  std::string name;  ///< all its words: "tenon relay send"
  std::string help{};
  std::string footer{};
  std::vector<Argument> options{};
  std::vector<Argument> positionals{};
  std::vector<Described> commands{};  ///< without hidden ones
};

[[nodiscard]] Described describe(const CLI::App& app);

/// tenon(1), in the man macros.
[[nodiscard]] std::string man_page(const Described& tenon);
[[nodiscard]] std::string bash_completion(const Described& tenon);
[[nodiscard]] std::string zsh_completion(const Described& tenon);

}  // namespace tenon::cli
