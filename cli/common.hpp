// What every command of `tenon` shares: exit codes, units, text and JSON on standard output.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <tenon/detail/wait.hpp>
#include <tenon/error.hpp>
#include <tenon/layout.hpp>
#include <tenon/safetensors.hpp>
#include <tenon/types.hpp>
#include <vector>

namespace tenon::cli {

/// Keeps the order in which keys were added, so that output reads the same every time.
using Json = nlohmann::ordered_json;

/// What `tenon` exits with; scripts rely on the numbers.
enum class Exit : int {
  ok = 0,
  failed = 1,
  usage = 2,         ///< bad usage or a bad input file
  not_found = 3,     ///< no such publication, no such parameter
  deadline = 4,      ///< the deadline passed, or the version asked for is past
  peer_died = 5,     ///< the publisher (or a child of `demo`) died or closed
  refused = 6,       ///< permission, version, name in use, no place left
  interrupted = 130  ///< by a signal, as shells count it
};
[[nodiscard]] Exit exit_of(Errc code) noexcept;

/// "512MiB", "2GB", "4096": bytes, at least 1. Units: B, KiB to TiB, KB to TB.
/// Throws Error(InvalidArgument) that names `what`.
[[nodiscard]] std::uint64_t parse_size(const std::string& what, std::string_view text);
/// "500ms", "1.5s", "2m", "3": a number without a unit is seconds. Units: us, ms, s, m, h.
[[nodiscard]] Duration parse_duration(const std::string& what, std::string_view text);
[[nodiscard]] Mode parse_mode(std::string_view text);

/// "2.47 GB": for people.
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);
/// "1.5 s", "500 ms": for people.
[[nodiscard]] std::string human_duration(Duration duration);
/// Text that others wrote, with control characters, and what is not UTF-8, shown as escapes: no
/// terminal obeys it.
[[nodiscard]] std::string printable(std::string_view text);
/// "[2048, 64]"
[[nodiscard]] std::string shape_text(Shape shape);
/// "2026-01-31T12:00:00Z" from nanoseconds of CLOCK_REALTIME.
[[nodiscard]] std::string time_text(std::uint64_t realtime_ns);
[[nodiscard]] std::vector<std::uint64_t> dimensions(Shape shape);

/// Writes to standard output and flushes. Throws SystemError when that fails.
void print(std::string_view text);
/// The value, indented, in ASCII; text that is not UTF-8 gets replacement characters.
void print_json(const Json& value);
/// One line on standard error: "tenon: <text>".
void complain(std::string_view text) noexcept;

/// Rows of cells in columns; the columns named in `right` are aligned to the right.
[[nodiscard]] std::string table(const std::vector<std::vector<std::string>>& rows,
                                const std::vector<std::size_t>& right = {});

/// Opens input files; a file that cannot be opened is Error(BadFile), as one that cannot be read.
[[nodiscard]] safetensors::Checkpoint open_checkpoint(
    const std::vector<std::filesystem::path>& files);

}  // namespace tenon::cli
