#include "schedule.hpp"

#include <fmt/core.h>

#include <array>

namespace tenon::stress {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct Weight {
  Fault fault;
  unsigned percent;
};
constexpr std::array<Weight, 9> kWeights{{{Fault::kill, 37},
                                          {Fault::kill_young, 8},
                                          {Fault::stop, 13},
                                          {Fault::stop_kill, 10},
                                          {Fault::end, 10},
                                          {Fault::clean, 7},
                                          {Fault::clean_twice, 3},
                                          {Fault::clean_killed, 5},
                                          {Fault::look, 7}}};

Fault draw(Random& random) {
  std::uint64_t x = random.below(100);
  for (const Weight& w : kWeights) {
    if (x < w.percent) return w.fault;
    x -= w.percent;
  }
  return Fault::look;
}

microseconds duration(Fault fault, Random& random) {
  switch (fault) {
    case Fault::stop:
      // Mostly shorter than the publisher's deadline, sometimes longer.
      return milliseconds(random.chance(15) ? random.between(1000, 3000) : random.between(5, 400));
    case Fault::stop_kill:
      return milliseconds(random.between(20, 500));
    case Fault::kill_young:
      return microseconds(random.between(0, 40'000));
    default:
      return microseconds(random.between(0, 8'000));
  }
}

}  // namespace

const char* name_of(Fault fault) noexcept {
  static constexpr std::array<const char*, 9> kNames{"kill",        "kill-young",   "stop",
                                                     "stop-kill",   "end",          "clean",
                                                     "clean-twice", "clean-killed", "look"};
  return kNames[static_cast<std::size_t>(fault)];
}

Action Schedule::next() {
  // Every number is drawn for every action, so that one kind more does not shift all that follows.
  Action action;
  at_ += milliseconds(random_.between(20, 300));
  action.at = at_;
  action.fault = draw(random_);
  action.publisher = random_.chance(25);
  action.target =
      static_cast<unsigned>(random_.below(action.publisher ? publishers_ : subscribers_));
  action.lasts = duration(action.fault, random_);
  action.away = milliseconds(random_.chance(50) ? 0 : random_.between(1, 300));
  if (action.fault >= Fault::clean) action.away += milliseconds(50);  // something to clean
  return action;
}

std::string to_text(const Action& a) {
  return fmt::format("{} {} {}, for {:.1f} ms, away {} ms", name_of(a.fault),
                     a.publisher ? "publisher" : "subscriber", a.target,
                     static_cast<double>(a.lasts.count()) / 1000, a.away.count());
}

}  // namespace tenon::stress
