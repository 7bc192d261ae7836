// A simulated CUDA runtime: a test double, never installed, with no GPU behind it.
//
// The library tenon_cuda_sim defines the CUDA runtime calls Tenon uses, with their own names and
// signatures, and is linked instead of libcudart into the same object files. This header is what a
// test says to it. "Device memory" is POSIX shared memory, so several real processes can share it.
//
// Environment, read at a process's first CUDA call (and again after reset_process()):
//
//   TENON_SIM_NODE          the machine this process is on: processes see each other's memory only
//                           on one node ("0"; letters, digits, - and _)
//   TENON_SIM_DEVICES       devices of the node (2; 0 to 16)
//   TENON_SIM_MEMORY        bytes of each device, shared by all processes of the node (4 GiB)
//   CUDA_VISIBLE_DEVICES    as CUDA reads it: ordinals or GPU-... UUIDs; an invalid one ends it
//   TENON_SIM_NO_PEER       1: no device reaches another; "0-1,1-3": these pairs do not
//   TENON_SIM_COMPUTE_MODE  default, prohibited or exclusive (one process per device)
//   TENON_SIM_DRIVER        driver version (13000); 0: no driver
//   TENON_SIM_RUNTIME       runtime version (that of the headers)
//   TENON_SIM_DEVICE_NAME   name of every device
//   TENON_SIM_ATTRIBUTES    overrides of cudaDeviceGetAttribute, "125:0,133:1"
//   TENON_SIM_DELAY_US      longest random delay before work on a stream runs, 0 for none (200)
//   TENON_SIM_SEED          seed of those delays and of the order within a batch of copies (1)
//   TENON_SIM_POISON        0: fresh memory is not filled with kPoison (faster)
//   TENON_SIM_HOST_ACCESS   0: the host faults on device pointers, as on a real machine
//   TENON_SIM_STALE         ok: a handle whose memory is gone opens, and shows the old bytes (no
//                           GPU that was asked does so)
//   TENON_SIM_HANDLE_REUSE  1: the handle of freed memory comes back, byte for byte, for the next
//   TENON_SIM_FAIL          injected failures, "cudaMalloc:3:2,...": function, n-th call, error
//
// Where it differs from a GPU (docs of a call say the rest):
//   - Work is delayed before it runs: always when the stream was idle, else one time in eight.
//   - Every copy reads its source when it runs, also from pageable memory, which CUDA may stage
//     earlier. A source overwritten too soon is therefore always seen.
//   - cudaMemcpy from pageable memory to a device's, or within a device's, and cudaMemset of a
//     device's return before the bytes have arrived, as CUDA may do: work on a stream that does not
//     wait for the default stream finds the old ones now and then.
//   - A capturing stream drops what it is given; a graph cannot be run.
//   - cudaFree and cudaFreeHost wait for all work of the process, which CUDA may do too; memory
//     from cudaMallocAsync is freed without waiting, as documented.
//   - What was freed or closed stays reserved without access for a while: using it faults. What is
//     allocated next has another address; its place in the node's table stands for the one before.
//   - A handle of another node opens with cudaErrorInvalidResourceHandle.
//
// As an H200 was seen to do (docs/hardware-notes.md):
//   - cudaIpcCloseMemHandle waits for all work of the process, host functions too.
//   - Host functions of all streams run one after the other.
//   - Opening garbage, or what was freed, is cudaErrorInvalidValue; what a dead process exported,
//     cudaErrorInvalidResourceHandle, unless this process has it open. When as much was allocated
//     again in its place, the handle of what was freed opens that.
//   - Memory that was freed, or whose process died, keeps its bytes and counts as in use until the
//     last living process that has it open closes it.
//   - A mapping has exactly the bytes of its allocation.
//   - A broken context's error is returned by every call but cudaGetDevice(), and by
//     cudaGetLastError() once for them. cudaDeviceReset() succeeds on it, and calls are
//     cudaErrorDevicesUnavailable from then on; no other context can be reset here.
//
// Forking: before the first call both sides are independent. After it the child's calls fail with
// cudaErrorInitializationError, as with CUDA. Calls that only ask for versions do not count, nor do
// the functions of this header.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::sim {

/// Fresh device memory holds this byte.
inline constexpr std::byte kPoison{0xC5};

// --- Faults, in this process ---

inline constexpr int kEveryCall = 0;

/// The `nth` call of `function` from now on (1: the next; kEveryCall: all) does nothing and returns
/// `error`. `function` is the plain name, "cudaMalloc"; a name that is never called is no error.
void fail_call(std::string_view function, int nth, cudaError_t error);
void clear_failures();

/// As after a kernel that faulted on the current device: from now on every call with that device
/// current returns cudaErrorIllegalAddress, and what is queued there, host functions too, never
/// runs. For a fault in stream order call it in launch(): it is the stream's device then. A GPU
/// tells of a fault some tenths of a second late, with its other streams going on: sleep there
/// before. Other devices have contexts of their own, and go on.
void break_context();

/// Queued work of `stream` does not start until released.
void hold_stream(cudaStream_t stream, bool held);
/// Host functions of all streams do not start until released; other work up to them does.
void hold_host_functions(bool held);

// --- Kernels ---

/// A simulated kernel: `body` runs on the stream's worker, in stream order. It must call no CUDA
/// function and reach device memory through host_view(). Counted and logged as cudaLaunchKernel.
[[nodiscard]] cudaError_t launch(cudaStream_t stream, std::function<void()> body);

/// Where the bytes behind a device pointer of this process can be touched by the host, also with
/// TENON_SIM_HOST_ACCESS=0; other pointers come back as they are.
[[nodiscard]] void* host_view(const void* pointer);

// --- What this process did ---

struct LoggedCall {
  std::string function;
  cudaError_t result;
};

/// Calls of one function, refused and failed ones too. The _ptsz and _ptds twins of the
/// per-thread default stream count under the plain name.
[[nodiscard]] std::uint64_t calls(std::string_view function);
[[nodiscard]] std::uint64_t total_calls();
/// The calls in the order they were made; the first 100,000 since the last reset.
[[nodiscard]] std::vector<LoggedCall> call_log();
/// Calls that named the legacy default stream (0 or cudaStreamLegacy). cudaMemcpy and cudaMemset,
/// which always use it, are not among them: see calls().
[[nodiscard]] std::uint64_t legacy_stream_uses();
/// Bytes that copies have moved, counted when they run.
[[nodiscard]] std::uint64_t bytes_copied();
/// Whether this process has made a context on an ordinal, which takes memory there.
[[nodiscard]] bool has_context(int ordinal);
/// Sets the counts above to 0 and empties the log.
void reset_calls();

/// cudaIpcOpenMemHandle calls of this process not yet undone by cudaIpcCloseMemHandle.
[[nodiscard]] std::uint64_t open_handles();

/// Makes this process as if it had just started: queued work is dropped, its memory, streams,
/// events, mappings, failures and counts are gone, the environment will be read again.
void reset_process();

// --- The node, seen from any process ---

/// What must never happen: memory freed while another living process has it open, memory freed
/// twice, CUDA calls from a host function or kernel. Each is also told on stderr.
[[nodiscard]] std::uint64_t violations();
/// The last 16 of them, in words.
[[nodiscard]] std::vector<std::string> violation_log();

/// Allocations of device memory, of living processes or kept by an importer.
[[nodiscard]] std::uint64_t live_allocations();
/// Bytes of them. `device` counts all devices of the node, whatever CUDA_VISIBLE_DEVICES says.
[[nodiscard]] std::uint64_t bytes_in_use(int device);

/// "GPU-...", as CUDA_VISIBLE_DEVICES takes it; `device` as in bytes_in_use().
[[nodiscard]] std::string device_uuid(int device);

/// Removes every shared-memory object of this process's node. No process may be using it.
void remove_node();

/// A node of its own for one test: sets TENON_SIM_NODE, and at its end resets this process, removes
/// the node and restores the variable. Make it before forking, and end the children before it.
class FreshNode {
 public:
  FreshNode();
  ~FreshNode();
  FreshNode(const FreshNode&) = delete;
  FreshNode& operator=(const FreshNode&) = delete;

 private:
  std::string before_;
  bool was_set_;
};

}  // namespace tenon::sim
