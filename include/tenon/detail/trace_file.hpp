// Tracing by environment: with TENON_TRACE=DIR each process appends its stages to a file in DIR, in
// Chrome's trace event format. `tenon trace --merge` makes one file of them.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <tenon/detail/per_process.hpp>
#include <tenon/error.hpp>
#include <tenon/format.hpp>

namespace tenon {

/// As metrics and traces spell it; "unknown" for a number that is none.
[[nodiscard]] inline const char* name_of(format::Stage stage) noexcept {
  constexpr std::array<const char*, format::kStages> kNames{
      "wait_for_slots", "gather", "publish", "wake",    "receive", "wait_for_ready",
      "hold",           "load",   "verify",  "release", "send",    "gather_device"};
  const auto i = static_cast<std::size_t>(stage);
  return i < kNames.size() ? kNames[i] : "unknown";
}

namespace detail {

/// A JSON string of text that may be anything; what is not printable ASCII becomes '?'.
[[nodiscard]] inline std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c < ' ' || c > '~' ? '?' : c;
  }
  return out + "\"";
}

/// Rows of one publisher or subscriber in a trace.
inline constexpr unsigned kTraceRows = 2 * format::kStageSums;
/// The row of an event. Two versions can be held at once: their holds have a row each.
[[nodiscard]] constexpr unsigned trace_row(format::Stage stage, std::uint64_t version) noexcept {
  const bool second = stage == format::Stage::hold && version % 2 == 1;
  return 2 * static_cast<unsigned>(stage) + (second ? 1U : 0U);
}

/// A name for a process, or for one of its rows. `more`: further members of "args".
[[nodiscard]] inline std::string metadata_event(const char* what, std::int64_t pid, unsigned row,
                                                std::string_view name,
                                                const std::string& more = {}) {
  return "{\"ph\":\"M\",\"name\":\"" + std::string(what) + "\",\"pid\":" + std::to_string(pid) +
         ",\"tid\":" + std::to_string(row) + ",\"args\":{\"name\":" + json_text(name) + more +
         "}},\n";
}

/// What one publisher or subscriber of one process traces. A line of the file is one
/// event, written with one call, so a process that is killed leaves whole lines.
///
/// Errors:   none: a file that cannot be written is reported once, and nothing more is traced.
/// Threads:  any, once it is open: there is no lock, lines of a file that is appended to are whole.
class TraceFile {
 public:
  /// Of this process and what `who` does in it ("policy-publisher"); writes nothing unless
  /// TENON_TRACE names a directory.
  void open(const std::string& who, const format::Process& me) noexcept {
    const char* directory = std::getenv("TENON_TRACE");
    if (directory == nullptr || *directory == '\0') return;
    pid_ = own_pid();
    try {
      const unsigned number = per_process<Opened>().count.fetch_add(1, std::memory_order_relaxed);
      path_ = std::string(directory) + "/";
      for (const char c : who) path_ += is_plain(c) ? c : '_';
      path_ += "." + std::to_string(pid_) + ".";
      if (!make_file(number)) return give_up(errno);
      // A pid means one process in one namespace at one time; `tenon trace --merge` has several.
      write("[\n" + metadata_event("process_name", pid_, 0, who,
                                   ",\"started\":" + std::to_string(me.start_time) +
                                       ",\"namespace\":" + std::to_string(me.pid_namespace)));
      rows_ = number * kTraceRows + 1;
      if (number > 0) row_prefix_ = who + ": ";
    } catch (const std::exception&) {
      open_ = false;
    }
  }
  TraceFile() = default;
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;
  ~TraceFile() {
    if (fd_ >= 0 && pid_ == own_pid()) ::close(fd_);
  }

  [[nodiscard]] bool is_open() const noexcept { return open_.load(std::memory_order_relaxed); }

  void add(format::Stage stage, std::uint64_t version, std::uint64_t start, std::uint64_t ns,
           std::uint64_t bytes) noexcept {
    if (!is_open()) return;
    const unsigned row = trace_row(stage, version);
    name_row(row, name_of(stage));
    std::array<char, 320> line;
    const int length = std::snprintf(
        line.data(), line.size(),
        "{\"ph\":\"X\",\"name\":\"%s\",\"cat\":\"tenon\",\"pid\":%d,\"tid\":%u,\"ts\":%" PRIu64
        ".%03u,\"dur\":%" PRIu64 ".%03u,\"args\":{\"version\":%" PRIu64 ",\"bytes\":%" PRIu64
        "}},\n",
        name_of(stage), static_cast<int>(pid_), rows_ + row, start / 1000,
        static_cast<unsigned>(start % 1000), ns / 1000, static_cast<unsigned>(ns % 1000), version,
        bytes);
    write(std::string_view(line.data(), static_cast<std::size_t>(length)));
  }

 private:
  struct Opened {
    std::atomic<unsigned> count{0};
  };
  static constexpr unsigned kMostFiles = 10'000;  // of one name, from other containers' processes

  static bool is_plain(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '@';
  }
  // Processes of several containers can have the same pid, and a folder.
  bool make_file(unsigned number) {
    const std::string stem = path_;
    for (unsigned i = number; i < number + kMostFiles; ++i) {
      path_ = stem + std::to_string(i) + ".json";
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
      if (fd_ >= 0 || errno != EEXIST) break;
    }
    open_ = fd_ >= 0;
    return open_;
  }
  void name_row(unsigned row, const char* name) noexcept {
    // relaxed: of several threads one finds the bit clear.
    if ((named_.fetch_or(1U << row, std::memory_order_relaxed) >> row & 1U) != 0) return;
    try {
      write(metadata_event("thread_name", pid_, rows_ + row, row_prefix_ + name));
    } catch (const std::exception&) {  // a row without a name
    }
  }
  void write(std::string_view text) noexcept {
    const ::ssize_t written = ::write(fd_, text.data(), text.size());
    if (written != static_cast<::ssize_t>(text.size())) give_up(written < 0 ? errno : ENOSPC);
  }
  void give_up(int error) noexcept {
    const bool first = fd_ < 0 || open_.exchange(false);
    if (first) report({"tracing to ", path_, " ends: ", std::generic_category().message(error)});
  }

  int fd_ = -1;
  std::atomic<bool> open_{false};
  pid_t pid_ = 0;
  std::string path_;
  std::string row_prefix_;
  unsigned rows_ = 1;  ///< number of its first row; several files of a process have rows each
  std::atomic<std::uint32_t> named_{0};  ///< a bit for each row whose name is written
};
static_assert(kTraceRows <= 32, "a bit for each");

}  // namespace detail
}  // namespace tenon
