// Another library's way to tell a waiting process something, measured in the rounds of `wake`.
#pragma once

#include <cstdint>
#include <memory>

namespace tenon::bench {

/// One number from a process to another. Each side opens its end after the fork and uses no other.
class WakePeer {
 public:
  WakePeer() = default;
  WakePeer(const WakePeer&) = delete;
  WakePeer& operator=(const WakePeer&) = delete;
  virtual ~WakePeer() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  virtual void open_writer() = 0;
  virtual void open_reader() = 0;
  /// Everything that can be done before the number is told.
  virtual void prepare(std::uint64_t number) = 0;
  virtual void tell() = 0;
  /// Returns the next number; spins for it, or sleeps.
  [[nodiscard]] virtual std::uint64_t hear(bool spins) = 0;
};

/// Of the library that this program is linked with; null for tenon-bench itself.
[[nodiscard]] std::unique_ptr<WakePeer> make_wake_peer();

}  // namespace tenon::bench
