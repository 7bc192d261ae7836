// One version of a publication, for commands that read it once and leave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tenon/subscriber.hpp>
#include <vector>

#include "options.hpp"

namespace tenon::cli {

/// Takes a place. A name that does not exist yet is waited for; one that a dead publisher left
/// behind is Error(PublisherGone) at once.
[[nodiscard]] Subscriber attach_reader(const ReaderOptions& options, const std::string& label,
                                       const detail::Deadline& deadline);

/// A version's bytes: held by a lease, or, of a publication that streams, loaded into memory.
///
/// Errors:   DeadlinePassed, NotRetained (the version asked for is past), PublisherGone, Closed.
/// Lifetime: data() until release(). Until then the publisher may be waiting for this process.
class Snapshot {
 public:
  /// All parameters, or `only` one (the rest has no data() then).
  [[nodiscard]] static Snapshot take(Subscriber& subscriber, const ReaderOptions& options,
                                     const detail::Deadline& deadline,
                                     std::optional<std::size_t> only = {});

  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  /// First byte of parameter `i`; may be null when it is empty.
  [[nodiscard]] const std::byte* data(std::size_t i) const noexcept {
    return lease_ ? (*lease_)[i].data() : places_[i];
  }
  void release() noexcept {
    if (lease_) lease_->release();
  }

 private:
  Snapshot() = default;
  LoadPlan plan_load(const Layout& layout, std::optional<std::size_t> only);

  std::uint64_t version_ = 0;
  std::optional<Lease> lease_;
  std::unique_ptr<std::byte[]> loaded_;
  std::vector<std::byte*> places_;  ///< in loaded_, per parameter
};

}  // namespace tenon::cli
