// Two processes that hand versions over, round by round, on one GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "child.hpp"
#include "gpu.hpp"
#include "report.hpp"

namespace tenon::bench {

/// What the two share. Made before they are forked, which is before either uses CUDA.
struct Exchange {
  Turn ready;   // the trainer has published its name, and allocates no more
  Turn go;      // the round that comes next
  Turn armed;   // the engine waits for that round's version
  Turn usable;  // it has it
  Turn check;   // now looking at it disturbs nobody
  Turn done;    // it has looked, and let go
  std::uint64_t usable_at = 0;
  std::uint64_t wrong = 0;
  std::int64_t engine_extra = 0;  // GPU memory that the engine's subscription took
  std::uint64_t engine_calls = 0;
  std::uint64_t trainer_calls = 0;
  std::uint64_t buckets = 0;
  bool counted = false;  // whether calls are
  Series end_to_end;
  Series host;
};

/// The trainer's part of a round.
struct Lead {
  std::function<std::vector<std::uint64_t>(std::uint64_t round)> prepare;  ///< returns checksums
  std::function<void()> hand_over;  ///< timed, from here to the engine's `take`
};
/// The engine's part.
struct Follow {
  std::function<void()> arm;                         ///< before it waits
  std::function<void()> take;                        ///< until the version can be used
  std::function<std::vector<std::uint64_t>()> look;  ///< its checksums; lets go
};

/// One row: trainer and engine in a process each.
class Play {
 public:
  Play(const Options& options, std::string name, const Layout& layout);
  /// Both bodies call lead() or follow() in the end. Call while this process has not used CUDA.
  [[nodiscard]] Row run(const std::function<void(Play&)>& trainer,
                        const std::function<void(Play&)>& engine);

  void lead(const Lead& lead, std::uint64_t buckets);
  /// `free_before`: the engine's free memory before it attached.
  void follow(const Follow& follow, std::uint64_t free_before);
  void await_publication() const { exchange_->ready.await(1); }

 private:
  [[nodiscard]] std::size_t warm_up() const { return options_.warm_up(kGpuWarmUp); }
  [[nodiscard]] std::size_t rounds() const { return warm_up() + options_.samples(kGpuRounds); }

  const Options& options_;
  std::string name_;
  const Layout& layout_;
  Shared<Exchange> exchange_;
  SharedBytes expected_;  ///< a checksum per parameter
};

/// The trainer of R7: a publication in place, gathered anew in every round; without `changed` in
/// the first one alone, and then told that no source changed.
void lead_gathering(Play& play, const Options& options, const Layout& layout, bool changed);
/// Its engine: has the version and a view of its last parameter.
void follow_holding(Play& play, const Options& options, const Layout& layout, Duration spin);

}  // namespace tenon::bench
