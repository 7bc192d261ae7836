// Gloo's own broadcast, with nothing of Tenon's around it: what a relay is compared with.
#pragma once

#include <cstddef>
#include <memory>
#include <relay/engine.hpp>

namespace gloo {
class Context;
}

namespace tenon::bench {

class BareGloo {
 public:
  /// Connects the group. Throws when that takes longer than kPatience.
  explicit BareGloo(const relay::Membership& membership);
  /// `data` of rank 0 arrives in that of all others.
  void broadcast(std::byte* data, std::size_t bytes);

 private:
  std::shared_ptr<::gloo::Context> context_;
};

}  // namespace tenon::bench
