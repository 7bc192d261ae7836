// What Tenon tells of itself while it works. Off by default: nothing is written but what a
// destructor found and cannot throw. See docs/logging.md.
//
// In the library and in the header-only client alike. What is off costs one relaxed load; what is
// on allocates nothing and takes no lock, so destructors, host functions of streams and forked
// children may log. Nothing is ever written to standard output.
#pragma once

#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string_view>
#include <type_traits>

namespace tenon {

/// Each includes those above it.
enum class LogLevel : int {
  off,    ///< nothing at all
  error,  ///< what went wrong where nothing can be thrown, in destructors say: the default
  warn,   ///< others that died and were cleaned up after
  info,   ///< publications created and closed, subscribers that come and go, sessions of relays
  debug   ///< places, handles, every error that is thrown
};

/// Gets each line: no prefix, no newline, valid during the call. Any thread may call it, several at
/// once; it must not throw, and should not block: whoever logs waits for it.
using LogCallback = void (*)(LogLevel level, std::string_view line, void* context);

[[nodiscard]] constexpr const char* name_of(LogLevel level) noexcept {
  constexpr std::array<const char*, 5> kNames{"off", "error", "warn", "info", "debug"};
  return kNames[static_cast<std::size_t>(level)];
}

namespace detail {

struct LogSink {
  LogCallback callback;
  void* context;
  LogSink* former;  ///< never freed: a thread may be in it
};

// Relaxed: a level and nothing that hangs on it; whoever sees a new one late logs, or not, a line.
inline std::atomic<int> log_level_word{-1};  // -1: TENON_LOG has not been looked at
// Released when set and acquired when used: behind the pointer lies what it points to.
inline std::atomic<LogSink*> log_sink{nullptr};

/// A line in the making. What does not fit is cut off.
class LogLine {
 public:
  void add(std::string_view text) noexcept {
    const std::size_t bytes = text.size() < room() ? text.size() : room();
    if (bytes > 0) std::memcpy(text_.data() + size_, text.data(), bytes);
    size_ += bytes;
  }
  template <class Number, class = std::enable_if_t<std::is_integral_v<Number>>>
  void add(Number number) noexcept {
    std::array<char, 24> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
    add(std::string_view(digits.data(), static_cast<std::size_t>(end - digits.data())));
  }
  [[nodiscard]] std::string_view text() const noexcept { return {text_.data(), size_}; }

 private:
  [[nodiscard]] std::size_t room() const noexcept { return text_.size() - size_; }
  std::array<char, 2048> text_;
  std::size_t size_ = 0;
};

inline void write_log(LogLevel level, std::string_view line) noexcept {
  if (const LogSink* sink = log_sink.load(std::memory_order_acquire);
      sink != nullptr && sink->callback != nullptr)
    return sink->callback(level, line, sink->context);
  // One call, so that lines of several processes do not mix.
  const bool named = level != LogLevel::error;
  const std::array<std::string_view, 5> parts{"tenon: ", named ? name_of(level) : "",
                                              named ? ": " : "", line, "\n"};
  std::array<::iovec, 5> at{};
  for (std::size_t i = 0; i < at.size(); ++i)
    at[i] = {const_cast<char*>(parts[i].data()), parts[i].size()};
  const ::ssize_t written = ::writev(STDERR_FILENO, at.data(), static_cast<int>(at.size()));
  (void)written;  // nobody can be told
}

// TENON_LOG, looked at once.
inline int first_log_level() noexcept {
  LogLevel level = LogLevel::error;
  bool known = true;
  if (const char* wanted = std::getenv("TENON_LOG"); wanted != nullptr && *wanted != '\0') {
    known = false;
    for (const LogLevel one :
         {LogLevel::off, LogLevel::error, LogLevel::warn, LogLevel::info, LogLevel::debug}) {
      if (std::strcmp(wanted, name_of(one)) != 0) continue;
      level = one;
      known = true;
    }
  }
  int unset = -1;
  const bool first = log_level_word.compare_exchange_strong(unset, static_cast<int>(level),
                                                            std::memory_order_relaxed);
  if (first && !known)
    write_log(LogLevel::error, "TENON_LOG takes off, error, warn, info or debug");
  return log_level_word.load(std::memory_order_relaxed);
}

[[nodiscard]] inline bool log_enabled(LogLevel level) noexcept {
  const int most = log_level_word.load(std::memory_order_relaxed);
  return static_cast<int>(level) <= (most >= 0 ? most : first_log_level());
}

/// A line of texts and whole numbers. Texts that take work to make: ask log_enabled() first.
template <class... Parts>
void log(LogLevel level, const Parts&... parts) noexcept {
  if (!log_enabled(level)) return;
  LogLine line;
  (line.add(parts), ...);
  write_log(level, line.text());
}

/// For destructors, which never throw and never stay silent: LogLevel::error.
inline void report(std::initializer_list<std::string_view> parts) noexcept {
  if (!log_enabled(LogLevel::error)) return;
  LogLine line;
  for (const std::string_view part : parts) line.add(part);
  write_log(LogLevel::error, line.text());
}

}  // namespace detail

/// What is logged from now on, whatever TENON_LOG says.
inline void set_log_level(LogLevel level) noexcept {
  detail::log_level_word.store(static_cast<int>(level), std::memory_order_relaxed);
}

[[nodiscard]] inline LogLevel log_level() noexcept {
  const int level = detail::log_level_word.load(std::memory_order_relaxed);
  return static_cast<LogLevel>(level >= 0 ? level : detail::first_log_level());
}

/// Lines go to `callback` instead of standard error; nullptr: to standard error again. The level
/// stays: see set_log_level().
///
/// Threads:  any, at any time. A thread that is logging may still call the former one.
/// Lifetime: `context` as long as somebody may log; that is, until the process ends.
inline void set_log_callback(LogCallback callback, void* context = nullptr) {
  auto* sink = new detail::LogSink{callback, context, nullptr};
  sink->former = detail::log_sink.load(std::memory_order_relaxed);
  while (!detail::log_sink.compare_exchange_weak(sink->former, sink, std::memory_order_release,
                                                 std::memory_order_relaxed)) {
  }
}

}  // namespace tenon
