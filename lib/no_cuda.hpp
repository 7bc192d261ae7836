// What builds without CUDA say.
#pragma once

namespace tenon {

inline constexpr const char* kNoCuda =
    "this build of Tenon has no GPU memory: it was made without the CUDA toolkit (host memory "
    "needs "
    "none)";

}  // namespace tenon
