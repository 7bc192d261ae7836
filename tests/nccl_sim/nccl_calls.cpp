// A simulated NCCL: a test double, never installed. It is loaded in place of libnccl.so.2, takes
// the CUDA runtime of the program that loads it (the simulated one), and moves bytes for real
// between processes, over Unix sockets.
//
// It is stricter than NCCL where NCCL leaves it to the program:
//   - A call on a communicator that is none (any more), a second thread in calls on one, destroying
//     one that is not finalized: ends the program.
//   - Memory that is not the device's, a stream or current device that is not the communicator's,
//     a blocking communicator: refused.
//   - Operations or sizes that differ between ranks: an asynchronous error, where NCCL hangs.
// As NCCL: a call returns ncclInProgress and does its work later; calls meanwhile are refused; what
// failed keeps its stream busy until it is aborted; a duplicate rank or GPU, and numbers of ranks
// that differ, are refused. The hosts of ranks are told apart by NCCL_HOSTID, then TENON_SIM_NODE.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "communicator.hpp"
#include "failure.hpp"
#include "faults.hpp"
#include "mesh.hpp"
#include "reduce.hpp"

namespace tenon::nccl_sim {
namespace {

/// The communicators of this process. Handles are numbers that are never used again.
class Communicators {
 public:
  ncclComm_t add(std::shared_ptr<Communicator> communicator) {
    const std::lock_guard lock(mutex_);
    const auto handle = reinterpret_cast<ncclComm_t>(++last_ << 4U);
    all_[handle] = std::move(communicator);
    return handle;
  }
  std::shared_ptr<Communicator> find(ncclComm_t handle, const char* function) {
    const std::lock_guard lock(mutex_);
    const auto found = all_.find(handle);
    if (found == all_.end())
      undefined(std::string(function) + " of a communicator that is not one (any more)");
    return found->second;
  }
  void remove(ncclComm_t handle) {
    const std::lock_guard lock(mutex_);
    all_.erase(handle);
  }
  int count() {
    const std::lock_guard lock(mutex_);
    return static_cast<int>(all_.size());
  }

 private:
  std::mutex mutex_;
  std::uintptr_t last_ = 0;
  std::map<ncclComm_t, std::shared_ptr<Communicator>> all_;
};

Communicators& communicators() {
  static Communicators all;
  return all;
}

/// A thread in a call on a communicator, which must be the only one.
class Caller {
 public:
  Caller(Communicator& communicator, const char* function) : callers_(communicator.callers) {
    if (++callers_ != 1) undefined(std::string(function) + " while another thread is in a call");
  }
  ~Caller() { --callers_; }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

 private:
  std::atomic<int>& callers_;
};

template <class Body>
ncclResult_t guarded(Body body) {
  try {
    return body();
  } catch (const Failure& f) {
    set_last_error(f.what());
    return f.result;
  }
}

/// A call that has the communicator do something; `order` begins it.
template <class Order>
ncclResult_t begin(const char* function, ncclComm_t handle, Order order) {
  return guarded([&] {
    const auto communicator = communicators().find(handle, function);
    const Caller caller(*communicator, function);
    const auto ordered = injected(function);
    if (ordered && *ordered != ncclInProgress) throw Failure(*ordered, "injected failure");
    if (communicator->state() == ncclInProgress)
      throw Failure(
          ncclInvalidArgument,
          "Attempt to use communicator before the previous operation returned ncclSuccess");
    if (communicator->state() != ncclSuccess) return communicator->state();
    if (communicator->finalized())
      throw Failure(ncclInvalidUsage, std::string(function) + " after ncclCommFinalize");
    if (ordered)
      communicator->stall();
    else
      order(*communicator);
    return ncclInProgress;
  });
}

void check_memory(const void* pointer, std::size_t bytes, int device) {
  cudaPointerAttributes attributes{};
  if (bytes == 0) return;
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess ||
      attributes.type != cudaMemoryTypeDevice || attributes.device != device)
    throw Failure(ncclInvalidArgument, "a buffer that is not memory of the communicator's device");
}

ncclResult_t operate(const Operation& operation, ncclComm_t handle, cudaStream_t stream) {
  return begin(operation.name, handle, [&](Communicator& communicator) {
    int current = -1;
    int streams = -1;
    if (cudaGetDevice(&current) != cudaSuccess ||
        cudaStreamGetDevice(stream, &streams) != cudaSuccess)
      throw Failure(ncclUnhandledCudaError, "Cuda failure in a question for a device");
    if (current != communicator.device() || streams != communicator.device())
      throw Failure(ncclInvalidUsage, std::string(operation.name) +
                                          ": the current device or the stream's is not that of "
                                          "the communicator");
    if (bytes_of(operation.type) == 0 || (operation.op != ncclSum && operation.op != ncclAvg))
      throw Failure(ncclInvalidArgument, std::string(operation.name) + ": a type or an operation");
    check_memory(operation.from, operation.from_bytes, current);
    check_memory(operation.to, operation.to_bytes, current);
    communicator.launch(operation, stream);
  });
}

int rank_of(ncclComm_t comm) { return communicators().find(comm, "ncclBroadcast")->rank(); }
std::size_t size_of(ncclComm_t comm) {
  return static_cast<std::size_t>(communicators().find(comm, "a collective")->size());
}

/// What must differ between the ranks of a group: the host, and the device on it.
std::string gpu(int device) {
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess)
    throw Failure(ncclUnhandledCudaError, "Cuda failure in cudaGetDeviceProperties");
  const char* host = std::getenv("NCCL_HOSTID");
  if (host == nullptr) host = std::getenv("TENON_SIM_NODE");
  std::string text = std::string(host != nullptr ? host : "0") + " device ";
  for (const char byte : properties.uuid.bytes)
    text += std::to_string(static_cast<unsigned char>(byte)) + ".";
  return text;
}

ncclResult_t end(const char* function, ncclComm_t handle) {
  const auto communicator = communicators().find(handle, function);
  const Caller caller(*communicator, function);
  communicator->abort();
  communicators().remove(handle);
  return ncclSuccess;
}

}  // namespace
}  // namespace tenon::nccl_sim

using namespace tenon::nccl_sim;

extern "C" {

/// How many communicators of this process are neither destroyed nor aborted.
int tenon_nccl_sim_live() { return communicators().count(); }

ncclResult_t ncclGetVersion(int* version) {
  *version = tenon::nccl_sim::version();
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t /*comm*/) { return last_error(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  return guarded([&] {
    if (const auto ordered = injected("ncclGetUniqueId"))
      throw Failure(*ordered, "injected failure");
    *id = Mesh::open();
    return ncclSuccess;
  });
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  return guarded([&] {
    *comm = nullptr;
    const auto ordered = injected("ncclCommInitRankConfig");
    if (ordered && *ordered != ncclInProgress) throw Failure(*ordered, "injected failure");
    if (config == nullptr || config->magic != 0xcafebeef)
      throw Failure(ncclInvalidArgument, "ncclConfig_t not initialized by NCCL_CONFIG_INITIALIZER");
    if (config->blocking != 0)
      throw Failure(ncclInvalidArgument, "the double has non-blocking communicators only");
    if (size < 1 || rank < 0 || rank >= size)
      throw Failure(ncclInvalidArgument,
                    "rank " + std::to_string(rank) + " of " + std::to_string(size));
    int device = -1;
    if (cudaGetDevice(&device) != cudaSuccess)
      throw Failure(ncclUnhandledCudaError, "Cuda failure in cudaGetDevice");
    auto communicator = std::make_shared<Communicator>(Mesh::Self{rank, size, gpu(device)}, device);
    *comm = communicators().add(communicator);
    if (ordered)
      communicator->stall();
    else
      communicator->connect(id);
    return ncclInProgress;
  });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const auto communicator = communicators().find(comm, "ncclCommGetAsyncError");
  const Caller caller(*communicator, "ncclCommGetAsyncError");
  if (const auto ordered = injected("ncclCommGetAsyncError"))
    communicator->fail({*ordered, "injected failure"});
  *error = communicator->state();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return begin("ncclCommFinalize", comm, [](Communicator& c) { c.finalize(); });
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const auto communicator = communicators().find(comm, "ncclCommDestroy");
  if (!communicator->finalized() || communicator->state() != ncclSuccess)
    undefined("ncclCommDestroy of a communicator that has not been finalized");
  return end("ncclCommDestroy", comm);
}

ncclResult_t ncclCommAbort(ncclComm_t comm) { return end("ncclCommAbort", comm); }

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const std::size_t bytes = count * bytes_of(type);
  const bool gives = rank_of(comm) == root;
  const bool takes = !gives || from != to;
  return operate({"ncclBroadcast", Operation::Kind::broadcast, gives ? from : nullptr,
                  takes ? to : nullptr, gives ? bytes : 0, takes ? bytes : 0, root, type},
                 comm, stream);
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const std::size_t bytes = count * bytes_of(type);
  return operate({"ncclAllGather", Operation::Kind::all_gather, from, to, bytes,
                  bytes * size_of(comm), -1, type},
                 comm, stream);
}

ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const std::size_t bytes = count * bytes_of(type);
  return operate({"ncclReduceScatter", Operation::Kind::reduce_scatter, from, to,
                  bytes * size_of(comm), bytes, -1, type, op},
                 comm, stream);
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const std::size_t bytes = count * bytes_of(type);
  return operate(
      {"ncclAllReduce", Operation::Kind::all_reduce, from, to, bytes, bytes, -1, type, op}, comm,
      stream);
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return operate(
      {"ncclSend", Operation::Kind::pair, from, nullptr, count * bytes_of(type), 0, peer, type},
      comm, stream);
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return operate(
      {"ncclRecv", Operation::Kind::pair, nullptr, to, 0, count * bytes_of(type), peer, type}, comm,
      stream);
}

}  // extern "C"
