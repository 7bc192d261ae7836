// The copies that the gather is compared with: one block to another, nothing else.
#pragma once

#include <barrier>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace tenon::bench {

/// Copies one block with a fixed number of threads, each its own contiguous part. The threads exist
/// before the first copy, so none is made in the time that is measured.
class PlainCopy {
 public:
  enum class Store { normal, non_temporal };

  explicit PlainCopy(std::size_t threads);
  PlainCopy(const PlainCopy&) = delete;
  PlainCopy& operator=(const PlainCopy&) = delete;
  ~PlainCopy();

  /// All threads, or this one alone.
  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes, Store store);
  static void copy_alone(std::byte* to, const std::byte* from, std::uint64_t bytes, Store store);
  /// Which of the two is faster for this copy by all threads, by trying.
  [[nodiscard]] Store faster_store(std::byte* to, const std::byte* from, std::uint64_t bytes);
  /// Whether this processor's stores past the cache are known here; if not, both stores are normal.
  [[nodiscard]] static bool has_non_temporal() noexcept;
  [[nodiscard]] std::size_t threads() const noexcept { return threads_; }

 private:
  void copy_part(std::size_t part) const;

  struct Job {
    std::byte* to = nullptr;  ///< null: the threads end
    const std::byte* from = nullptr;
    std::uint64_t bytes = 0;
    Store store = Store::normal;
  };
  std::size_t threads_;
  Job job_;
  std::barrier<> start_;
  std::barrier<> finish_;
  std::vector<std::jthread> workers_;
};

}  // namespace tenon::bench
