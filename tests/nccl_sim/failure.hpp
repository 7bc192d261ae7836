// How the double fails: as NCCL does, with a result and a last warning, or loudly.
#pragma once

#include <nccl.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace tenon::nccl_sim {

/// What a call returns, or a communicator's asynchronous error becomes.
struct Failure : std::runtime_error {
  Failure(ncclResult_t why, const std::string& what) : std::runtime_error(what), result(why) {}
  ncclResult_t result;
};

/// Ends what an aborted communicator still does; nobody is told.
struct Aborted {};

/// What has no defined outcome with NCCL ends the program.
[[noreturn]] inline void undefined(const std::string& what) {
  std::fprintf(stderr, "nccl_sim: undefined with NCCL: %s\n", what.c_str());
  std::abort();
}

}  // namespace tenon::nccl_sim
