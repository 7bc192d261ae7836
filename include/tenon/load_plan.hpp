// Copying versions into storage of one's own, bucket by bucket.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
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

/// Where each parameter goes. Planned once, then given to Subscriber::load() again and again.
///
/// Errors:   into() throws Error(NoSuchParameter), Error(InvalidArgument) for a null destination.
/// Threads:  no locking inside; one load() at a time.
/// Lifetime: the destinations must outlive the plan's last load.
class LoadPlan {
 public:
  explicit LoadPlan(Layout layout)
      : layout_(std::move(layout)),
        copies_(layout_.bucket_count()),
        written_in_(layout_.bucket_count()) {}

  /// Parameter `name` goes to `destination`, which has room for its bytes, contiguous and
  /// row-major. Added after a load, the destinations are `torn` until the next one.
  LoadPlan& into(std::string_view name, void* destination) {
    const Placement place = layout_[layout_.at(name)];
    if (destination == nullptr && place.bytes > 0) {
      throw Error(Errc::InvalidArgument, "the destination of '" + std::string(name) + "' is null");
    }
    copies_[place.bucket].push_back({place.offset, place.bytes, destination});
    written_in_[place.bucket] = 0;  // whatever was loaded before, this part has not arrived
    version_ = 0;
    if (state_ != LoadState::empty) state_ = LoadState::torn;
    return *this;
  }

  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] LoadState state() const noexcept { return state_; }
  /// The version that was last loaded whole; 0 none.
  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }

 private:
  friend class Subscriber;
  struct Copy {
    std::uint64_t offset, bytes;
    void* to;
  };

  /// Versions and `written_in` only compare within one publication instance.
  void bind(const std::array<std::uint8_t, 16>& instance, const Layout& layout) {
    if (layout.hash() != layout_.hash()) {
      throw Error(Errc::InvalidArgument,
                  "this load plan was made for another layout; make one from subscriber.layout()");
    }
    if (instance == instance_) return;
    instance_ = instance;
    forget();
    version_ = 0;
  }
  void forget() noexcept { written_in_.assign(written_in_.size(), 0); }

  /// Copies bucket `b` out of `from`, unless these very bytes were loaded before.
  template <class CopyBytes>
  void load_bucket(std::size_t b, const std::byte* from, std::uint64_t written_in, CopyBytes copy) {
    if (written_in != 0 && written_in == written_in_[b]) return;
    if (copies_[b].empty()) return;
    state_ = LoadState::loading;
    written_in_[b] = 0;
    for (const Copy& c : copies_[b]) {
      if (c.bytes > 0) copy(c.to, from + c.offset, c.bytes);
    }
    written_in_[b] = written_in;
  }
  void complete(std::uint64_t version) noexcept {
    version_ = version;
    state_ = LoadState::loaded;
  }
  /// The version did not arrive whole: if any of it did, the destination is a mix.
  void interrupt() noexcept {
    if (state_ != LoadState::loading) return;
    state_ = LoadState::torn;
    forget();
  }

  Layout layout_;
  std::vector<std::vector<Copy>> copies_;  ///< per bucket
  std::vector<std::uint64_t>
      written_in_;  ///< per bucket: what these destinations hold; 0 nothing known
  std::array<std::uint8_t, 16> instance_{};
  std::uint64_t version_ = 0;
  LoadState state_ = LoadState::empty;
};

}  // namespace tenon
