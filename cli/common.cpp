#include "common.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <optional>
#include <utility>

namespace tenon::cli {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr double kMaxNumber = 9.0e18;  // below 2^63, so that the result fits every integer here

// A non-negative number and what follows it, times the factor of that unit.
std::optional<double> parse_with_unit(std::string_view text, const std::vector<Unit>& units) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || std::signbit(number)) return std::nullopt;
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  if (unit.starts_with(' ')) unit.remove_prefix(1);
  for (const Unit& u : units) {
    if (u.name == unit && number * u.factor < kMaxNumber) return number * u.factor;
  }
  return std::nullopt;
}

[[noreturn]] void bad_option(const std::string& what, std::string_view text, const char* expected) {
  throw Error(Errc::InvalidArgument,
              fmt::format("{}: '{}' is not {}", what, printable(text), expected));
}

struct Character {
  char32_t code;  ///< 0 for what is not UTF-8
  std::size_t bytes;
};

// The first character of UTF-8 text, which is not empty.
Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  const std::size_t bytes = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  constexpr std::array<char32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < bytes) return {0, 1};
  char32_t code = byte(0) & (0x7FU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0U) != 0x80) return {0, 1};
    code = code << 6U | (byte(i) & 0x3FU);
  }
  const bool is_surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (code < kLeast.at(bytes) || code > 0x10FFFF || is_surrogate) return {0, 1};
  return {code, bytes};
}

// Control characters drive terminals: also those from U+0080 to U+009F, which many of them obey,
// and those that turn the direction of the text around or begin a line.
bool is_harmless(char32_t c) {
  const bool is_control = c < 0x20 || (c >= 0x7F && c <= 0x9F);
  const bool turns = (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0x200E ||
                     c == 0x200F || c == 0x061C;
  return !is_control && !turns;
}

}  // namespace

Exit exit_of(Errc code) noexcept {
  switch (code) {  // no default: the compiler names what is missing here
    case Errc::InvalidArgument:
    case Errc::InvalidName:
    case Errc::BadFile:
      return Exit::usage;
    case Errc::NotFound:
    case Errc::NoSuchParameter:
      return Exit::not_found;
    case Errc::DeadlinePassed:
    case Errc::NotRetained:
      return Exit::deadline;
    case Errc::PublisherGone:
    case Errc::Closed:
    case Errc::PeerGone:
    case Errc::Aborted:
      return Exit::peer_died;
    case Errc::NameInUse:
    case Errc::NotYours:
    case Errc::WrongVersion:
    case Errc::TooManySubscribers:
    case Errc::NotShareable:
    case Errc::WrongSecret:
    case Errc::Mismatch:
      return Exit::refused;
    case Errc::BadFormat:
    case Errc::OutOfSpace:
    case Errc::ReleaseWanted:
    case Errc::StreamingOnly:
    case Errc::DirtyBucket:
    case Errc::IncompleteVersion:
    case Errc::ProtocolError:
    case Errc::ForkedChild:
    case Errc::NoDevice:
    case Errc::Capturing:
    case Errc::Cuda:
    case Errc::NoMemoryKind:
    case Errc::NoEngine:
    case Errc::System:
      return Exit::failed;
  }
  return Exit::failed;
}

std::uint64_t parse_size(const std::string& what, std::string_view text) {
  static const std::vector<Unit> kUnits{{"", 1},
                                        {"B", 1},
                                        {"KiB", 1024.0},
                                        {"MiB", 1048576.0},
                                        {"GiB", 1073741824.0},
                                        {"TiB", 1099511627776.0},
                                        {"KB", 1e3},
                                        {"MB", 1e6},
                                        {"GB", 1e9},
                                        {"TB", 1e12}};
  const auto bytes = parse_with_unit(text, kUnits);
  if (!bytes || *bytes < 1) bad_option(what, text, "a size such as 512MiB, 2GB or 4096");
  return static_cast<std::uint64_t>(*bytes);
}

Duration parse_duration(const std::string& what, std::string_view text) {
  static const std::vector<Unit> kUnits{{"", 1e9},  {"us", 1e3}, {"ms", 1e6},
                                        {"s", 1e9}, {"m", 6e10}, {"h", 3.6e12}};
  const auto ns = parse_with_unit(text, kUnits);
  if (!ns) bad_option(what, text, "a duration such as 500ms, 10s or 2m");
  return Duration(static_cast<std::int64_t>(*ns));
}

Mode parse_mode(std::string_view text) {
  for (const Mode mode : {Mode::in_place, Mode::double_buffered, Mode::streaming}) {
    if (text == name_of(mode)) return mode;
  }
  bad_option("--mode", text, "one of streaming, in-place, double");
}

std::string human_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"kB", "MB", "GB", "TB", "PB"};
  if (bytes < 1000) return fmt::format("{} B", bytes);
  auto number = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (number /= 1000; number >= 999.5 && unit + 1 < kUnits.size(); number /= 1000) ++unit;
  return fmt::format("{:.3g} {}", number, kUnits.at(unit));
}

std::string human_duration(Duration duration) {
  const auto ns = static_cast<double>(duration.count());
  if (ns < 1e6) return fmt::format("{:.0f} us", ns / 1e3);
  if (ns < 1e9) return fmt::format("{:.0f} ms", ns / 1e6);
  return fmt::format("{:.4g} s", ns / 1e9);
}

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Character c = first_character(text);
    const std::string_view raw = text.substr(0, c.bytes);
    if (is_harmless(c.code)) {
      out += raw;
    } else {
      for (const char byte : raw) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
    }
    text.remove_prefix(c.bytes);
  }
  return out;
}

std::string shape_text(Shape shape) {
  std::string out = "[";
  for (const std::uint64_t dim : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(dim);
  return out + "]";
}

std::string time_text(std::uint64_t realtime_ns) {
  const auto seconds = static_cast<std::time_t>(realtime_ns / 1'000'000'000);
  std::tm utc{};
  if (::gmtime_r(&seconds, &utc) == nullptr) return "?";
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

std::vector<std::uint64_t> dimensions(Shape shape) { return {shape.begin(), shape.end()}; }

void print(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0) throw SystemError{errno, "writing to standard output"};
}

void print_json(const Json& value) {
  print(value.dump(2, ' ', true, Json::error_handler_t::replace) + "\n");
}

void complain(std::string_view text) noexcept {
  std::fprintf(stderr, "tenon: %.*s\n", static_cast<int>(text.size()), text.data());
}

std::string table(const std::vector<std::vector<std::string>>& rows,
                  const std::vector<std::size_t>& right) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const bool to_right = std::find(right.begin(), right.end(), c) != right.end();
      line += to_right ? fmt::format("{:>{}}  ", row[c], widths[c])
                       : fmt::format("{:<{}}  ", row[c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

safetensors::Checkpoint open_checkpoint(const std::vector<std::filesystem::path>& files) {
  try {
    return safetensors::Checkpoint::open(files);
  } catch (const SystemError& error) {
    throw Error(Errc::BadFile, error.message());
  }
}

}  // namespace tenon::cli
