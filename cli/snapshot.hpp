// One version of a publication, for commands that read it once and leave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tenon/subscriber.hpp>
#include <vector>

#include "memory.hpp"
#include "options.hpp"
#include "parallel.hpp"

namespace tenon::cli {

/// Takes a place. A name that does not exist yet is waited for; one that a dead publisher left
/// behind is Error(PublisherGone) at once. Its GPU, if it has one, becomes the current device.
[[nodiscard]] Subscriber attach_reader(const ReaderOptions& options, const std::string& label,
                                       const detail::Deadline& deadline);

/// A version's bytes: held by a lease, or, of a publication that streams, loaded into memory.
///
/// Errors:   DeadlinePassed, NotRetained (the version asked for is past), PublisherGone, Closed.
/// Threads:  bytes() may be called by any.
/// Lifetime: bytes() until release(). Until then the publisher may be waiting for this process.
class Snapshot {
 public:
  /// All parameters, or `only` one (the rest has no bytes() then).
  [[nodiscard]] static Snapshot take(Subscriber& subscriber, const ReaderOptions& options,
                                     const detail::Deadline& deadline,
                                     std::optional<std::size_t> only = {});

  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  /// That part of a parameter: where it is, or, out of GPU memory, copied to `room`. May be null
  /// when it is empty.
  [[nodiscard]] const std::byte* bytes(const Piece& piece, std::vector<std::byte>& room) const {
    if (!lease_) return places_[piece.parameter] + piece.offset;
    return on_host(memory_, (*lease_)[piece.parameter].data() + piece.offset, piece.bytes, room);
  }
  /// As Lease::verify(). Throws Error(InvalidArgument) when the publication has no checksums.
  [[nodiscard]] std::vector<std::string> verify() const;
  void release() noexcept {
    if (lease_) lease_->release();
  }

 private:
  Snapshot() = default;
  LoadPlan plan_load(const Subscriber& subscriber, std::optional<std::size_t> only);

  std::uint64_t version_ = 0;
  MemoryKind memory_ = MemoryKind::host;  ///< of the lease
  std::optional<Lease> lease_;
  Bytes loaded_;                    ///< in host memory, whatever the publication is in
  std::vector<std::byte*> places_;  ///< in loaded_, per parameter
};

}  // namespace tenon::cli
