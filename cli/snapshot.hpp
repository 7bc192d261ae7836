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
  /// Bytes [offset, offset + bytes) of parameter `i`, for the host: where they are, or, when they
  /// are in GPU memory, copied to `scratch`. From any thread, with a scratch of its own.
  [[nodiscard]] const std::byte* read(std::size_t i, std::uint64_t offset, std::uint64_t bytes,
                                      std::vector<std::byte>& scratch) const;
  /// The names of parameters that differ from their checksums. Not of one that streams.
  [[nodiscard]] std::vector<std::string> verify() const;
  void release() noexcept {
    if (lease_) lease_->release();
  }

 private:
  Snapshot() = default;
  LoadPlan plan_load(const Layout& layout, std::optional<std::size_t> only);

  std::uint64_t version_ = 0;
  MemoryKind memory_ = MemoryKind::host;  ///< of what is leased; what is loaded is the host's
  std::optional<Lease> lease_;
  std::unique_ptr<std::byte[]> loaded_;
  std::vector<std::byte*> places_;  ///< in loaded_, per parameter
};

}  // namespace tenon::cli
