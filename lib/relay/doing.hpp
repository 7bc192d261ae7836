// What a relay is doing, for whoever watches it.
#pragma once

#include <string>
#include <tenon/relay.hpp>

namespace tenon::relay {

/// Tells a Watch what begins, and at its own end that it is over.
class Doing {
 public:
  Doing(const Watch& watch, const std::string& what) : tell_(watch.doing) {
    if (tell_) tell_(what);
  }
  Doing(const Doing&) = delete;
  Doing& operator=(const Doing&) = delete;
  ~Doing() {
    if (tell_) tell_({});
  }

 private:
  const std::function<void(const std::string&)>& tell_;
};

}  // namespace tenon::relay
