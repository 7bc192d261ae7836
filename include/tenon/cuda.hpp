// Publications in GPU memory: include this in one source of a program that reads them, and link the
// CUDA runtime (CUDA::cudart_static will do). Header-only, C++17, needs the toolkit's headers 13.0.
//
// No call of the driver library is linked: the one that is needed comes through the runtime, and a
// program starts on a machine that has no driver at all.
//
// Facts this relies on (CUDA 13.0 runtime API, "Interprocess Communication"): a handle opened again
// in one process gives the same pointer and is counted; opening in the exporting process fails;
// freeing before the importers have closed is undefined, hence slots are freed when all places are
// detached; a device is known by its UUID, as ordinals differ with CUDA_VISIBLE_DEVICES. What a GPU
// answered to these and more: docs/hardware-notes.md.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tenon/detail/memory.hpp>
#include <tenon/detail/wait.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace tenon {

/// A CUDA call that failed.
class CudaError : public Error {
 public:
  CudaError(cudaError_t error, const std::string& doing, const std::string& hint = "")
      : Error(Errc::Cuda,
              doing + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error) + hint),
        error_(error) {}
  [[nodiscard]] cudaError_t error() const noexcept { return error_; }

 private:
  cudaError_t error_;
};

namespace detail::cuda {

/// The runtime remembers the error of each call that fails. Ours is thrown, not left behind for the
/// program's next cudaGetLastError().
inline cudaError_t forgotten(cudaError_t error) noexcept {
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}
inline void check(cudaError_t error, const char* doing) {
  if (forgotten(error) != cudaSuccess) throw CudaError(error, doing);
}

/// A function of the driver, which nothing links.
template <class Function>
[[nodiscard]] Function driver_function(const std::string& name, unsigned version) {
  const std::string doing = "looking up " + name;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(
      cudaGetDriverEntryPointByVersion(name.c_str(), &function, version, cudaEnableDefault, &found),
      doing.c_str());
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw CudaError(cudaErrorSymbolNotFound, doing);
  return reinterpret_cast<Function>(function);
}

/// The driver's contexts, through which the runtime's current device can be covered and uncovered.
/// Wrong: going back with cudaSetDevice(). Since CUDA 12 it makes a context (some 500 MiB) on the
/// device it is given, and a thread that never chose one is on device 0.
class Contexts {
 public:
  /// Makes the primary context of `device` current, on top of what is.
  void push(int device) {
    const std::lock_guard lock(mutex_);
    if (push_ == nullptr) look_up();
    CUcontext& context = contexts_[device];  // never given back: Tenon's streams keep it in use
    if (context == nullptr)
      check(static_cast<cudaError_t>(retain_(&context, device)), "cuDevicePrimaryCtxRetain");
    check(static_cast<cudaError_t>(push_(context)), "cuCtxPushCurrent");
  }
  /// Uncovers what was current before this thread's last push().
  void pop() noexcept {
    CUcontext popped = nullptr;
    (void)pop_(&popped);
  }

 private:
  void look_up() {
    retain_ = driver_function<PFN_cuDevicePrimaryCtxRetain_v7000>("cuDevicePrimaryCtxRetain", 7000);
    pop_ = driver_function<PFN_cuCtxPopCurrent_v4000>("cuCtxPopCurrent", 4000);
    push_ = driver_function<PFN_cuCtxPushCurrent_v4000>("cuCtxPushCurrent", 4000);
  }

  std::mutex mutex_;
  PFN_cuDevicePrimaryCtxRetain_v7000 retain_ = nullptr;
  PFN_cuCtxPushCurrent_v4000 push_ = nullptr;  ///< looked up last: null until all are known
  PFN_cuCtxPopCurrent_v4000 pop_ = nullptr;
  std::map<int, CUcontext> contexts_;
};

/// Makes a device current and goes back to the one before.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    int before = 0;
    check(cudaGetDevice(&before), "cudaGetDevice");
    if (before == device) return;
    per_process<Contexts>().push(device);
    pushed_ = true;
  }
  ~DeviceScope() {
    if (pushed_) per_process<Contexts>().pop();
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  bool pushed_ = false;
};

using Uuid = std::array<std::uint8_t, 16>;

/// Number of devices this process sees. Throws Error(NoDevice) when it cannot use CUDA at all.
[[nodiscard]] inline int device_count() {
  int count = 0;
  const cudaError_t error = forgotten(cudaGetDeviceCount(&count));
  if (error == cudaSuccess && count > 0) return count;
  int driver = 0;
  (void)forgotten(cudaDriverGetVersion(&driver));
  std::string why = "CUDA_VISIBLE_DEVICES hides every device";
  if (error != cudaSuccess)
    why = std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
  if (driver == 0) why += "; there is no NVIDIA driver";
  throw Error(Errc::NoDevice, "no GPU can be used here: " + why + "; host memory needs no GPU");
}

/// Throws Error(NoDevice) unless `device` is an ordinal of this process.
inline void check_ordinal(int device) {
  const int count = device_count();
  if (device >= 0 && device < count) return;
  throw Error(Errc::NoDevice, "there is no device " + std::to_string(device) + ": " +
                                  std::to_string(count) +
                                  " can be seen here (as CUDA_VISIBLE_DEVICES has it); host memory "
                                  "needs none");
}

[[nodiscard]] inline Uuid uuid_of(int device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  Uuid uuid;
  std::memcpy(uuid.data(), &properties.uuid, uuid.size());
  return uuid;
}

[[nodiscard]] inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

/// What this process knows of its devices. One for the process: UUIDs are read once.
class Devices {
 public:
  /// The ordinal here of the device with that UUID. Throws Error(NoDevice).
  int find(const Uuid& uuid) {
    const std::lock_guard lock(mutex_);
    const auto known = ordinals_.find(uuid);
    if (known != ordinals_.end()) return known->second;
    const int count = device_count();
    for (int device = 0; device < count; ++device) ordinals_[uuid_of(device)] = device;
    const auto found = ordinals_.find(uuid);
    if (found != ordinals_.end()) return found->second;
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    throw Error(Errc::NoDevice,
                "the publication is on " + device_text(uuid) + ", which is none of the " +
                    std::to_string(count) + " devices that this process sees (" +
                    (visible != nullptr ? "CUDA_VISIBLE_DEVICES=" + std::string(visible)
                                        : "CUDA_VISIBLE_DEVICES is not set") +
                    "); 'nvidia-smi -L' lists all");
  }

  /// A stream of Tenon's own on `device`, made on first use and never destroyed. It waits for no
  /// other stream, and asking it tells whether the device's context still works.
  cudaStream_t stream(int device) {
    const std::lock_guard lock(mutex_);
    const auto known = streams_.find(device);
    if (known != streams_.end()) return known->second;
    const DeviceScope scope(device);
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    streams_[device] = stream;
    return stream;
  }

  /// The name of the error after which work on `device` does not run; null while all is well, or
  /// when there is no stream of Tenon's there.
  [[nodiscard]] const char* broken(int device) {
    cudaStream_t stream = nullptr;
    {
      const std::lock_guard lock(mutex_);
      const auto known = streams_.find(device);
      if (known == streams_.end()) return nullptr;
      stream = known->second;
    }
    const cudaError_t error = query(device, stream);
    const bool is_capture = error >= cudaErrorStreamCaptureUnsupported &&
                            error <= cudaErrorStreamCaptureWrongThread;  // tells nothing
    return error == cudaSuccess || error == cudaErrorNotReady || is_capture
               ? nullptr
               : cudaGetErrorName(error);
  }

 private:
  static cudaError_t query(int device, cudaStream_t stream) {
    try {
      const DeviceScope scope(device);
      return forgotten(cudaStreamQuery(stream));
    } catch (const CudaError& e) {  // a broken context answers nothing
      return e.error();
    }
  }

  std::mutex mutex_;
  std::map<Uuid, int> ordinals_;
  std::map<int, cudaStream_t> streams_;
};

class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  ~Event() { (void)forgotten(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  [[nodiscard]] bool has_passed() {
    const cudaError_t error = forgotten(cudaEventQuery(event_));
    if (error == cudaErrorNotReady) return false;
    check(error, "waiting for a stream");
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

inline constexpr Duration kPatience = std::chrono::seconds(30);  ///< with work of Tenon's own

/// Waits until what is enqueued on `stream` of the current device has run; throws
/// Error(DeadlinePassed). Not on the step path. Each caller waits for an event of its own: others
/// may keep the stream busy for ever.
inline void wait_for(cudaStream_t stream, Duration timeout, const std::string& doing) {
  const Deadline deadline(timeout);
  Event event;
  event.record(stream);
  constexpr Duration kSpin = std::chrono::milliseconds(2);  // of which sleeping is no small part
  if (spin_until(effective_spin(kSpin), [&] { return event.has_passed(); })) return;
  while (!event.has_passed()) {
    if (deadline.passed()) throw Error(Errc::DeadlinePassed, doing + " was not done in time");
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

struct Allocation {
  const std::byte* base;
  std::uint64_t bytes;
};
/// The allocation that a pointer into device memory lies in.
[[nodiscard]] inline Allocation allocation_of(const void* pointer) {
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  const auto range = driver_function<PFN_cuMemGetAddressRange_v3020>("cuMemGetAddressRange", 3020);
  check(static_cast<cudaError_t>(range(&base, &bytes, reinterpret_cast<CUdeviceptr>(pointer))),
        "cuMemGetAddressRange");
  return {reinterpret_cast<const std::byte*>(base), bytes};
}

/// The device under which a publication's memory is opened: the one that is current, so that no
/// context is made on another one (500 MiB each). Throws Error(NoDevice), Error(NotShareable).
[[nodiscard]] inline int device_for(const Facts& facts) {
  const int theirs = per_process<Devices>().find(facts.device_uuid);
  int mine = 0;
  check(cudaGetDevice(&mine), "cudaGetDevice");
  if (mine == theirs) return mine;
  int reaches = 0;
  check(cudaDeviceCanAccessPeer(&reaches, mine, theirs), "cudaDeviceCanAccessPeer");
  if (reaches != 0) return mine;
  throw Error(Errc::NotShareable,
              "the publication is on device " + std::to_string(theirs) + " (" +
                  device_text(facts.device_uuid) + "), and the current device " +
                  std::to_string(mine) + " has no peer access to it; call cudaSetDevice(" +
                  std::to_string(theirs) +
                  ") before attaching, or publish on a device with a link between them");
}

/// Why a handle could not be opened, as far as that can be told.
[[nodiscard]] inline std::string reason_not_opened(const Facts& facts, int device,
                                                   cudaError_t error) {
  const format::Process me = this_process();
  if (me.pid_namespace != facts.publisher.pid_namespace && me.pid == facts.publisher.pid) {
    return "; publisher and subscriber have the same pid (" + std::to_string(me.pid) +
           ") in different pid namespaces, which CUDA takes for one process: start one of them "
           "again, or share the pid namespace";
  }
  int driver = 0;
  int runtime = 0;
  (void)forgotten(cudaDriverGetVersion(&driver));
  (void)forgotten(cudaRuntimeGetVersion(&runtime));
  if (static_cast<std::uint32_t>(driver) != facts.driver_version ||
      static_cast<std::uint32_t>(runtime) / 1000 != facts.runtime_version / 1000) {
    return "; the publisher has CUDA driver " + std::to_string(facts.driver_version) +
           " and runtime " + std::to_string(facts.runtime_version) + ", this process " +
           std::to_string(driver) + " and " + std::to_string(runtime) +
           ": use the same on both sides";
  }
  if (error == cudaErrorTooManyPeers)
    return "; the current device has as many peers as it can: attach with the publication's device "
           "current";
  cudaDeviceProp properties{};
  if (forgotten(cudaGetDeviceProperties(&properties, device)) == cudaSuccess &&
      std::strstr(properties.name, "MIG") != nullptr)
    return "; memory cannot be shared between MIG GPU instances: run both sides in one instance";
  return "";
}

inline void check_compute_mode(int device) {
  const int mode = attribute(cudaDevAttrComputeMode, device);
  if (mode == cudaComputeModeDefault) return;
  throw Error(Errc::NotShareable,
              "device " + std::to_string(device) + " is in compute mode " +
                  (mode == cudaComputeModeProhibited ? "'prohibited'" : "'exclusive process'") +
                  ", which keeps a second process out: 'nvidia-smi -c DEFAULT' (as root)");
}

/// Frees or closes something of `device`, in destructors. At the end of a process, or of its
/// context, it goes by itself; any other failure is reported.
template <class Call>
void give_back(int device, const char* doing, Call call) noexcept {
  try {
    const DeviceScope scope(device);
    check(call(), doing);
  } catch (const CudaError& e) {
    if (e.error() != cudaErrorCudartUnloading && per_process<Devices>().broken(device) == nullptr)
      report({e.what()});
  }
}

struct CloseHandle {
  int device;
  void operator()(const std::byte* base) const noexcept {
    give_back(device, "cudaIpcCloseMemHandle",
              [base] { return cudaIpcCloseMemHandle(const_cast<std::byte*>(base)); });
  }
};

[[nodiscard]] inline SlotPointer open_slot(const Facts& facts, const format::Slot& slot,
                                           int device) {
  const DeviceScope scope(device);
  check_compute_mode(device);
  (void)per_process<Devices>().stream(device);  // from here on a broken context is noticed
  cudaIpcMemHandle_t handle;
  static_assert(sizeof(handle) == sizeof(slot.handle));
  std::memcpy(&handle, slot.handle, sizeof(handle));
  void* base = nullptr;
  const cudaError_t error =
      forgotten(cudaIpcOpenMemHandle(&base, handle, cudaIpcMemLazyEnablePeerAccess));
  if (error != cudaSuccess) {
    throw CudaError(error, "opening a slot of process " + std::to_string(facts.publisher.pid),
                    reason_not_opened(facts, device, error));
  }
  SlotPointer mapped(static_cast<const std::byte*>(base), CloseHandle{device});
  const Allocation allocation = allocation_of(base);
  const std::uint64_t bytes = allocation.base + allocation.bytes - mapped.get();
  check_field(bytes >= slot.mapped_bytes, "slot.mapped_bytes", slot.mapped_bytes,
              "at most the size of what its handle opens");
  return mapped;
}

[[nodiscard]] inline bool is_pageable(const void* pointer) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeUnregistered;
}

inline void copy(CopyBatch& batch, const std::byte* bucket, Stream stream, int device) {
  const std::size_t count = batch.to.size();
  if (count == 0) return;
  const DeviceScope scope(device);
  if (batch.from.empty()) {  // for the first time
    for (const void* to : batch.to) batch.one_by_one |= is_pageable(to);
    batch.from.resize(count);
  }
  for (std::size_t i = 0; i < count; ++i) batch.from[i] = bucket + batch.offset[i];
  const bool is_default = stream.get() == nullptr || stream.get() == cudaStreamLegacy;
  if (batch.one_by_one || is_default) {  // batches take no default stream
    for (std::size_t i = 0; i < count; ++i)
      check(cudaMemcpyAsync(batch.to[i], batch.from[i], batch.bytes[i], cudaMemcpyDefault,
                            stream.get()),
            "copying out of a slot");
    return;
  }
  cudaMemcpyAttributes in_stream_order{};
  in_stream_order.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t first = 0;
  check(cudaMemcpyBatchAsync(batch.to.data(), batch.from.data(), batch.bytes.data(), count,
                             &in_stream_order, &first, 1, stream.get()),
        "copying out of a slot");
}

/// The device of a stream; a default stream is that of the thread's current device.
[[nodiscard]] inline int device_of(Stream stream) {
  int device = 0;
  check(cudaStreamGetDevice(stream.get(), &device), "cudaStreamGetDevice");
  return device;
}

/// The stream's device must be current.
inline void check_not_capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = forgotten(cudaStreamIsCapturing(stream.get(), &status));
  if (error != cudaErrorStreamCaptureImplicit) check(error, "cudaStreamIsCapturing");
  if (error == cudaSuccess && status == cudaStreamCaptureStatusNone) return;
  throw Error(Errc::Capturing,
              "the stream is being captured: a graph would replay this hand-over; do it outside");
}
inline void check_not_capturing(Stream stream, int device) {
  const DeviceScope scope(device);
  check_not_capturing(stream);
}

/// For work on slots that are open under `device`. Throws Error(Capturing), and InvalidArgument for
/// a stream of another device.
inline void check_stream(Stream stream, int device) {
  const int its = device_of(stream);
  if (its == device) return check_not_capturing(stream, device);
  throw Error(Errc::InvalidArgument,
              "the stream is of device " + std::to_string(its) +
                  " and the publication's memory is in use here under device " +
                  std::to_string(device) + ": pass a stream of that device (a default stream is " +
                  "one of the device that cudaSetDevice chose for this thread)");
}

inline void after(Stream stream, int device, void (*function)(void*), void* argument) {
  (void)per_process<Devices>().stream(device);  // from here on a broken context is noticed
  const DeviceScope scope(device);
  check(cudaLaunchHostFunc(stream.get(), function, argument), "cudaLaunchHostFunc");
}

inline const char* broken(int device) { return per_process<Devices>().broken(device); }

inline constexpr MemoryOps kMemoryOps{
    device_for, open_slot, copy,
    [](int device) { return Stream(per_process<Devices>().stream(device)); }, check_stream};
inline constexpr StreamOps kStreamOps{device_of, check_not_capturing, after, broken};

inline const bool registered = [] {
  memory_ops[static_cast<std::size_t>(MemoryKind::cuda)].store(&kMemoryOps);
  stream_ops.store(&kStreamOps);
  return true;
}();

}  // namespace detail::cuda
}  // namespace tenon
