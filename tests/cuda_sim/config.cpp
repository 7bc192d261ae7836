#include "config.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <optional>

namespace tenon::sim {
namespace {

std::string variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

std::optional<std::uint64_t> parse(const std::string& text) {
  if (text.empty() || text.size() > 19 ||
      !std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; }))
    return std::nullopt;
  return std::strtoull(text.c_str(), nullptr, 10);
}

std::uint64_t number(const char* name, const char* otherwise) {
  const std::string text = variable(name, otherwise);
  const auto value = parse(text);
  if (!value) die(std::string(name) + "='" + text + "': it takes a number");
  return *value;
}

bool flag(const char* name, const char* otherwise) { return number(name, otherwise) != 0; }

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// The numbers of one entry of a list, such as the 125 and 0 of "125:0".
std::vector<int> numbers(const char* name, const std::string& entry, char separator,
                         std::size_t count) {
  std::vector<int> values;
  for (const std::string& part : split(entry, separator)) {
    const auto value = parse(part);
    if (!value) break;
    values.push_back(static_cast<int>(*value));
  }
  if (values.size() != count) die(std::string(name) + ": cannot read '" + entry + "'");
  return values;
}

void read_peers(Config& config) {
  const std::string text = variable("TENON_SIM_NO_PEER", "0");
  if (text == "0") return;
  config.no_peers = text == "1";
  if (config.no_peers) return;
  for (const std::string& entry : split(text, ',')) {
    const auto pair = numbers("TENON_SIM_NO_PEER", entry, '-', 2);
    config.separate.insert({pair[0], pair[1]});
    config.separate.insert({pair[1], pair[0]});
  }
}

int read_compute_mode() {
  const std::string text = variable("TENON_SIM_COMPUTE_MODE", "default");
  if (text == "default" || text == "0") return cudaComputeModeDefault;
  if (text == "prohibited" || text == "2") return cudaComputeModeProhibited;
  if (text == "exclusive" || text == "3") return cudaComputeModeExclusiveProcess;
  die("TENON_SIM_COMPUTE_MODE='" + text + "': it takes default, prohibited or exclusive");
}

std::vector<Failure> read_failures() {
  std::vector<Failure> failures;
  for (const std::string& entry : split(variable("TENON_SIM_FAIL", ""), ',')) {
    const std::size_t colon = std::min(entry.find(':'), entry.size());
    const auto rest =
        numbers("TENON_SIM_FAIL", entry.substr(std::min(colon + 1, entry.size())), ':', 2);
    failures.push_back({entry.substr(0, colon), rest[0], static_cast<cudaError_t>(rest[1])});
  }
  return failures;
}

/// The device of the node that one entry of CUDA_VISIBLE_DEVICES means; nothing when it is invalid.
std::optional<int> visible_device(const Config& config, const std::string& entry) {
  if (const auto ordinal = parse(entry)) {
    if (*ordinal >= static_cast<std::uint64_t>(config.devices)) return std::nullopt;
    return static_cast<int>(*ordinal);
  }
  if (entry.size() < 5 || entry.compare(0, 4, "GPU-") != 0) return std::nullopt;
  std::optional<int> found;
  for (int i = 0; i < config.devices; ++i) {
    if (uuid_text(uuid_of(config.node, i)).compare(0, entry.size(), entry) != 0) continue;
    if (found) return std::nullopt;  // a prefix of several
    found = i;
  }
  return found;
}

std::vector<int> read_visible(const Config& config) {
  std::vector<int> visible;
  const char* text = std::getenv("CUDA_VISIBLE_DEVICES");
  if (text == nullptr) {
    for (int i = 0; i < config.devices; ++i) visible.push_back(i);
    return visible;
  }
  for (const std::string& entry : split(text, ',')) {
    const auto device = visible_device(config, entry);
    if (!device) break;
    if (std::find(visible.begin(), visible.end(), *device) != visible.end()) return {};
    visible.push_back(*device);
  }
  return visible;
}

}  // namespace

void die(const std::string& message) {
  std::fprintf(stderr, "tenon-sim: %s\n", message.c_str());
  std::abort();
}

std::string node_from_environment() {
  std::string node = variable("TENON_SIM_NODE", "0");
  const bool good = !node.empty() && node.size() <= 64 &&
                    std::all_of(node.begin(), node.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_';
                    });
  if (!good) die("TENON_SIM_NODE='" + node + "': it takes up to 64 letters, digits, - and _");
  return node;
}

bool stale_from_environment() { return variable("TENON_SIM_STALE", "") == "ok"; }

Config Config::read() {
  Config config;
  config.node = node_from_environment();
  config.devices = static_cast<int>(std::min<std::uint64_t>(number("TENON_SIM_DEVICES", "2"), 99));
  if (config.devices > kMaxDevices) die("TENON_SIM_DEVICES: at most 16");
  config.visible = read_visible(config);
  config.memory = number("TENON_SIM_MEMORY", "4294967296");
  read_peers(config);
  config.compute_mode = read_compute_mode();
  config.driver = static_cast<int>(number("TENON_SIM_DRIVER", "13000"));
  config.runtime =
      static_cast<int>(number("TENON_SIM_RUNTIME", std::to_string(CUDART_VERSION).c_str()));
  config.device_name = variable("TENON_SIM_DEVICE_NAME", "Tenon simulated GPU");
  for (const std::string& entry : split(variable("TENON_SIM_ATTRIBUTES", ""), ',')) {
    const auto pair = numbers("TENON_SIM_ATTRIBUTES", entry, ':', 2);
    config.attributes[pair[0]] = pair[1];
  }
  config.max_delay = std::chrono::microseconds(number("TENON_SIM_DELAY_US", "200"));
  config.seed = number("TENON_SIM_SEED", "1");
  config.poison = flag("TENON_SIM_POISON", "1");
  config.host_access = flag("TENON_SIM_HOST_ACCESS", "1");
  config.stale_handles_open = stale_from_environment();
  config.handle_reuse = flag("TENON_SIM_HANDLE_REUSE", "0");
  config.failures = read_failures();
  return config;
}

Uuid uuid_of(const std::string& node, int device) {
  // FNV-1a over the names, twice: it need only be different and stay the same.
  Uuid uuid{};
  for (std::size_t half = 0; half < 2; ++half) {
    std::uint64_t hash = 14695981039346656037U + half;
    for (const char c : "tenon-sim:" + node + ":" + std::to_string(device))
      hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
    hash ^= hash >> 29U;
    for (std::size_t i = 0; i < 8; ++i)
      uuid[half * 8 + i] = static_cast<unsigned char>(hash >> (i * 8));
  }
  return uuid;
}

std::string uuid_text(const Uuid& uuid) {
  std::string text = "GPU";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char hex[3] = {};
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned>(uuid[i]));
    text += hex;
  }
  return text;
}

}  // namespace tenon::sim
