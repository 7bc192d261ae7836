// The byte format of a publication: one POSIX shared-memory object, /dev/shm/tenon.<uid>.<name>.
//
// clang-format off
//   0      ┌──────────────────────────────────────────────────────────────┐
//          │ Header      identity, counts            (fixed once ready)   │
//          │             state · current · completed · oldest · wake words│
//   1024   ├──────────────────────────────────────────────────────────────┤
//          │ Place [64]  × 256   one row per subscriber                   │
//   17408  ├──────────────────────────────────────────────────────────────┤
//          │ Slot  [S]   × 128   where the bytes are          (fixed)     │
//          ├──────────────────────────────────────────────────────────────┤
//          │ Entry [R]   × 64    the log                                  │
//          ├──────────────────────────────────────────────────────────────┤
//          │ Layout      parameters, buckets, names, index    (fixed)     │  see layout.hpp
//          ├──────────────────────────────────────────────────────────────┤
//          │ Checksums   S/B × N × 8, if the publisher takes them         │
//   total  ├──────────────────────────────────────────────────────────────┤
//          │ Statistics  65 × 4096, at statistics_at, a multiple of 64    │
//          └──────────────────────────────────────────────────────────────┘
// clang-format on
//
// Byte i of the object is locked by the owner of place i, byte 64 by the publisher: file locks die
// with their holder.
//
// Every word that changes after `state = ready` has one writer (Header, Entry: the publisher; Place
// i: its owner), except the two wake words, which are only ever touched by read-modify-write. There
// is no lock and no pointer in here. docs/format.md has the same picture, the version policy and a
// worked example; docs/protocol.md the order in which the words are written and why.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <tenon/detail/hash.hpp>
#include <tenon/layout.hpp>
#include <tenon/types.hpp>
#include <type_traits>

namespace tenon::format {

inline constexpr std::uint64_t kMagic = 0x01004E4F4E45541DU;  // 1D "TENON" 00 01
inline constexpr std::uint32_t kMajor = 1;                    ///< another major is refused
inline constexpr std::uint32_t kMinor = 2;  ///< a higher minor only uses reserved bytes
inline constexpr std::uint32_t kPlaces = 64;
inline constexpr std::uint32_t kPublisherByte =
    64;  ///< the byte whose lock is the publisher's claim
inline constexpr std::uint64_t kSlotGranularity =
    2U << 20U;  ///< slots are whole 2 MiB blocks, as CUDA IPC shares them
inline constexpr std::uint64_t kMaxSlots = 2 * kMaxBuckets;
inline constexpr std::uint64_t kIdle = ~std::uint64_t{0};  ///< a cursor that gates nothing
inline constexpr std::size_t kLabelBytes = 64;             ///< kMaxLabelBytes and a NUL

using Word32 = std::atomic<std::uint32_t>;
using Word64 = std::atomic<std::uint64_t>;
static_assert(Word32::is_always_lock_free && Word64::is_always_lock_free);
static_assert(sizeof(Word32) == 4 && sizeof(Word64) == 8);

/// Who a process is, beyond its pid: pids are reused, and mean nothing in another namespace.
struct Process {
  std::uint32_t pid;
  std::uint32_t reserved;
  std::uint64_t start_time;     ///< clock ticks since boot: field 22 of /proc/PID/stat; 0 unknown
  std::uint64_t pid_namespace;  ///< inode of /proc/self/ns/pid; 0 unknown
};

/// The same, in a row that changes hands while others look.
struct OwnerWords {
  Word32 pid;
  Word32 reserved;
  Word64 start_time;
  Word64 pid_namespace;
};

enum class State : std::uint32_t { initialising = 0, ready = 1, closed = 2 };
enum class ClosedReason : std::uint32_t { by_publisher = 0, device_error = 1 };
enum class PlaceState : std::uint32_t { free = 0, attached = 1, failed = 2 };

/// A futex word and how many wait on it. Waiters that died leave the count too high: one spare
/// wake.
struct WakeWord {
  Word32 word;
  Word32 waiters;
};

struct Header {
  // Written before `state` becomes ready, never again.
  Word64 magic;
  std::uint32_t major;
  std::uint32_t minor;
  std::uint64_t struct_hash;  ///< kStructHash of the writer
  std::uint64_t total_bytes;  ///< of this object
  std::uint8_t instance[16];  ///< random, new for every publication
  Process publisher;
  std::uint8_t boot_id[16];
  std::uint32_t memory_kind;
  std::uint32_t mode;
  std::uint8_t device_uuid[16];
  std::uint32_t driver_version;  ///< of CUDA; 0 for host memory
  std::uint32_t runtime_version;
  std::uint64_t bucket_count;  ///< B
  std::uint64_t slot_count;    ///< B in place, 2B double-buffered, K streaming
  std::uint64_t log_entries;   ///< R: 2B, or K streaming
  std::uint64_t layout_bytes;
  std::uint64_t layout_hash;
  char label[kLabelBytes];       ///< the publisher's, for people; NUL-padded
  std::uint64_t created_at;      ///< CLOCK_REALTIME, nanoseconds
  std::uint64_t checksum_bytes;  ///< since 1.1: of the checksums section; 0 none
  std::uint64_t statistics_at;   ///< since 1.2: where 65 StageBlocks begin; 0 none
  std::uint8_t reserved[240];

  // Words that change. Each group has a cache line of its own.
  alignas(64) Word32 state;
  Word32 closed_reason;          ///< ClosedReason
  alignas(64) Word64 current;    ///< start of the newest complete version; 0 none
  Word64 completed;              ///< streaming: every gather up to this record has finished
  Word64 oldest;                 ///< the retire line: nothing below may be newly pinned
  Word64 published_at;           ///< CLOCK_MONOTONIC ns when `current` was stored; for people
  alignas(64) WakeWord wake;     ///< subscribers wait here
  alignas(64) WakeWord release;  ///< the publisher waits here
  alignas(64) std::uint8_t reserved_words[256];  ///< for announced, evicted, ready events
};

struct Place {
  alignas(64) Word64 cursor;  ///< kIdle, or the lowest record start this place still holds
  Word32 state;               ///< PlaceState
  std::uint32_t reserved0;
  Word64 pinned_at;  ///< CLOCK_MONOTONIC ns when what the cursor stands at was taken; for people
  Word64 loaded_version;  ///< newest version acquired or loaded here; for people
  alignas(64) OwnerWords owner;
  char label[kLabelBytes];
  std::uint8_t reserved[104];
};

enum class HandleKind : std::uint32_t { shm_object = 1, cuda_ipc = 2 };

struct Slot {
  std::uint32_t handle_kind;
  std::uint32_t allocation;  ///< what the handle opens; slots with the same number share it
  std::uint8_t handle[64];  ///< cudaIpcMemHandle_t; unused for shared memory, whose name is derived
  std::uint64_t offset;     ///< of the slot in its allocation
  std::uint64_t bytes;  ///< of the slot; a multiple of kSlotGranularity unless it is the trainer's
  std::uint64_t mapped_bytes;  ///< of its allocation
  std::uint64_t reserved[4];
};

/// One record: "bucket b of version v is in slot s". Record n is at entry n mod R. The writer
/// stores number = 0, then the fields, then number = n; a reader checks the number before and
/// after.
struct Entry {
  Word64 number;
  Word64 version;
  Word32 bucket;
  Word32 slot;
  Word64 written_in;  ///< the version whose publish wrote these bytes
  Word64 checksum;    ///< of the bucket; 0 when none was computed
  std::uint64_t reserved[3];
};

/// What the time of a step goes to. docs/observing.md says from which call to which.
enum class Stage : std::uint32_t {
  wait_for_slots = 0,  ///< publisher: until nobody is behind the line
  gather = 1,          ///< publisher: until every byte of the version is in place
  publish = 2,         ///< publisher: until `current` is stored
  wake = 3,            ///< publisher: the wake behind it
  receive = 4,         ///< publisher of a relay: a version off the wire
  wait_for_ready = 5,  ///< subscriber: until there is a version that was asked for
  hold = 6,            ///< subscriber: from taking a version to its last lease's end
  load = 7,            ///< subscriber: copies into its own storage
  verify = 8,          ///< subscriber: checksums
  release = 9,         ///< subscriber: from asking for a lease's end to that end
  send = 10,           ///< subscriber of a relay: a version onto the wire
  gather_device = 11,  ///< publisher: the gather as GPU events measure it, while it is traced
  count_               ///< how many there are
};
inline constexpr std::size_t kStages = static_cast<std::size_t>(Stage::count_);
inline constexpr std::uint32_t kNoStage = 0;  ///< of StageBlock::now, which is a stage + 1

/// All there ever was of one stage.
struct StageSum {
  Word64 count;
  Word64 nanoseconds;
  Word64 longest;
  Word64 last;  ///< nanoseconds
  Word64 bytes;
};
/// One stage of one version, number n of its block, at ring[(n - 1) mod 64]. Written and read as an
/// Entry is.
struct StageEvent {
  Word64 number;
  Word64 version;
  Word64 start;  ///< CLOCK_MONOTONIC, nanoseconds
  Word64 nanoseconds;
  Word64 bytes;
  Word32 stage;
  std::uint32_t reserved;
};
inline constexpr std::size_t kStageSums = 16;
inline constexpr std::size_t kStageRing = 64;

/// Where one process's time went: block i is written by the owner of place i, block 64 by the
/// publisher. For people: nothing of the protocol depends on it.
///
/// A place changes hands: `owner` is cleared before the rest is, and stored when it is all zero.
/// What is read is the owner's when that was there before and after.
struct StageBlock {
  Word64 written;  ///< events so far
  Word64 since;    ///< CLOCK_MONOTONIC ns when `now` began
  Word32 now;      ///< what it is in the middle of; kNoStage
  std::uint32_t reserved;
  OwnerWords owner;  ///< whose time it is; pid 0: nobody's yet
  std::uint8_t reserved_middle[16];
  StageSum sums[kStageSums];  ///< by Stage
  StageEvent ring[kStageRing];
  std::uint8_t reserved_end[320];
};
static_assert(sizeof(StageBlock) == 4096 && offsetof(StageBlock, ring) == 704);
static_assert(offsetof(StageBlock, owner) == 24 && offsetof(StageBlock, sums) == 64);
static_assert(kStages <= kStageSums && std::is_standard_layout_v<StageBlock>);
inline constexpr std::size_t kStageBlocks = kPlaces + 1;
inline constexpr std::uint64_t kStatisticsBytes = kStageBlocks * sizeof(StageBlock);

static_assert(sizeof(Process) == 24 && sizeof(Header) == 1024 && sizeof(Place) == 256);
static_assert(sizeof(Slot) == 128 && sizeof(Entry) == 64);
static_assert(offsetof(Header, publisher) == 48 && offsetof(Header, bucket_count) == 120);
static_assert(offsetof(Header, statistics_at) == 240);
static_assert(offsetof(Header, state) == 512 && offsetof(Header, current) == 576);
static_assert(offsetof(Header, wake) == 640 && offsetof(Header, release) == 704);
static_assert(offsetof(Place, owner) == 64);
static_assert(std::is_standard_layout_v<Header> && std::is_standard_layout_v<Place> &&
              std::is_standard_layout_v<Entry> && std::is_trivially_copyable_v<Slot>);

/// Differs when two builds do not agree on these structs (another compiler, another architecture).
inline std::uint64_t struct_hash() noexcept {
  constexpr std::uint64_t kFacts[] = {sizeof(Header),
                                      sizeof(Place),
                                      sizeof(Slot),
                                      sizeof(Entry),
                                      sizeof(LayoutHeader),
                                      sizeof(ParameterRecord),
                                      sizeof(BucketRecord),
                                      sizeof(BoxRecord),
                                      sizeof(IndexEntry),
                                      offsetof(Header, state),
                                      offsetof(Header, current),
                                      offsetof(Header, wake),
                                      offsetof(Header, release),
                                      offsetof(Place, owner),
                                      kPlaces,
                                      kMaxRank,
                                      0x0102030405060708U /* byte order */};
  return detail::hash64(kFacts, sizeof(kFacts));
}

/// Where each part begins; meaningful once the counts have been checked.
struct Sections {
  std::uint64_t places, slots, log, layout, checksums, end;
  constexpr Sections(std::uint64_t slot_count, std::uint64_t log_entries,
                     std::uint64_t layout_bytes, std::uint64_t checksum_bytes = 0) noexcept
      : places(sizeof(Header)),
        slots(places + kPlaces * sizeof(Place)),
        log(slots + slot_count * sizeof(Slot)),
        layout(log + log_entries * sizeof(Entry)),
        checksums(layout + layout_bytes),
        end(checksums + checksum_bytes) {}
};

/// Checksums are kept by parameter for each set of B slots: that of parameter i, whose bucket is in
/// slot s, is number s / B · N + i. Written before the version becomes current.
[[nodiscard]] constexpr std::uint64_t checksum_index(std::uint64_t slot, std::uint64_t buckets,
                                                     std::uint64_t parameters,
                                                     std::uint64_t parameter) noexcept {
  return slot / buckets * parameters + parameter;
}

/// Nobody gets there: at a million records a second it takes 146,000 years. Beyond it, numbers of
/// records could wrap, and 0 follow the last one.
inline constexpr std::uint64_t kMaxRecord = 1ULL << 62U;

/// Records are numbered from 1; version v (from 1) of B buckets owns start(v) .. start(v) + B - 1.
[[nodiscard]] constexpr std::uint64_t start_of(std::uint64_t version,
                                               std::uint64_t buckets) noexcept {
  return (version - 1) * buckets + 1;
}
/// The version that record n (n >= 1) belongs to; 0 for n = 0.
[[nodiscard]] constexpr std::uint64_t version_of(std::uint64_t record,
                                                 std::uint64_t buckets) noexcept {
  return record == 0 ? 0 : (record - 1) / buckets + 1;
}
/// The first version start at or above record n.
[[nodiscard]] constexpr std::uint64_t next_start(std::uint64_t record,
                                                 std::uint64_t buckets) noexcept {
  return record == 0 ? 1 : (record + buckets - 2) / buckets * buckets + 1;
}

}  // namespace tenon::format
