// NCCL's functions, found when the program runs: nothing links libnccl (a few hundred MB), and a
// program that never relays GPU memory needs none. Of nccl.h only the types are used.
#pragma once

#include <nccl.h>

#include <string>

namespace tenon::relay {

/// The functions of one libnccl. It is never unloaded: NCCL has threads of its own.
///
/// Threads:  safe, as far as NCCL is: one thread at a time in the calls on one communicator.
struct NcclLibrary {
  /// Looks for libnccl: the file that TENON_NCCL_LIBRARY names, and nothing else, when it is set;
  /// otherwise libnccl.so.2, of which the copy that is in the process already (PyTorch's, say)
  /// comes before what the loader finds. Throws Error(NoEngine).
  [[nodiscard]] static NcclLibrary load();

  /// "unhandled cuda error (Cuda failure 'out of memory')": the result and NCCL's last warning.
  [[nodiscard]] std::string text(ncclResult_t result, ncclComm_t comm) const;

  std::string path;  ///< as it was asked for
  int version = 0;   ///< as ncclGetVersion tells it, 22809 is 2.28.9

  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  decltype(&ncclGetLastError) get_last_error = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init_rank = nullptr;
  decltype(&ncclCommGetAsyncError) get_async_error = nullptr;
  decltype(&ncclCommFinalize) finalize = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclBroadcast) broadcast = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
};

}  // namespace tenon::relay
