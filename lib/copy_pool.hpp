// Copying a list of items of host memory with a few threads: the host kind's gather.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <tenon/copy_item.hpp>
#include <thread>
#include <vector>

namespace tenon {

/// A fixed set of threads that split one list of items by destination bytes.
/// Threads:  run() from one thread at a time; it returns when every byte is in place and visible to
///           whoever synchronises with the caller (non-temporal stores are fenced).
class CopyPool {
 public:
  explicit CopyPool(unsigned threads);
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;
  ~CopyPool() = default;

  void run(std::span<const CopyItem> items, CopyBase base = {});
  [[nodiscard]] unsigned threads() const noexcept {
    return static_cast<unsigned>(workers_.size()) + 1;
  }

 private:
  void copy_share(std::size_t share) const noexcept;
  void work(const std::stop_token& stop, std::size_t share);

  std::span<const CopyItem> items_;
  CopyBase base_;
  std::mutex mutex_;
  std::condition_variable_any start_;
  std::condition_variable finished_;
  std::uint64_t round_ = 0;
  std::size_t busy_ = 0;
  std::vector<std::jthread> workers_;  ///< last: they stop before what they use goes
};

}  // namespace tenon
