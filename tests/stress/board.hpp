// What supervisor and roles tell each other: a page of words in memory that outlives any of them.
// Nothing of Tenon's; a role that is killed leaves its counts behind.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace tenon::stress {

using Word = std::atomic<std::uint64_t>;

inline constexpr unsigned kPublishers = 4;
inline constexpr unsigned kSubscribers = 32;
inline constexpr unsigned kHelpers = 8;  ///< cleaners, lookers, the auditor
inline constexpr unsigned kActors = kPublishers + kSubscribers + kHelpers;

/// CLOCK_MONOTONIC, which all processes of a machine share.
[[nodiscard]] inline std::uint64_t now_ns() noexcept {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}
[[nodiscard]] inline std::uint64_t ns(std::chrono::nanoseconds d) noexcept {
  return static_cast<std::uint64_t>(d.count());
}

enum class Doing : std::uint64_t {
  starting,
  creating,
  publishing,
  aborting,
  closing,
  attaching,
  waiting,
  loading,
  reading,
  holding,
  detaching,
  cleaning,
  looking,
  pausing,
  auditing,
};
[[nodiscard]] const char* name_of(Doing doing) noexcept;

/// One process at a time.
struct Actor {
  // written by the role
  Word doing;
  Word since;
  Word deadline;  ///< when what it does must be over
  Word holds;     ///< subscriber: the version it has a lease on; 0 none
  Word name;      ///< which publication
  // written by the supervisor
  Word stopped_at;
  Word resumed_at;  ///< before stopped_at: it stands still now
  Word killed_pid;  ///< the last one killed
  Word killed_at;
  Word killed_holding;

  [[nodiscard]] bool is_stopped() const noexcept { return stopped_at > resumed_at; }
  /// Whether it stood still at any time since `from`.
  [[nodiscard]] bool stood_still_since(std::uint64_t from) const noexcept {
    return is_stopped() || resumed_at >= from;
  }
};

/// Life and death of the publishers of one name. A publication says in its metadata by which life
/// it was made.
struct Name {
  Word disturbed;  ///< kills, stops, continues, ends
  struct Death {
    Word life;
    Word at;
  };
  std::array<Death, 1024> deaths;  ///< of life n: entry n mod 1024

  void died(std::uint64_t life, std::uint64_t at) noexcept {
    deaths[life % deaths.size()].at = at;
    deaths[life % deaths.size()].life = life;
  }
  /// When that life was killed; 0: it was not.
  [[nodiscard]] std::uint64_t killed_at(std::uint64_t life) const noexcept {
    const Death& d = deaths[life % deaths.size()];
    return d.life == life ? d.at.load() : 0;
  }
};

/// Durations, all of them, for percentiles.
struct Samples {
  std::atomic<std::uint32_t> count;
  std::array<std::atomic<std::uint64_t>, 16384> values;
  void add(std::uint64_t value) noexcept {
    const std::uint32_t i = count.fetch_add(1);
    values[i % values.size()] = value;
  }
};

struct Board {
  Word started_at;
  Word ending;  ///< the end has come: roles are told to leave
  // counted by roles
  Word created, published, aborted, attached, read, loaded, bytes_read, looked, cleaned, collected;
  // must be 0
  Word torn, wrong_version, wrong_state, unexpected, unnoticed, stuck;
  Word leaked_segments, leaked_mappings, leaked_memory, violations;
  Word longest_stall;
  std::array<Word, 64> errors;  ///< by Errc
  Samples gone;                 ///< from the kill of a publisher to PublisherGone
  Samples freed;                ///< from the kill of a holder to the publisher's next version
  std::array<Name, kPublishers> names;
  std::array<Actor, kActors> actors;

  /// Zeroed, in memory that a program started by this one inherits as a descriptor.
  [[nodiscard]] static int make();
  [[nodiscard]] static Board& map(int descriptor);
};

inline void raise_to(Word& word, std::uint64_t value) noexcept {
  for (std::uint64_t seen = word; seen < value && !word.compare_exchange_weak(seen, value);) {
  }
}

}  // namespace tenon::stress
