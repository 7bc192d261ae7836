// Copying versions into storage of one's own, bucket by bucket.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/keep.hpp>
#include <tenon/detail/memory.hpp>
#include <tenon/layout.hpp>
#include <utility>
#include <vector>

namespace tenon {

/// What the destination of a load holds. Nothing should be served while it is `loading` or `torn`.
enum class LoadState {
  empty,    ///< nothing was loaded yet
  loading,  ///< a version is arriving: some buckets are new, some old
  loaded,   ///< one whole version
  torn,     ///< an arrival ended half-way; whole again when a later version has arrived completely
};
[[nodiscard]] constexpr const char* name_of(LoadState state) noexcept {
  switch (state) {
    case LoadState::empty:
      return "empty";
    case LoadState::loading:
      return "loading";
    case LoadState::loaded:
      return "loaded";
    case LoadState::torn:
      return "torn";
  }
  return "unknown";
}

/// Part `rank` of `of` equal parts along dimension `dim`.
struct Slice {
  std::uint32_t dim = 0;
  std::uint32_t rank = 0;
  std::uint32_t of = 1;
};

/// How a destination is made of parameters.
struct Into {
  std::vector<std::string> parts{};  ///< in their order in the destination; empty: the parameter of
                                     ///< the destination's name
  std::uint32_t dim = 0;             ///< along which several parts lie one behind another
  std::optional<Dtype> dtype{};      ///< of the destination; default: that of the parts
};

/// One destination of a load plan.
struct LoadTarget {
  std::string
      name;  ///< empty: that of its one part, for a plan of 18,867 names need not repeat them
  std::vector<std::size_t> parts;  ///< parameters, as indices into the layout; at least one
  std::uint32_t fuse_dim = 0;
  std::optional<Slice> slice{};  ///< taken of each part before they are put together
  std::optional<Dtype> dtype{};
  std::byte* to = nullptr;  ///< contiguous and row-major; aligned to its elements when cast
};

namespace detail {

/// Where slots are, for this process.
struct SlotsAt {
  MemoryKind memory = MemoryKind::host;
  int device = 0;  ///< ordinal here of the GPU under which they are open
  [[nodiscard]] bool operator!=(const SlotsAt& other) const noexcept {
    return memory != other.memory || device != other.device;
  }
};

/// Copies buckets to the targets of a plan: slices, several parts, casts. In tenon::tenon.
class BulkCopy {
 public:
  virtual ~BulkCopy() = default;
  /// Host memory: done on return; else one launch, enqueued on `stream`.
  virtual void copy(std::size_t bucket, const std::byte* from, Stream stream) = 0;
};
[[nodiscard]] std::shared_ptr<BulkCopy> make_bulk_copy(const Layout& layout,
                                                       const std::vector<LoadTarget>& targets,
                                                       SlotsAt slots);
/// Throws Error(InvalidArgument) when the parts do not fit together as asked.
void check_target(const Layout& layout, const LoadTarget& target);

}  // namespace detail

/// Where each parameter goes. Planned once, then given to Subscriber::load() again and again.
///
///   auto plan = tenon::LoadPlan(sub.layout())
///                   .into("qkv", qkv, {.parts = {"q", "k", "v"}}).slice(/*dim*/ 0, rank, of);
///
/// A plan whose destinations are all whole parameters needs only the headers. Slices, several parts
/// and casts need tenon::tenon; such a plan copies each bucket with one call, in GPU memory one
/// kernel.
///
/// Errors:   into() and slice() throw Error(NoSuchParameter), Error(InvalidArgument) for a null
///           destination or parts that do not fit together.
/// Threads:  no locking inside; one load() at a time.
/// Lifetime: the destinations must outlive the plan's last load.
class LoadPlan {
 public:
  explicit LoadPlan(Layout layout)
      : layout_(std::move(layout)),
        written_in_(layout_.bucket_count()),
        arrived_(layout_.bucket_count()) {
    targets_.reserve(layout_.size());  // growing would leave holes; what stays unused costs nothing
  }

  /// Parameter `name` goes to `destination`, which has room for its bytes, contiguous and
  /// row-major. Added after a load, the destinations are `torn` until the next one.
  LoadPlan& into(std::string_view name, void* destination) {
    const std::size_t i = layout_.at(name);
    if (destination == nullptr && layout_[i].bytes > 0) {
      throw Error(Errc::InvalidArgument, "the destination of '" + std::string(name) + "' is null");
    }
    return add({{}, {i}, 0, {}, {}, static_cast<std::byte*>(destination)});
  }
  /// A destination of one or several parameters, cast on the way if asked. `name` is for
  /// arrived() and, without `how.parts`, the parameter.
  LoadPlan& into(std::string_view name, void* destination, const Into& how) {
    LoadTarget target{
        std::string(name), {}, how.dim, {}, how.dtype, static_cast<std::byte*>(destination)};
    if (name.empty()) throw Error(Errc::InvalidArgument, "a destination needs a name");
    for (const std::string& part : how.parts) target.parts.push_back(layout_.at(part));
    if (how.parts.empty()) target.parts.push_back(layout_.at(name));
    detail::check_target(layout_, target);
    make_bulk_ = detail::make_bulk_copy;
    return add(std::move(target));
  }
  /// Of the destination named last: only this part of each of its parameters, as a tensor-parallel
  /// rank keeps it.
  LoadPlan& slice(std::uint32_t dim, std::uint32_t rank, std::uint32_t of) {
    if (targets_.empty()) throw Error(Errc::InvalidArgument, "slice() before any into()");
    LoadTarget target = targets_.back();
    target.slice = Slice{dim, rank, of};
    detail::check_target(layout_, target);
    make_bulk_ = detail::make_bulk_copy;
    targets_.pop_back();
    return add(std::move(target));
  }

  /// The destinations no longer hold what was loaded (an engine quantised them in place, or gave
  /// their memory to somebody else): the next load copies every bucket, changed or not.
  void invalidate() noexcept {
    forget();
    arrived_.assign(arrived_.size(), 0);
    version_ = 0;
    state_ = LoadState::empty;
  }

  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] LoadState state() const noexcept { return state_; }
  /// The version that was last loaded whole; 0 none.
  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  /// The version that all parts of a destination are of; 0 when some have not arrived, or are of
  /// different versions (after an interrupted load). Throws Error(InvalidArgument) for an unknown
  /// one.
  [[nodiscard]] std::uint64_t arrived(std::string_view destination) const {
    for (const LoadTarget& target : targets_) {
      const std::string_view name =
          target.name.empty() ? layout_[target.parts[0]].name : std::string_view(target.name);
      if (name != destination) continue;
      const std::uint64_t version = arrived_[layout_[target.parts[0]].bucket];
      for (const std::size_t part : target.parts)
        if (arrived_[layout_[part].bucket] != version) return 0;
      return version;
    }
    throw Error(Errc::InvalidArgument,
                "this load plan has no destination '" + std::string(destination) + "'");
  }

 private:
  friend class Subscriber;

  LoadPlan& add(LoadTarget target) {
    for (const std::size_t part : target.parts) {
      const std::uint32_t bucket = layout_[part].bucket;
      written_in_[bucket] = 0;  // whatever was loaded before, this part has not arrived
      arrived_[bucket] = 0;
    }
    version_ = 0;
    if (state_ != LoadState::empty) state_ = LoadState::torn;
    targets_.push_back(std::move(target));
    bulk_.reset();
    bytes_.clear();
    batches_.clear();
    return *this;
  }

  /// Versions and `written_in` only compare within one publication instance.
  void bind(const std::array<std::uint8_t, 16>& instance, const Layout& layout,
            detail::SlotsAt slots) {
    if (layout.hash() != layout_.hash()) {
      throw Error(Errc::InvalidArgument,
                  "this load plan was made for another layout; make one from subscriber.layout()");
    }
    if (make_bulk_ != nullptr && (!bulk_ || slots != slots_))
      bulk_ = make_bulk_(layout_, targets_, slots);
    if (make_bulk_ == nullptr && batches_.empty()) make_batches();
    if (bytes_.empty()) sum_bytes();
    copied_ = 0;
    slots_ = slots;
    if (instance == instance_) return;
    instance_ = instance;
    forget();
    arrived_.assign(arrived_.size(), 0);
    version_ = 0;
  }
  // What a load of each bucket reads.
  void sum_bytes() {
    bytes_.assign(layout_.bucket_count(), 0);
    for (const LoadTarget& target : targets_)
      for (const std::size_t part : target.parts)
        bytes_[layout_[part].bucket] +=
            layout_[part].bytes / (target.slice ? std::max(target.slice->of, 1U) : 1U);
  }
  void make_batches() {
    batches_.resize(layout_.bucket_count());
    for (const LoadTarget& target : targets_) {
      const Placement place = layout_[target.parts[0]];
      if (place.bytes == 0) continue;
      detail::CopyBatch& batch = batches_[place.bucket];
      batch.to.push_back(target.to);
      batch.offset.push_back(place.offset);
      batch.bytes.push_back(place.bytes);
    }
  }
  void forget() noexcept { written_in_.assign(written_in_.size(), 0); }

  /// Copies (device memory: enqueues) bucket `b` out of `from`, unless these very bytes were loaded
  /// before.
  void load_bucket(std::size_t b, std::uint64_t version, std::uint64_t written_in,
                   const std::byte* from, Stream stream) {
    if (written_in == 0 || written_in != written_in_[b]) {
      state_ = LoadState::loading;
      written_in_[b] = 0;
      arrived_[b] = 0;
      if (bulk_) {
        bulk_->copy(b, from, stream);
      } else {
        detail::ops_for(slots_.memory).copy(batches_[b], from, stream, slots_.device);
      }
      written_in_[b] = written_in;
      copied_ += bytes_[b];
    }
    arrived_[b] = version;
  }
  void complete(std::uint64_t version) noexcept {
    version_ = version;
    state_ = LoadState::loaded;
  }
  /// The version did not arrive whole: if any of it did, the destination is a mix. `unfinished`:
  /// copies may not have been made, so nothing is known of any destination, and what they read
  /// stays.
  void interrupt(bool unfinished) noexcept {
    if (state_ != LoadState::loading) return;
    state_ = LoadState::torn;
    forget();
    if (!unfinished) return;
    arrived_.assign(arrived_.size(), 0);
    if (bulk_) detail::keep_for_ever(std::move(bulk_));
  }

  Layout layout_;
  std::vector<LoadTarget> targets_;
  decltype(&detail::make_bulk_copy) make_bulk_ = nullptr;  ///< set when contiguous copies won't do
  std::shared_ptr<detail::BulkCopy> bulk_;
  std::vector<detail::CopyBatch> batches_;  ///< per bucket, when there is no bulk_
  detail::SlotsAt slots_;
  std::vector<std::uint64_t>
      written_in_;  ///< per bucket: what these destinations hold; 0 nothing known
  std::vector<std::uint64_t> arrived_;  ///< per bucket: the version its parts are of; 0 unknown
  std::vector<std::uint64_t> bytes_;    ///< per bucket: what a load of it reads
  std::uint64_t copied_ = 0;            ///< bytes, in the load under way
  std::array<std::uint8_t, 16> instance_{};
  std::uint64_t version_ = 0;
  LoadState state_ = LoadState::empty;
};

}  // namespace tenon
