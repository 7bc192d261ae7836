// The calls of this process: how many, which, and which are to fail.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config.hpp"
#include "cuda_sim.hpp"

namespace tenon::sim {

/// Threads: safe.
class Journal {
 public:
  /// Counts a call; returns the place in the log for its result.
  std::uint64_t begin(const char* function);
  void end(std::uint64_t place, cudaError_t result);

  void add_failures(const std::vector<Failure>& failures);
  void clear_failures();
  /// The error the call that was just counted is to return, if any.
  [[nodiscard]] std::optional<cudaError_t> injected(std::string_view function);

  [[nodiscard]] std::uint64_t calls(std::string_view function) const;
  [[nodiscard]] std::uint64_t total() const;
  [[nodiscard]] std::vector<LoggedCall> log() const;
  void reset();

 private:
  static constexpr std::size_t kLongest = 100'000;

  mutable std::mutex mutex_;
  std::map<std::string, std::uint64_t, std::less<>> counts_;
  std::vector<LoggedCall> log_;
  std::uint64_t first_ = 0;  // place of the first entry of the log
  std::uint64_t next_ = 0;
  std::vector<Failure> failures_;
};

[[nodiscard]] Journal& journal();

}  // namespace tenon::sim
