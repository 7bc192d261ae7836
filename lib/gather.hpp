// How sources get into a slot, by memory kind.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tenon/copy_item.hpp>
#include <tenon/publisher.hpp>
#include <vector>

namespace tenon {

/// Fills slots of one publication and says when they are filled.
/// Threads: one at a time.
class Gather {
 public:
  virtual ~Gather() = default;
  /// Where a version's work is enqueued: `stream`, or one of this object's own. Throws
  /// Error(InvalidArgument) for a stream that this memory kind has no use for, Error(Capturing).
  [[nodiscard]] virtual Stream begin(std::optional<Stream> stream) = 0;
  /// Throws Error(InvalidArgument) for sources that this kind cannot copy. Enqueues nothing.
  virtual void check(std::size_t bucket, std::span<const Source> sources) = 0;
  /// Copies a bucket's parameters, as check() was told of them last, to `slot`. Host memory: done
  /// on return; else enqueued. False when
  /// it reads host memory that the caller must leave alone until the work has run.
  [[nodiscard]] virtual bool run(std::size_t bucket, std::span<const Source> sources,
                                 std::byte* slot, Stream stream) = 0;
  /// Computes the checksums of a bucket's parameters out of `slot`: done, or enqueued.
  virtual void sum(std::size_t bucket, const std::byte* slot, Stream stream) = 0;
  /// Where they are, by parameter, once what this enqueues has run; until the next version begins.
  [[nodiscard]] virtual const std::uint64_t* sums(Stream stream) = 0;
  /// Whether nothing is left to be done in a stream.
  [[nodiscard]] virtual bool is_idle(Stream stream) = 0;
  /// Where a function is called that is behind all of it.
  enum class Place : std::uint8_t {
    in_stream,  ///< what the caller enqueues next waits for it
    aside,      ///< that waits only for what is before it; three CUDA calls more
  };
  /// Calls function(argument) behind all of it. `aside` throws Error(Capturing).
  virtual void after(Stream stream, Place place, void (*function)(void*), void* argument) = 0;
  /// What is enqueued between the two is measured, on the device; only while it is traced.
  virtual void mark_begin(Stream) {}
  virtual void mark_end(Stream) {}
  /// How long that took, once; nothing when it has not run, or there is no device.
  [[nodiscard]] virtual std::optional<Duration> measured() { return std::nullopt; }
  /// The error after which nothing enqueued will run; null while all is well.
  [[nodiscard]] virtual const char* broken() = 0;
};

/// One row per parameter: `from` as the source has it, `to` its offset in the slot, `end` not set.
/// Nothing for tied and empty ones.
void append_items(const Layout& layout, std::size_t bucket, std::span<const Source> sources,
                  std::vector<CopyItem>& items);
/// Drops those that are where they are to go, born in `slot`, and sets `end` of the others. Throws
/// Error(InvalidArgument) when one born there is to be cast.
void settle_items(std::vector<CopyItem>& items, std::byte* slot);

[[nodiscard]] std::unique_ptr<Gather> make_host_gather(const Layout& layout, unsigned threads);
/// Only in builds with CUDA.
[[nodiscard]] std::unique_ptr<Gather> make_cuda_gather(const Layout& layout, int device,
                                                       GatherMethod method);

}  // namespace tenon
