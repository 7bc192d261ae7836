// How every simulated runtime call begins and ends.
#pragma once

#include <cuda_runtime_api.h>

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "journal.hpp"
#include "process.hpp"

namespace tenon::sim {

/// What a call needs before it can do anything.
enum class Needs {
  nothing,  // works without a driver, after a fault, and does not forbid a later fork
  driver,   // and a visible device
  covered,  // the same, on top of a broken context too
  context,  // and a context on the current device, made when there is none
};

/// Counts the call and says why it cannot be made: a worker of a stream, an injected
/// failure, a broken context, no driver, no device, the compute mode.
[[nodiscard]] cudaError_t admit(const char* function, Needs needs);

/// The last error of this thread becomes `error`, unless that is success.
void set_last_error(cudaError_t error);

/// Runs `body(process)` as the call `function`, and logs its result.
template <class Body>
cudaError_t perform(const char* function, Needs needs, Body body) noexcept {
  if (forked_after_use()) return cudaErrorInitializationError;
  Process& here = process();
  const std::uint64_t place = journal().begin(function);
  cudaError_t result = cudaSuccess;
  try {
    result = admit(function, needs);
    if (result == cudaSuccess) result = body(here);
  } catch (const std::bad_alloc&) {
    result = cudaErrorMemoryAllocation;
  } catch (const std::exception& e) {
    die(std::string(function) + ": " + e.what());
  }
  journal().end(place, result);
  return result;
}

/// The same for a call of the runtime, whose result becomes the last error of the thread.
template <class Body>
cudaError_t enter(const char* function, Needs needs, Body body) noexcept {
  const cudaError_t result = perform(function, needs, std::move(body));
  if (!forked_after_use()) set_last_error(result);
  return result;
}

/// The stream a call names; null when there is none such.
[[nodiscard]] inline std::shared_ptr<Stream> stream_of(Process& here, cudaStream_t handle) {
  return here.streams.find(handle, this_thread().device);
}

/// Queues work on the stream a call names; dropped when it is capturing.
[[nodiscard]] cudaError_t enqueue(Process& here, cudaStream_t handle, Stream::Kind kind,
                                  Stream::Work work);

/// Whether a fault broke the context, of the current device by default, that the caller waited for.
[[nodiscard]] inline cudaError_t after_waiting(const Process& here, int ordinal) {
  return here.is_broken(ordinal) ? cudaErrorIllegalAddress : cudaSuccess;
}
[[nodiscard]] inline cudaError_t after_waiting(const Process& here) {
  return after_waiting(here, this_thread().device);
}

}  // namespace tenon::sim
