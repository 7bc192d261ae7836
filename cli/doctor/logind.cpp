#include "logind.hpp"

#include <algorithm>
#include <cctype>
#include <sstream>

namespace tenon::cli::doctor {
namespace {

std::string trimmed(const std::string& text) {
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  const auto first = std::find_if_not(text.begin(), text.end(), is_space);
  const auto last = std::find_if_not(text.rbegin(), text.rend(), is_space).base();
  return first < last ? std::string(first, last) : "";
}

// systemd's booleans; nothing for what it would ignore.
std::optional<bool> boolean(std::string word) {
  for (char& c : word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const char* yes : {"1", "yes", "y", "true", "t", "on"})
    if (word == yes) return true;
  for (const char* no : {"0", "no", "n", "false", "f", "off"})
    if (word == no) return false;
  return std::nullopt;
}

void read(const std::string& text, bool& removes) {
  bool ours = false;
  std::istringstream lines(text);
  for (std::string raw; std::getline(lines, raw);) {
    const std::string line = trimmed(raw);
    if (line.starts_with('[')) ours = line == "[Login]";
    const std::size_t equals = line.find('=');
    if (!ours || equals == std::string::npos || trimmed(line.substr(0, equals)) != "RemoveIPC")
      continue;
    removes = boolean(trimmed(line.substr(equals + 1))).value_or(removes);
  }
}

}  // namespace

bool logind_removes_ipc(const Evidence& evidence) {
  bool removes = true;
  for (const char* path : file::kLogind) {
    const auto text = evidence.file(path);
    if (text) {
      read(*text, removes);
      break;
    }
  }
  std::map<std::string, const std::string*> by_name;
  for (const char* path : file::kLogind) {
    const std::string folder = std::string(path) + ".d/";
    for (auto at = evidence.files.lower_bound(folder);
         at != evidence.files.end() && at->first.starts_with(folder); ++at)
      by_name.try_emplace(at->first.substr(folder.size()), &at->second);
  }
  for (const auto& [name, text] : by_name) read(*text, removes);
  return removes;
}

}  // namespace tenon::cli::doctor
