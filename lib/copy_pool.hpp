// Copying many pieces of host memory with a few threads: the host kind's gather.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace tenon {

struct CopyPiece {
  std::byte* to;
  const std::byte* from;
  std::uint64_t bytes;
};

/// A fixed set of threads that split one list of pieces by bytes.
/// Threads:  run() from one thread at a time; it returns when every byte is in place and visible to
///           whoever synchronises with the caller (non-temporal stores are fenced).
class CopyPool {
 public:
  explicit CopyPool(unsigned threads);
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;
  ~CopyPool() = default;

  void run(std::span<const CopyPiece> pieces);
  [[nodiscard]] unsigned threads() const noexcept {
    return static_cast<unsigned>(workers_.size()) + 1;
  }

 private:
  void copy_share(std::size_t share) const noexcept;
  void work(const std::stop_token& stop, std::size_t share);

  std::span<const CopyPiece> pieces_;
  std::vector<std::uint64_t> ends_;  ///< running sum of bytes, one per piece
  std::mutex mutex_;
  std::condition_variable_any start_;
  std::condition_variable finished_;
  std::uint64_t round_ = 0;
  std::size_t busy_ = 0;
  std::vector<std::jthread> workers_;  ///< last: they stop before what they use goes
};

/// One plain copy, non-temporal when it is large enough to pay: a destination of this size leaves
/// the cache anyway, and a normal store would first read what it overwrites.
void copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes) noexcept;

}  // namespace tenon
