// Failures that tests order, by the environment:
//
//   TENON_NCCL_SIM_FAIL     "ncclAllReduce:2:6,...": function, n-th call, result. The call does
//                           nothing and returns it; for ncclCommGetAsyncError it becomes the
//                           communicator's error; 7 (ncclInProgress) never ends, until aborted.
//                           Calls are counted from the moment the variable has this value.
//   TENON_NCCL_SIM_VERSION  what ncclGetVersion tells (that of nccl.h)
#pragma once

#include <nccl.h>

#include <optional>
#include <string_view>

namespace tenon::nccl_sim {

/// Counts the call; the result that was ordered for it. Threads: safe.
[[nodiscard]] std::optional<ncclResult_t> injected(std::string_view function);

[[nodiscard]] int version();

}  // namespace tenon::nccl_sim
