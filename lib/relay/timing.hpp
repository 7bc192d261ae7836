// Adds up where the time goes.
#pragma once

#include <tenon/detail/wait.hpp>

namespace tenon::relay {

/// Adds the time between its making and its end to a sum.
class Timed {
 public:
  explicit Timed(Duration& sum) noexcept : sum_(sum) {}
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;
  ~Timed() { sum_ += detail::Clock::now() - begin_; }

 private:
  Duration& sum_;
  detail::Clock::time_point begin_ = detail::Clock::now();
};

}  // namespace tenon::relay
