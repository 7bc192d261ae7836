#include "wake_peer.hpp"

namespace tenon::bench {

std::unique_ptr<WakePeer> make_wake_peer() { return nullptr; }

}  // namespace tenon::bench
