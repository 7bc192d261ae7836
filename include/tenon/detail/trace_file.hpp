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

/// A name for a process, or for one of its rows.
[[nodiscard]] inline std::string metadata_event(const char* what, std::int64_t pid, unsigned row,
                                                std::string_view name) {
  return "{\"ph\":\"M\",\"name\":\"" + std::string(what) + "\",\"pid\":" + std::to_string(pid) +
         ",\"tid\":" + std::to_string(row) + ",\"args\":{\"name\":" + json_text(name) + "}},\n";
}

/// What one publisher or subscriber of one process traces. A line of the file is one
/// event, written with one call, so a process that is killed leaves whole lines.
///
/// Errors:   none: a file that cannot be written is reported once, and nothing more is traced.
/// Threads:  one at a time.
class TraceFile {
 public:
  /// Of this process and what `who` does in it ("policy-publisher"); writes nothing unless
  /// TENON_TRACE names a directory.
  void open(const std::string& who) noexcept {
    const char* directory = std::getenv("TENON_TRACE");
    if (directory == nullptr || *directory == '\0') return;
    static std::atomic<unsigned> opened{0};  // by this program, of which a fork is another
    const unsigned number = opened.fetch_add(1, std::memory_order_relaxed);
    pid_ = ::getpid();
    try {
      std::string file;
      for (const char c : who) file += is_plain(c) ? c : '_';
      path_ = std::string(directory) + "/" + file + "." + std::to_string(pid_) + "." +
              std::to_string(number) + ".json";
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
      if (fd_ < 0) return give_up(errno);
      write("[\n");
      if (number == 0) write(metadata_event("process_name", pid_, 0, who));
      rows_ = number * format::kStageSums + 1;
      if (number > 0) row_prefix_ = who + ": ";
    } catch (const std::exception&) {
      close();
    }
  }
  TraceFile() = default;
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;
  ~TraceFile() { close(); }

  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }

  void add(format::Stage stage, std::uint64_t version, std::uint64_t start, std::uint64_t ns,
           std::uint64_t bytes) noexcept {
    if (fd_ < 0) return;
    const auto row = static_cast<unsigned>(stage);
    try {
      if ((named_ >> row & 1U) == 0)
        write(metadata_event("thread_name", pid_, rows_ + row, row_prefix_ + name_of(stage)));
    } catch (const std::exception&) {  // a row without a name
    }
    named_ |= 1U << row;
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
  static bool is_plain(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '@';
  }
  void write(std::string_view text) noexcept {
    if (fd_ < 0) return;
    const ::ssize_t written = ::write(fd_, text.data(), text.size());
    if (written != static_cast<::ssize_t>(text.size())) give_up(written < 0 ? errno : ENOSPC);
  }
  void give_up(int error) noexcept {
    close();
    report({"tracing to ", path_, " ends: ", std::generic_category().message(error)});
  }
  void close() noexcept {
    if (fd_ >= 0 && pid_ == ::getpid()) ::close(fd_);
    fd_ = -1;
  }

  int fd_ = -1;
  pid_t pid_ = 0;
  std::string path_;
  std::string row_prefix_;
  unsigned rows_ = 1;   ///< number of its first row; several files of a process have rows each
  unsigned named_ = 0;  ///< a bit for each row whose name is written
};

}  // namespace detail
}  // namespace tenon
