// Writing a publication: what a trainer includes.
//
//   tenon::Layout layout = tenon::plan(parameters, {.bucket_bytes = 512 << 20});
//   auto pub = tenon::Publisher::create("policy", layout, {.mode = tenon::Mode::double_buffered});
//   pub.publish(sources);                        // one Source per parameter, in layout order
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tenon/detail/stage_recorder.hpp>
#include <tenon/detail/wait.hpp>
#include <tenon/error.hpp>
#include <tenon/inspect.hpp>
#include <tenon/layout.hpp>
#include <tenon/plan.hpp>
#include <tenon/types.hpp>
#include <vector>

namespace tenon {

/// Where the trainer keeps a parameter.
struct Source {
  const void* data = nullptr;  ///< first byte, contiguous and row-major; may be null if its whole
                               ///< bucket is `unchanged`
  /// When it is another than the layout's, the source is cast on the way: f32 to bf16 or f16, bf16
  /// to f32, rounding to nearest even.
  std::optional<Dtype> dtype{};
  std::optional<std::uint64_t> bytes{};  ///< of the source; checked when given
  /// The bytes are those of the newest complete version. A bucket whose parameters are all
  /// unchanged is handed on with no copy (streaming: copied, and skipped by readers that have it).
  bool unchanged = false;
};

/// Where slots are allocated.
struct Memory {
  MemoryKind kind = MemoryKind::host;
  int device = 0;  ///< GPU memory: its ordinal in this process
};
[[nodiscard]] constexpr Memory host() noexcept { return {MemoryKind::host}; }
[[nodiscard]] constexpr Memory cuda(int device) noexcept { return {MemoryKind::cuda, device}; }

/// How a bucket is gathered in GPU memory; the bytes are the same (docs/tuning.md). What is cast
/// always goes through the kernel, what is in host memory through cudaMemcpyAsync.
enum class GatherMethod : std::uint8_t {
  kernel,  ///< Tenon's own, one launch per bucket
  cub,     ///< cub::DeviceMemcpy::Batched, three launches per bucket
  memcpy,  ///< one cudaMemcpyAsync per parameter
};

struct PublisherOptions {
  Memory memory = host();
  Mode mode = Mode::in_place;  ///< streaming with fewer than 3 buckets is published in place
  std::uint32_t slots = 0;     ///< streaming only: 2 to B-1; 0: min(4, B-1)
  std::string label{};         ///< shown to subscribers; up to 63 bytes
  Duration deadline = std::chrono::seconds(10);  ///< for a name that somebody is just clearing away
  bool group = false;    ///< let the process's group subscribe (mode 0660 instead of 0600)
  unsigned threads = 0;  ///< host memory: copying and pre-faulting; 0: one per processor, at most 8
  GatherMethod gather = GatherMethod::kernel;  ///< GPU memory
  /// A checksum of every parameter of every version, for Lease::verify(): one more read of all
  /// bytes. Not when streaming.
  bool checksums = false;
  /// What the slots are filled with comes off a wire: the statistics (docs/observing.md) call that
  /// `receive`, not `gather`.
  bool received = false;
  /// Called while slots are pre-faulted, which is slow on virtual machines: (bytes done, bytes in
  /// all).
  std::function<void(std::uint64_t, std::uint64_t)> progress{};
};

struct PublishOptions {
  /// For subscribers to let go, per version: from begin() to the version's last wait, which when
  /// streaming is that of its last bucket.
  Duration deadline = std::chrono::seconds(30);
  /// Do not begin before this many subscribers are attached (streaming: wait for the version's
  /// start).
  std::uint32_t require = 0;
  /// The version's number (a training step, say), above all earlier ones; 0: the next. Numbers in
  /// between are never seen. When the distance to the current version is even, the two share their
  /// records: double-buffered then also waits, at commit(), for subscribers to let go of that.
  std::uint64_t version = 0;
  /// Called at least every 100 ms of waiting, by the waiting thread. What it throws (an interrupt,
  /// say) ends the wait as a passed deadline does.
  std::function<void()> check{};
  /// At commit(), when the version's number is an even distance from the current one's: for
  /// subscribers to let go of that. A commit() that fails so may be tried again.
  Duration at_commit = std::chrono::seconds(30);
};

struct UnpackedPlan;

/// One publication and the right to write it.
///
/// Units:    versions count from 1; sizes are bytes.
/// GPU memory: publish() and Update enqueue on a stream and return before the copies are made;
/// later work on that stream may overwrite the sources. The version becomes current soon after its
/// last copy has been made, one in which nothing changed at once. wait_current() waits for that;
/// who has synchronized with the stream knows only that the copies are made. Sources in host memory
/// or on another GPU are the exception: publish() then returns when they have been read. A stream
/// is the caller's, or one of Tenon's own, which waits for no other: sources must then be complete.
///
/// Errors:   create: InvalidName, NameInUse, NotYours, OutOfSpace, InvalidArgument, DeadlinePassed;
///           GPU memory: NoDevice, NotShareable, Cuda. publish and begin: InvalidArgument
///           (sources), DeadlinePassed (names who holds what; if no byte was written the previous
///           version stays current), DirtyBucket, ProtocolError, Capturing, Cuda (when the context
///           is broken the publication is closed, and readers told why). All: ForkedChild.
/// Threads:  one thread at a time, except subscribers() and version(), which any thread may call.
/// Lifetime: move-only. The destructor closes the publication and removes its name; mappings that
///           subscribers hold stay valid until they let go: GPU memory is freed when all are
///           detached, and kept (and reported) when one is not within 2 s. In a forked child it
///           does nothing.
class Publisher {
 public:
  class Update;

  /// Takes the name, allocates and pre-faults the slots, and lets subscribers in. A dead
  /// publisher's leftovers under this name are removed (see notes()).
  [[nodiscard]] static Publisher create(std::string_view name, const Layout& layout,
                                        const PublisherOptions& options = {});

  /// The trainer's own allocations are the slots (tenon/unpacked.hpp), in place. They may be
  /// written only between Update::open() and commit(), and freed only after a close() that returned
  /// true.
  [[nodiscard]] static Publisher create(std::string_view name, const UnpackedPlan& plan,
                                        const PublisherOptions& options = {});

  Publisher(Publisher&&) noexcept;
  Publisher& operator=(Publisher&&) noexcept;
  ~Publisher();

  /// One whole version out of `sources`, one per parameter in layout order (a tied one's is
  /// ignored). Returns its number. All or nothing: on an error the version is aborted.
  std::uint64_t publish(std::span<const Source> sources, const PublishOptions& options = {});
  std::uint64_t publish(std::span<const Source> sources, Stream stream,
                        const PublishOptions& options = {});
  /// One version, bucket by bucket. Waits until it may be written.
  [[nodiscard]] Update begin(const PublishOptions& options = {});
  [[nodiscard]] Update begin(Stream stream, const PublishOptions& options = {});

  /// In place only: where parameter `name` lives, for a trainer that keeps it there ("born in the
  /// slot"). Written only between Update::open() of its bucket and commit(). Throws InvalidArgument
  /// in other modes.
  [[nodiscard]] std::byte* storage(std::string_view name);

  /// Number of the newest complete version; 0 none.
  [[nodiscard]] std::uint64_t version() const noexcept;
  /// Waits until the last committed version is current: throws DeadlinePassed, or returns its
  /// number.
  std::uint64_t wait_current(Duration timeout);
  /// Who is attached now, and what each holds.
  [[nodiscard]] std::vector<SubscriberInfo> subscribers() const;
  /// Where the publisher's time goes; a program may add stages of its own making.
  [[nodiscard]] detail::StageRecorder& stages() noexcept;

  [[nodiscard]] const std::string& name() const noexcept;
  [[nodiscard]] const Layout& layout() const noexcept;
  [[nodiscard]] Mode mode()
      const noexcept;  ///< as published; may differ from the one asked for, see notes()
  [[nodiscard]] std::uint64_t slot_bytes() const noexcept;  ///< of all slots together
  /// What create() did beyond what was asked: leftovers removed, mode changed.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept;

  /// Ends the publication: the name goes, waiting subscribers get Closed. Done by the destructor
  /// too. It does not wait for a last version that is committed but whose copies have not been
  /// made: who waits for that one gets Closed too, unless wait_current() was called before. False
  /// when somebody may still be using its GPU memory after 2 s, which is also reported: slots then
  /// stay allocated, and the trainer's own allocations (unpacked) must stay.
  bool close();

 private:
  class Impl;
  explicit Publisher(std::shared_ptr<Impl> impl) noexcept;
  [[nodiscard]] static std::shared_ptr<Impl> share(Impl* impl);
  std::shared_ptr<Impl> impl_;
};

/// A version being written. Every bucket is either put (or opened, written and sealed) or kept,
/// then commit() makes the version current. Streaming: buckets in order, each visible as soon as it
/// is sealed, the last one with commit(). Lifetime: within its publisher's; destruction without
/// commit() aborts.
class Publisher::Update {
 public:
  Update(Update&&) noexcept;
  Update& operator=(Update&&) = delete;
  ~Update();

  [[nodiscard]] std::uint64_t version() const noexcept;
  /// Copies a bucket's parameters: `sources` are those of layout.bucket_parameters(bucket).
  void put(std::size_t bucket, std::span<const Source> sources);
  /// Where the bucket's bytes go, for a caller that writes them itself before seal(): GPU memory in
  /// the order of the version's stream.
  [[nodiscard]] std::byte* open(std::size_t bucket);
  void seal(std::size_t bucket);
  /// The bucket's bytes are those of the newest complete version. Throws DirtyBucket when an
  /// aborted version overwrote them, InvalidArgument when streaming.
  void keep(std::size_t bucket);
  /// Throws IncompleteVersion when a bucket is missing; GPU memory, unless streaming, Capturing
  /// while the stream is being captured. It may then be tried again. Returns the version's number.
  std::uint64_t commit();
  /// Leaves the previous version current when its slots are untouched; else there is none until the
  /// next.
  void abort() noexcept;

 private:
  friend class Publisher;
  explicit Update(std::shared_ptr<Impl> impl) noexcept;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tenon
