// A publication's shared-memory object, found, judged and read. What others wrote in there is
// untrusted: it is copied to private memory first, then checked, and only the copy is used.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/per_process.hpp>
#include <tenon/detail/process.hpp>
#include <tenon/detail/shared_object.hpp>
#include <tenon/error.hpp>
#include <tenon/format.hpp>
#include <tenon/layout.hpp>
#include <tenon/name.hpp>
#include <utility>
#include <vector>

namespace tenon {

/// What stands under a name. Only `ready` can be attached to; the rest is "not yet" or "never".
enum class Attach {
  absent,         ///< nothing
  starting,       ///< a publisher is creating it
  ready,          ///< a live publisher serves it
  stale,          ///< left behind by a dead publisher, or closed
  wrong_version,  ///< written by a Tenon with another format
  not_yours,      ///< another user's, or not a regular file
};
[[nodiscard]] constexpr const char* name_of(Attach state) noexcept {
  switch (state) {
    case Attach::absent:
      return "absent";
    case Attach::starting:
      return "starting";
    case Attach::ready:
      return "ready";
    case Attach::stale:
      return "stale";
    case Attach::wrong_version:
      return "wrong-version";
    case Attach::not_yours:
      return "not-yours";
  }
  return "unknown";
}

namespace detail {

/// The fixed part of a header, copied and checked.
struct Facts {
  std::array<std::uint8_t, 16> instance{};
  std::array<std::uint8_t, 16> device_uuid{};
  std::uint32_t driver_version = 0;
  std::uint32_t runtime_version = 0;
  format::Process publisher{};
  MemoryKind memory = MemoryKind::host;
  Mode mode = Mode::in_place;
  std::uint64_t buckets = 0;
  std::uint64_t slots = 0;
  std::uint64_t log_entries = 0;
  std::uint64_t layout_bytes = 0;
  std::uint64_t layout_hash = 0;
  std::uint64_t created_at = 0;
  std::string label;
  Uid owner = 0;
  std::uint64_t checksum_bytes = 0;
  std::uint64_t statistics_at = 0;  ///< inside the object, behind the sections; 0 none
  format::Sections sections{0, 0, 0};
};

/// Text that somebody else wrote: cut at the first NUL, anything unprintable shown as '?'.
template <std::size_t N>
[[nodiscard]] std::string clean_text(const char (&raw)[N]) {
  std::string text(raw, ::strnlen(raw, N));
  for (char& c : text) c = c < ' ' || c > '~' ? '?' : c;
  return text;
}

/// The process recorded in a row.
[[nodiscard]] inline format::Process owner_of(const format::Place& row) noexcept {
  // The caller loaded the row's state with acquire; a mixture of two owners is judged by the lock,
  // which is asked next.
  return load_owner(row.owner);
}

/// One entry of the log, copied.
struct Record {
  std::uint64_t version = 0;
  std::uint32_t bucket = 0;
  std::uint32_t slot = 0;
  std::uint64_t written_in = 0;
};

/// The bytes of a publication whose header was judged: read and checked, nothing else. Pure, which
/// is how they are fuzzed.
class SegmentBytes {
 public:
  /// `first` is the first byte of an object of at least facts.sections.end bytes.
  SegmentBytes(std::byte* first, Facts facts) : first_(first), facts_(std::move(facts)) {}

  [[nodiscard]] const Facts& facts() const noexcept { return facts_; }
  [[nodiscard]] format::Header& header() const noexcept { return *at<format::Header>(0); }
  [[nodiscard]] format::Place& place(std::size_t i) const noexcept {
    return at<format::Place>(facts_.sections.places)[i];
  }
  [[nodiscard]] format::Entry& entry(std::uint64_t record) const noexcept {
    return at<format::Entry>(facts_.sections.log)[record % facts_.log_entries];
  }
  [[nodiscard]] format::Slot& raw_slot(std::uint64_t i) const noexcept {
    return at<format::Slot>(facts_.sections.slots)[i];
  }
  [[nodiscard]] std::byte* raw_layout() const noexcept { return first_ + facts_.sections.layout; }
  /// Number `i` of the checksums; there are facts().checksum_bytes / 8.
  [[nodiscard]] format::Word64& checksum(std::uint64_t i) const noexcept {
    return at<format::Word64>(facts_.sections.checksums)[i];
  }

  /// Block `i` of the statistics, 0 to 64; null when there are none.
  [[nodiscard]] format::StageBlock* stages(std::size_t i) const noexcept {
    return facts_.statistics_at == 0 ? nullptr : at<format::StageBlock>(facts_.statistics_at) + i;
  }

  /// Slot i, copied and checked against the largest bucket that must fit into it.
  [[nodiscard]] format::Slot slot(std::uint64_t i, std::uint64_t needed) const {
    format::Slot s;
    std::memcpy(&s, &raw_slot(i), sizeof(s));
    const auto kind = facts_.memory == MemoryKind::host ? format::HandleKind::shm_object
                                                        : format::HandleKind::cuda_ipc;
    check_field(s.handle_kind == static_cast<std::uint32_t>(kind), "slot.handle_kind",
                s.handle_kind, "the handle kind of the memory kind");
    check_field(s.allocation < format::kMaxSlots, "slot.allocation", s.allocation, "below 2^21");
    check_field(s.bytes >= needed && s.bytes <= 2 * format::kMaxBucketBytes, "slot.bytes", s.bytes,
                "at least its bucket's bytes");
    check_field(s.offset % format::kAlignment == 0, "slot.offset", s.offset, "a multiple of 256");
    check_field(s.offset <= s.mapped_bytes && s.bytes <= s.mapped_bytes - s.offset, "slot.offset",
                s.offset, "a place inside what its handle opens");
    return s;
  }

  /// Start of the newest complete version; 0 none.
  [[nodiscard]] std::uint64_t current() const {
    // acquire: pairs with the store behind the last gather; records and bytes of it are visible.
    const std::uint64_t c = header().current.load(std::memory_order_acquire);
    const std::uint64_t version = format::version_of(c, facts_.buckets);
    check_field(c == 0 || format::start_of(version, facts_.buckets) == c, "current", c,
                "the start of a version");
    check_field(c <= format::kMaxRecord, "current", c, "at most 2^62");
    return c;
  }

  /// Record n, which a pin keeps from changing; the number it carries is checked as a defence.
  [[nodiscard]] Record record(std::uint64_t n) const {
    const format::Entry& e = entry(n);
    // acquire, and the fence below: a seqlock; the fields are read between two looks at the number.
    const std::uint64_t before = e.number.load(std::memory_order_acquire);
    const Record r{e.version.load(std::memory_order_relaxed),
                   e.bucket.load(std::memory_order_relaxed), e.slot.load(std::memory_order_relaxed),
                   e.written_in.load(std::memory_order_relaxed)};
    std::atomic_thread_fence(
        std::memory_order_acquire);  // the fields above are read before the number below
    const std::uint64_t after = e.number.load(std::memory_order_relaxed);
    check_field(before == n && after == n, "log entry.number", after, "the record asked for");
    check_field(r.version == format::version_of(n, facts_.buckets), "log entry.version", r.version,
                "that of its number");
    check_field(r.bucket == (n - 1) % facts_.buckets, "log entry.bucket", r.bucket,
                "the bucket of its number");
    check_field(r.slot < facts_.slots &&
                    (facts_.mode == Mode::streaming ? r.slot == n % facts_.slots
                                                    : r.slot % facts_.buckets == r.bucket),
                "log entry.slot", r.slot, "a slot of its bucket");
    return r;
  }
  /// The layout, copied and checked, as parsed from this very segment.
  [[nodiscard]] Layout parse_layout() const;
  /// Whether a layout of that hash and size fits the rest of the segment.
  void check_fits(const Layout& layout) const;

 private:
  template <class T>
  [[nodiscard]] T* at(std::uint64_t offset) const noexcept {
    return reinterpret_cast<T*>(first_ + offset);
  }

  std::byte* first_;
  Facts facts_;
};

/// The mapped object of one publication. Writable or not as it was opened.
class Segment : public SegmentBytes {
 public:
  Segment(SharedObject object, Facts facts)
      : SegmentBytes(object.data(), std::move(facts)), object_(std::move(object)) {}

  [[nodiscard]] const SharedObject& object() const noexcept { return object_; }
  /// Also while a cleaner holds the lock that was the publisher's.
  [[nodiscard]] bool publisher_dead() const noexcept {
    return is_known_gone(facts().publisher) ||
           is_dead(object_.fd(), format::kPublisherByte, facts().publisher);
  }
  /// The layout, from this process's cache when it has been read before.
  [[nodiscard]] Layout layout() const;

 private:
  SharedObject object_;
};

/// Layouts this process has read, by hash: attaching again parses nothing.
struct LayoutCache {
  static constexpr std::size_t kKept = 4;
  std::mutex mutex;
  std::list<Layout> recent;

  std::optional<Layout> find(std::uint64_t hash, std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    for (const Layout& layout : recent) {
      if (layout.hash() == hash && layout.bytes().second == bytes) return layout;
    }
    return std::nullopt;
  }
  void keep(const Layout& layout) {
    const std::lock_guard lock(mutex);
    recent.push_front(layout);
    if (recent.size() > kKept) recent.pop_back();
  }
};

inline Layout SegmentBytes::parse_layout() const {
  format::LayoutHeader counts;
  std::memcpy(&counts, raw_layout(), sizeof(counts));
  Layout::check_counts(counts, facts_.layout_bytes);  // before as much as it claims is allocated
  Block copy = allocate_block(facts_.layout_bytes);
  std::memcpy(copy.get(), raw_layout(), facts_.layout_bytes);
  Layout layout = Layout::parse(std::move(copy), facts_.layout_bytes);
  check_field(layout.hash() == facts_.layout_hash, "layout_hash", facts_.layout_hash,
              "the hash of the layout's bytes");
  check_fits(layout);
  return layout;
}

inline void SegmentBytes::check_fits(const Layout& layout) const {
  check_field(layout.bucket_count() == facts_.buckets, "bucket_count", facts_.buckets,
              "that of its layout");
  const std::uint64_t all = facts_.slots / facts_.buckets * layout.size() * sizeof(std::uint64_t);
  check_field(facts_.checksum_bytes == 0 || facts_.checksum_bytes == all, "checksum_bytes",
              facts_.checksum_bytes, "0, or 8 for each parameter and set of slots");
}

inline Layout Segment::layout() const {
  if (auto known = per_process<LayoutCache>().find(facts().layout_hash, facts().layout_bytes)) {
    check_fits(*known);
    return *known;
  }
  // Before as much as it claims is allocated. A publisher allocates every page of its object; a
  // hole would cost its writer nothing.
  const auto backed = static_cast<std::uint64_t>(object_.status().st_blocks) * 512;
  check_field(backed >= facts().sections.end, "object's allocated size", backed,
              "at least total_bytes");
  Layout layout = parse_layout();
  per_process<LayoutCache>().keep(layout);
  return layout;
}

/// Copies and checks the fixed part of a header that says `ready`.
[[nodiscard]] inline Facts read_facts(const format::Header& h, std::uint64_t object_bytes,
                                      Uid owner) {
  Facts f;
  std::memcpy(f.instance.data(), h.instance, sizeof(h.instance));
  std::memcpy(f.device_uuid.data(), h.device_uuid, sizeof(h.device_uuid));
  f.driver_version = h.driver_version;
  f.runtime_version = h.runtime_version;
  f.publisher = h.publisher;
  f.created_at = h.created_at;
  f.label = clean_text(h.label);
  f.owner = owner;
  const std::uint32_t kind = h.memory_kind;
  const std::uint32_t mode = h.mode;
  f.buckets = h.bucket_count;
  f.slots = h.slot_count;
  f.log_entries = h.log_entries;
  f.layout_bytes = h.layout_bytes;
  f.layout_hash = h.layout_hash;
  const std::uint64_t total = h.total_bytes;
  check_field(is_memory_kind(kind), "memory_kind", kind, "1 (host) or 2 (cuda)");
  check_field(is_mode(mode), "mode", mode, "1 to 3");
  f.memory = static_cast<MemoryKind>(kind);
  f.mode = static_cast<Mode>(mode);
  const bool streaming = f.mode == Mode::streaming;
  check_field(f.buckets >= 1 && f.buckets <= format::kMaxBuckets, "bucket_count", f.buckets,
              "1 to 2^20");
  check_field(streaming ? f.slots >= 2 && f.slots < f.buckets
                        : f.slots == f.buckets * (f.mode == Mode::double_buffered ? 2 : 1),
              "slot_count", f.slots, "the number its mode asks for");
  check_field(f.log_entries == (streaming ? f.slots : 2 * f.buckets), "log_entries", f.log_entries,
              "the number its mode asks for");
  check_field(f.layout_bytes >= sizeof(format::LayoutHeader) && f.layout_bytes <= object_bytes,
              "layout_bytes", f.layout_bytes, "at most the object's size");
  f.checksum_bytes = h.checksum_bytes;
  check_field(f.checksum_bytes <= object_bytes && (!streaming || f.checksum_bytes == 0),
              "checksum_bytes", f.checksum_bytes, "at most the object's size, 0 when streaming");
  f.sections = format::Sections(f.slots, f.log_entries, f.layout_bytes, f.checksum_bytes);
  check_field(total == f.sections.end && total <= object_bytes, "total_bytes", total,
              "the sum of its sections, and the object's size");
  // Only for people, so what cannot be counts as none. Behind the sections: who writes its own
  // block must not write over anything else.
  const std::uint64_t at = h.statistics_at;
  const bool fits = at % alignof(format::StageBlock) == 0 && at >= total && at <= object_bytes &&
                    object_bytes - at >= format::kStatisticsBytes;
  f.statistics_at = fits ? at : 0;
  return f;
}

/// How far a header can be believed.
enum class Verdict {
  unfinished,    ///< its publisher had not come to the end when it was last written
  other_format,  ///< only `major`, `minor` and `struct_hash` mean anything
  ready,         ///< read_facts() may be asked
  closed,        ///< that too
};
/// Throws Error(BadFormat) for something that cannot be a publication.
[[nodiscard]] inline Verdict judge_header(const format::Header& h) {
  // acquire: pairs with sign(); versions and sizes lie behind it.
  const std::uint64_t magic = h.magic.load(std::memory_order_acquire);
  if (magic == 0) return Verdict::unfinished;
  check_field(magic == format::kMagic, "magic", magic, "that of Tenon");
  if (h.major != format::kMajor || h.struct_hash != format::struct_hash())
    return Verdict::other_format;
  // acquire: everything the publisher wrote before it stored `ready` is visible behind this load.
  const std::uint32_t state = h.state.load(std::memory_order_acquire);
  if (state == static_cast<std::uint32_t>(format::State::initialising)) return Verdict::unfinished;
  check_field(state <= static_cast<std::uint32_t>(format::State::closed), "state", state, "0 to 2");
  return state == static_cast<std::uint32_t>(format::State::ready) ? Verdict::ready
                                                                   : Verdict::closed;
}

/// What stands under a name, and the segment when it is ready.
struct Found {
  Attach state = Attach::absent;
  std::string why;  ///< for people: what is the matter
  std::optional<Segment> segment{};
};

[[nodiscard]] inline Found judge(SharedObject object, Uid owner) {
  const std::string path = "/dev/shm/" + object.name();
  const struct ::stat st = object.status();
  if (st.st_uid != owner) {
    return {Attach::not_yours, path + " belongs to uid " + std::to_string(st.st_uid) +
                                   ", not to uid " + std::to_string(owner)};
  }
  if ((st.st_mode & S_IWOTH) != 0) {
    return {Attach::not_yours, path + " has mode " + mode_text(st.st_mode) +
                                   ": everybody can write it, so nobody knows who did; Tenon makes "
                                   "0600 or 0660"};
  }
  const bool claimed = is_locked_by_other(object.fd(), format::kPublisherByte);
  const auto unfinished = [&](const std::string& why) {
    return claimed ? Found{Attach::starting, path + " is being created"}
                   : Found{Attach::stale, path + " " + why};
  };
  const auto bytes = static_cast<std::uint64_t>(st.st_size);
  if (bytes < sizeof(format::Header)) {
    return unfinished("is " + std::to_string(bytes) +
                      " bytes long, shorter than a header (1024), and nobody is writing it");
  }
  object.map(bytes);
  const auto& header = *reinterpret_cast<const format::Header*>(object.data());
  const Verdict verdict = judge_header(header);
  if (verdict == Verdict::unfinished) return unfinished("was left behind half created");
  if (verdict == Verdict::other_format) {
    return {Attach::wrong_version, path + " has format " + std::to_string(header.major) + "." +
                                       std::to_string(header.minor) + " (struct hash " +
                                       std::to_string(header.struct_hash) +
                                       "), this program reads " + std::to_string(format::kMajor) +
                                       ".x (struct hash " + std::to_string(format::struct_hash()) +
                                       "): use the same version of Tenon on both sides"};
  }
  Segment segment(std::move(object), read_facts(header, bytes, owner));
  if (verdict == Verdict::closed) return {Attach::stale, path + " was closed by its publisher"};
  const std::string pid = std::to_string(segment.facts().publisher.pid);
  if (segment.publisher_dead()) {
    return {Attach::stale, path + " was left behind by process " + pid + ", which is gone",
            std::move(segment)};
  }
  return {Attach::ready, "published by process " + pid, std::move(segment)};
}

/// Looks `name` up. Throws Error(BadFormat) for something that cannot be a publication.
[[nodiscard]] inline Found find_publication(std::string_view name, Uid owner,
                                            SharedObject::Access access) {
  check_name(name);
  const std::string object_name = publication_object(owner, name);
  try {
    std::optional<SharedObject> object = SharedObject::open(object_name, access);
    if (!object) return {Attach::absent, "there is no /dev/shm/" + object_name};
    return judge(std::move(*object), owner);
  } catch (const SystemError& e) {
    if (e.error() == EACCES || e.error() == EPERM) {
      // While it is being created an object has mode 0200: nobody but root can read it yet.
      struct ::stat st {};
      const bool creating = ::lstat(("/dev/shm/" + object_name).c_str(), &st) == 0 &&
                            st.st_uid == owner && (st.st_mode & 0777U) == 0200;
      if (creating) return {Attach::starting, "/dev/shm/" + object_name + " is being created"};
      return {Attach::not_yours, e.message()};
    }
    throw;
  } catch (const Error& e) {
    if (e.code() == Errc::NotYours) return {Attach::not_yours, e.message()};
    throw;
  }
}

}  // namespace detail
}  // namespace tenon
