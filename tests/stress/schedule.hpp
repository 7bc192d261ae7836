// What befalls whom, and when: a function of the seed and nothing else.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "random.hpp"

namespace tenon::stress {

enum class Fault : std::uint8_t {
  kill,          ///< SIGKILL, started again at once or after a while
  kill_young,    ///< SIGKILL, started again, and killed again a few ms later: creating, attaching
  stop,          ///< SIGSTOP, and SIGCONT after a while: slow, not dead
  stop_kill,     ///< SIGSTOP, and SIGKILL after a while: holds what it holds, then dies
  end,           ///< SIGTERM: leaves properly, and is started again
  clean,         ///< a cleaner (`gc`); one about a publisher comes behind its SIGKILL
  clean_twice,   ///< two at once
  clean_killed,  ///< one, killed half-way
  look,          ///< list and inspect
};
[[nodiscard]] const char* name_of(Fault fault) noexcept;

struct Action {
  std::chrono::milliseconds at{};  ///< since the start
  Fault fault = Fault::look;
  bool publisher = false;             ///< who: a publisher or a subscriber
  unsigned target = 0;                ///< which of them
  std::chrono::microseconds lasts{};  ///< until SIGCONT, until the second kill
  std::chrono::milliseconds away{};   ///< until what was ended is started again
};
[[nodiscard]] std::string to_text(const Action& action);

class Schedule {
 public:
  Schedule(std::uint64_t seed, unsigned publishers, unsigned subscribers) noexcept
      : random_(mix(seed)), publishers_(publishers), subscribers_(subscribers) {}
  [[nodiscard]] Action next();

 private:
  Random random_;
  unsigned publishers_;
  unsigned subscribers_;
  std::chrono::milliseconds at_{300};  // everybody has come up once
};

}  // namespace tenon::stress
