// Timed samples and their percentiles.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tenon/detail/wait.hpp>
#include <utility>
#include <vector>

namespace tenon::bench {

/// CLOCK_MONOTONIC in nanoseconds: the same clock in every process of a machine.
using detail::monotonic_ns;

/// Durations in microseconds.
class Samples {
 public:
  void reserve(std::size_t n) { values_.reserve(n); }
  void add_us(double us) { values_.push_back(us); }
  void add_ns(std::uint64_t from, std::uint64_t to) {
    add_us((static_cast<double>(to) - static_cast<double>(from)) / 1e3);
  }
  [[nodiscard]] std::size_t size() const noexcept { return values_.size(); }
  [[nodiscard]] const std::vector<double>& values() const noexcept { return values_; }

  /// Nearest rank: the smallest sample that `share` (0 to 1) of all samples do not exceed.
  [[nodiscard]] double at(double share) const {
    if (values_.empty()) return 0;
    std::vector<double> sorted = values_;
    const auto rank =
        static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
    const auto nth =
        sorted.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(rank, 1) - 1);
    std::nth_element(sorted.begin(), nth, sorted.end());
    return *nth;
  }
  [[nodiscard]] double p50() const { return at(0.5); }

 private:
  std::vector<double> values_;
};

/// Samples that a child takes, in memory it shares with its parent.
struct Series {
  static constexpr std::size_t kMost = 4096;
  std::uint64_t wrong = 0;
  std::size_t size = 0;
  double us[kMost] = {};

  void add_us(double value) noexcept {
    if (size < kMost) us[size++] = value;
  }
  void add_ns(std::uint64_t from, std::uint64_t to) noexcept {
    add_us((static_cast<double>(to) - static_cast<double>(from)) / 1e3);
  }
  [[nodiscard]] Samples samples() const {
    Samples all;
    for (std::size_t i = 0; i < size; ++i) all.add_us(us[i]);
    return all;
  }
};

/// Median over rounds of `reference` / `measured`: how fast the measured thing was, as a share of a
/// reference that ran in the same rounds. What slows a whole round down cancels out.
[[nodiscard]] inline double paired_speed(const Samples& reference, const Samples& measured) {
  Samples shares;
  for (std::size_t i = 0; i < std::min(reference.size(), measured.size()); ++i)
    shares.add_us(reference.values()[i] / measured.values()[i]);
  return shares.p50();
}

/// Least squares through (x, y): slope, and y at x = 0.
[[nodiscard]] inline std::pair<double, double> line_through(
    const std::vector<std::pair<double, double>>& points) {
  const auto n = static_cast<double>(points.size());
  double sx = 0;
  double sy = 0;
  double sxx = 0;
  double sxy = 0;
  for (const auto& [x, y] : points) {
    sx += x;
    sy += y;
    sxx += x * x;
    sxy += x * y;
  }
  const double slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
  return {slope, (sy - slope * sx) / n};
}

}  // namespace tenon::bench
