// Views of a version's parameters, and the lease that keeps them valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/attachment.hpp>
#include <utility>
#include <vector>

namespace tenon {

/// A zero-copy window on one parameter.
///
/// Units:    shape in elements, bytes in bytes.
/// Lifetime: data() while the lease it came from is held; name and shape while the subscriber
/// lives.
///           Reading data() after the release is the torn read that leases exist to prevent.
class View {
 public:
  View(const Placement& place, const std::byte* bucket) noexcept
      : place_(place), data_(bucket + place.offset) {}
  [[nodiscard]] std::string_view name() const noexcept { return place_.name; }
  [[nodiscard]] Dtype dtype() const noexcept { return place_.dtype; }
  [[nodiscard]] Shape shape() const noexcept { return place_.shape; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return place_.bytes; }
  [[nodiscard]] const std::byte* data() const noexcept { return data_; }

 private:
  Placement place_;
  const std::byte* data_;
};

/// What became of the publisher behind a lease.
enum class PublisherStatus { alive, closed, gone };

/// A hold on one version: its bytes do not change until release() or destruction.
///
/// Errors:   operator[] throws Error(NoSuchParameter) with the nearest names.
/// Threads:  a const lease may be read from any thread; release it once, when all of them are done.
/// Lifetime: keeps its subscription (place and mappings) alive. A held lease makes the publisher
/// wait:
///           in place before the next version, double-buffered before the one after it. wanted()
///           says that it is waiting now. In a forked child a lease does nothing and must not be
///           read.
class Lease {
 public:
  Lease(std::shared_ptr<detail::Attachment> attachment, unsigned parity) noexcept
      : attachment_(std::move(attachment)), parity_(parity) {}
  Lease(Lease&& other) noexcept = default;
  Lease& operator=(Lease&& other) noexcept {
    if (this != &other) {
      release();
      attachment_ = std::move(other.attachment_);
      parity_ = other.parity_;
    }
    return *this;
  }
  ~Lease() { release(); }

  /// The version held, from 1.
  [[nodiscard]] std::uint64_t version() const noexcept {
    return format::version_of(held().start, layout().bucket_count());
  }
  [[nodiscard]] const Layout& layout() const noexcept { return attachment_->layout(); }
  [[nodiscard]] std::size_t size() const noexcept { return layout().size(); }

  /// Parameter `i` in layout order; i < size().
  [[nodiscard]] View operator[](std::size_t i) const noexcept {
    const Placement place = layout()[i];
    return {place, held().bucket[place.bucket]};
  }
  /// O(1), no allocation.
  [[nodiscard]] View operator[](std::string_view name) const { return (*this)[layout().at(name)]; }
  [[nodiscard]] std::optional<View> find(std::string_view name) const noexcept {
    const auto i = layout().find(name);
    if (!i) return std::nullopt;
    return (*this)[*i];
  }

  /// First byte of a whole bucket; layout().bucket_bytes(b) bytes.
  [[nodiscard]] const std::byte* bucket(std::size_t b) const noexcept { return held().bucket[b]; }
  /// The version whose publish wrote bucket `b`: unchanged buckets are handed on without a copy.
  [[nodiscard]] std::uint64_t written_in(std::size_t b) const noexcept {
    return held().written_in[b];
  }

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = View;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = View;
    Iterator(const Lease* lease, std::size_t i) noexcept : lease_(lease), i_(i) {}
    View operator*() const noexcept { return (*lease_)[i_]; }
    Iterator& operator++() noexcept {
      ++i_;
      return *this;
    }
    bool operator==(const Iterator& other) const noexcept { return i_ == other.i_; }
    bool operator!=(const Iterator& other) const noexcept { return i_ != other.i_; }

   private:
    const Lease* lease_;
    std::size_t i_;
  };
  [[nodiscard]] Iterator begin() const noexcept { return {this, 0}; }
  [[nodiscard]] Iterator end() const noexcept { return {this, size()}; }

  /// Whether the publisher waits for this lease. An engine that polls it between batches never
  /// makes the trainer wait longer than one batch.
  [[nodiscard]] bool wanted() const noexcept { return attachment_->pins().oldest() > held().start; }
  /// Whether anybody still stands behind these bytes. Costs a system call.
  [[nodiscard]] PublisherStatus publisher() const noexcept {
    if (attachment_->is_closed()) return PublisherStatus::closed;
    return attachment_->segment().publisher_dead() ? PublisherStatus::gone : PublisherStatus::alive;
  }

  /// Ends the hold; every earlier read of the views is over. Doing it twice is harmless.
  void release() noexcept {
    if (!attachment_) return;
    if (attachment_->is_owner()) attachment_->pins().end(parity_);
    attachment_.reset();
  }
  /// Ends the hold behind everything enqueued so far on every one of `streams`; returns at once,
  /// unless subscriber and other leases are gone: then it closes the subscription, behind those
  /// streams (2 s at most).
  /// Needs <tenon/cuda.hpp> in one source of the program, whatever the memory kind.
  ///
  /// Errors: Error(Capturing) when a stream is being captured; Error(Cuda). The lease is then still
  ///         held, unless the CUDA context is broken: then nothing is, and every later call of the
  ///         subscription says so.
  void release(std::initializer_list<Stream> streams) {
    release_behind(streams.begin(), streams.size());
  }
  void release(Stream stream) { release_behind(&stream, 1); }
  void release(const std::vector<Stream>& streams) {
    release_behind(streams.data(), streams.size());
  }

  /// Computes the checksums of all parameters anew and compares them with those that the publisher
  /// took; the names of those that differ. Needs tenon::tenon. Throws InvalidArgument when the
  /// publication has none (PublisherOptions::checksums).
  [[nodiscard]] std::vector<std::string> verify() const;
  /// False after release() and after having been moved from.
  [[nodiscard]] explicit operator bool() const noexcept { return attachment_ != nullptr; }

 private:
  void release_behind(const Stream* streams, std::size_t count) {
    if (!attachment_) return;
    if (attachment_->is_owner()) attachment_->end_behind(parity_, streams, count);
    attachment_.reset();
  }
  [[nodiscard]] const detail::Pins::Held& held() const noexcept {
    return attachment_->pins().held(parity_);
  }

  std::shared_ptr<detail::Attachment> attachment_;
  unsigned parity_ = 0;
};

}  // namespace tenon
