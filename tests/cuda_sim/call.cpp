#include "call.hpp"

namespace tenon::sim {

cudaError_t admit(const char* function, Needs needs) {
  Process& here = process();
  if (is_worker()) {
    here.node.violation(std::string(function) + " called from a host function or kernel");
    return cudaErrorNotPermitted;
  }
  if (const auto error = journal().injected(function)) return *error;
  if (needs == Needs::nothing) return cudaSuccess;
  here.used = true;
  ThreadState& thread = this_thread();
  if (needs != Needs::covered && here.is_broken(thread.device)) return cudaErrorIllegalAddress;
  // A driver runs programs of its own and of earlier major versions.
  if (here.config.driver / 1000 < here.config.runtime / 1000) return cudaErrorInsufficientDriver;
  if (here.config.visible.empty()) return cudaErrorNoDevice;
  if (needs != Needs::context) return cudaSuccess;
  if (!here.make_context(thread.device)) return cudaErrorDevicesUnavailable;
  thread.has_context = true;
  return cudaSuccess;
}

void set_last_error(cudaError_t error) {
  if (error != cudaSuccess) this_thread().last_error = error;
}

cudaError_t enqueue(Process& here, cudaStream_t handle, Stream::Kind kind, Stream::Work work) {
  const auto stream = stream_of(here, handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (here.is_broken(stream->options().device)) return cudaErrorIllegalAddress;
  if (stream->capture == cudaStreamCaptureStatusInvalidated)
    return cudaErrorStreamCaptureInvalidated;
  if (stream->capture == cudaStreamCaptureStatusNone)
    here.streams.submit(stream, kind, std::move(work));
  return cudaSuccess;
}

}  // namespace tenon::sim
