// All streams of this process, and the order the default streams impose between them.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "stream.hpp"

namespace tenon::sim {

/// Handles are numbers, never addresses, and never used again: one that was destroyed is found out.
///
/// Threads: safe.
class Streams {
 public:
  explicit Streams(Pacing& pacing) : pacing_(pacing) {}

  [[nodiscard]] cudaStream_t create(int device, bool blocking);
  /// Closes it; false when there is none such. Default streams cannot be destroyed.
  bool destroy(cudaStream_t handle);
  /// The stream behind a handle as it is used on `device`; null when there is none.
  [[nodiscard]] std::shared_ptr<Stream> find(cudaStream_t handle, int device);
  /// The legacy default stream; using it through here is not counted.
  [[nodiscard]] std::shared_ptr<Stream> legacy(int device);

  /// Queues work. The legacy default stream waits for what the blocking streams of its device have
  /// queued, and they for it.
  std::uint64_t submit(const std::shared_ptr<Stream>& stream, Stream::Kind kind, Stream::Work work);

  /// Until everything queued so far is done; on one device, or on all for -1.
  void drain(int device);
  [[nodiscard]] bool blocking_capture(int device) const;
  /// Makes every stream look whether it was abandoned.
  void wake();
  void close_all();

  [[nodiscard]] std::uint64_t legacy_uses() const noexcept { return legacy_uses_; }
  void reset_legacy_uses() noexcept { legacy_uses_ = 0; }

 private:
  using Pending = std::vector<std::pair<std::shared_ptr<Stream>, std::uint64_t>>;

  [[nodiscard]] std::shared_ptr<Stream> start(Stream::Options options);
  [[nodiscard]] std::vector<std::shared_ptr<Stream>> all() const;
  [[nodiscard]] std::shared_ptr<Stream> legacy_locked(int device);

  Pacing& pacing_;
  mutable std::mutex mutex_;
  std::uint64_t next_ = 1;
  std::map<std::uintptr_t, std::shared_ptr<Stream>> created_;
  std::map<int, std::shared_ptr<Stream>> legacy_;
  std::map<std::pair<std::thread::id, int>, std::shared_ptr<Stream>> per_thread_;
  std::vector<std::weak_ptr<Stream>> started_;  // also those closed but not done
  std::atomic<std::uint64_t> legacy_uses_{0};
};

}  // namespace tenon::sim
