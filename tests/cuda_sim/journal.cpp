#include "journal.hpp"

#include <algorithm>

namespace tenon::sim {

std::uint64_t Journal::begin(const char* function) {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(std::string_view(function));
  if (found != counts_.end()) {
    ++found->second;
  } else {
    counts_[function] = 1;
  }
  if (log_.size() < kLongest) log_.push_back({function, cudaSuccess});
  return next_++;
}

void Journal::end(std::uint64_t place, cudaError_t result) {
  const std::lock_guard lock(mutex_);
  // A call from before a reset has lost its place.
  if (place >= first_ && place - first_ < log_.size()) log_[place - first_].result = result;
}

void Journal::add_failures(const std::vector<Failure>& failures) {
  const std::lock_guard lock(mutex_);
  failures_.insert(failures_.end(), failures.begin(), failures.end());
}

void Journal::clear_failures() {
  const std::lock_guard lock(mutex_);
  failures_.clear();
}

std::optional<cudaError_t> Journal::injected(std::string_view function) {
  const std::lock_guard lock(mutex_);
  std::optional<cudaError_t> error;
  for (Failure& failure : failures_) {
    if (failure.function != function) continue;
    const bool every = failure.nth == kEveryCall;
    if (!every && --failure.nth > 0) continue;
    if (!error) error = failure.error;
    if (!every) failure.function.clear();  // done
  }
  failures_.erase(std::remove_if(failures_.begin(), failures_.end(),
                                 [](const Failure& failure) { return failure.function.empty(); }),
                  failures_.end());
  return error;
}

std::uint64_t Journal::calls(std::string_view function) const {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(function);
  return found == counts_.end() ? 0 : found->second;
}

std::uint64_t Journal::total() const {
  const std::lock_guard lock(mutex_);
  return next_ - first_;
}

std::vector<LoggedCall> Journal::log() const {
  const std::lock_guard lock(mutex_);
  return log_;
}

void Journal::reset() {
  const std::lock_guard lock(mutex_);
  counts_.clear();
  log_.clear();
  first_ = next_;
}

Journal& journal() {
  static Journal* const kOnly = new Journal;  // never destroyed, as the processes are not
  return *kOnly;
}

}  // namespace tenon::sim
