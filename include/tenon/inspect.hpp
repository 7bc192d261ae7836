// Looking at publications without taking a place in them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/segment.hpp>
#include <tenon/detail/wait.hpp>
#include <tenon/stages.hpp>
#include <vector>

namespace tenon {

/// A place that somebody occupies.
struct SubscriberInfo {
  std::uint32_t place = 0;    ///< 0 to 63
  std::uint32_t pid = 0;      ///< in its own pid namespace
  std::uint64_t started = 0;  ///< clock ticks since boot: a pid is one process's only together with
                              ///< it; 0 unknown
  std::string label;
  bool alive = true;
  std::uint64_t holds = 0;         ///< the oldest version it holds; 0 nothing
  std::uint64_t last_version = 0;  ///< the newest it acquired or loaded; 0 none
  bool wanted = false;             ///< the publisher waits for what it holds
  std::optional<Stages> stages{};  ///< where its time went; empty before format 1.2
  Duration held_for{};  ///< since it took that (streaming: that record); 0 when it holds nothing
};

/// One publication, as it was when looked at. Fields behind `why` are only set for states `ready`
/// and `stale`.
struct PublicationInfo {
  std::string name;
  Attach state = Attach::absent;
  std::string why;
  std::uint32_t pid = 0;
  std::string label;
  std::string instance;  ///< 32 hexadecimal digits
  Uid owner = 0;
  Mode mode = Mode::in_place;
  MemoryKind memory = MemoryKind::host;
  std::string device{};    ///< "GPU-8-4-4-4-12"; empty for host memory
  bool checksums = false;  ///< taken of every parameter
  std::uint64_t buckets = 0;
  std::uint64_t slots = 0;
  std::uint64_t slot_bytes = 0;    ///< of all slots together
  std::uint64_t version = 0;       ///< newest complete; 0 none
  std::optional<Stages> stages{};  ///< where the publisher's time went; empty before format 1.2
  std::uint64_t created_at = 0;    ///< CLOCK_REALTIME, nanoseconds
  std::optional<Layout> layout{};
  std::vector<SubscriberInfo> subscribers{};
};

/// Throws Error(InvalidName, BadFormat).
[[nodiscard]] PublicationInfo inspect(std::string_view name, std::optional<Uid> owner = {});
/// Every name of `owner` (default: this process's effective user), sorted. A damaged one is listed
/// as `stale` with the reason in `why`.
[[nodiscard]] std::vector<PublicationInfo> list(std::optional<Uid> owner = {});

/// What gc() found and (unless dry) removed.
struct Leftover {
  std::string object;  ///< name in /dev/shm
  std::string why;
  std::uint64_t bytes = 0;
};
/// Removes what dead publishers of `owner` left in /dev/shm: publications, then slots that belong
/// to none. Safe beside publishers, subscribers and other cleaners. Returns what was (or would be)
/// removed.
std::vector<Leftover> gc(bool dry_run, std::optional<Uid> owner = {});

namespace detail {
/// The occupied places of a segment.
[[nodiscard]] std::vector<SubscriberInfo> read_places(const Segment& segment);
}  // namespace detail

}  // namespace tenon
