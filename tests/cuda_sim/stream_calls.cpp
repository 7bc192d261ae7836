// Streams, host functions, and as much of capturing as it takes to refuse it.
#include "call.hpp"

using namespace tenon::sim;

namespace {

cudaError_t create(const char* function, cudaStream_t* stream, unsigned flags) {
  return enter(function, Needs::context, [&](Process& here) {
    if (stream == nullptr || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking))
      return cudaErrorInvalidValue;
    *stream = here.streams.create(this_thread().device, flags == cudaStreamDefault);
    return cudaSuccess;
  });
}

/// The stream, for a call that a capturing stream forbids (and that spoils the capture).
cudaError_t uncaptured(Process& here, cudaStream_t handle, std::shared_ptr<Stream>& stream) {
  stream = stream_of(here, handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture == cudaStreamCaptureStatusNone) return cudaSuccess;
  stream->capture = cudaStreamCaptureStatusInvalidated;
  return cudaErrorStreamCaptureUnsupported;
}

bool is_legacy(cudaStream_t stream) { return stream == nullptr || stream == cudaStreamLegacy; }

}  // namespace

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return create("cudaStreamCreate", stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return create("cudaStreamCreateWithFlags", stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return enter("cudaStreamDestroy", Needs::context, [&](Process& here) {
    return here.streams.destroy(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return enter("cudaStreamSynchronize", Needs::context, [&](Process& here) {
    std::shared_ptr<Stream> stream;
    const cudaError_t error = uncaptured(here, handle, stream);
    if (error != cudaSuccess) return error;
    stream->wait(stream->last());
    return after_waiting(here, stream->options().device);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return enter("cudaStreamQuery", Needs::context, [&](Process& here) {
    std::shared_ptr<Stream> stream;
    const cudaError_t error = uncaptured(here, handle, stream);
    if (error != cudaSuccess) return error;
    if (!stream->idle()) return cudaErrorNotReady;
    return after_waiting(here, stream->options().device);
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return enter("cudaLaunchHostFunc", Needs::context, [&](Process& here) {
    if (function == nullptr) return cudaErrorInvalidValue;
    return enqueue(here, stream, Stream::Kind::host_function,
                   [function, argument] { function(argument); });
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return enter("cudaStreamBeginCapture", Needs::context, [&](Process& here) {
    if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed)
      return cudaErrorInvalidValue;
    if (is_legacy(handle)) return cudaErrorStreamCaptureUnsupported;
    const auto stream = stream_of(here, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture != cudaStreamCaptureStatusNone) return cudaErrorIllegalState;
    stream->capture = cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return enter("cudaStreamEndCapture", Needs::context, [&](Process& here) {
    if (graph == nullptr) return cudaErrorInvalidValue;
    *graph = nullptr;
    const auto stream = stream_of(here, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    const cudaStreamCaptureStatus was = stream->capture.exchange(cudaStreamCaptureStatusNone);
    if (was == cudaStreamCaptureStatusNone) return cudaErrorIllegalState;
    if (was == cudaStreamCaptureStatusInvalidated) return cudaErrorStreamCaptureInvalidated;
    *graph = reinterpret_cast<cudaGraph_t>(handle);  // only to be destroyed
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return enter("cudaStreamIsCapturing", Needs::context, [&](Process& here) {
    if (status == nullptr) return cudaErrorInvalidValue;
    if (is_legacy(handle) && here.streams.blocking_capture(this_thread().device))
      return cudaErrorStreamCaptureImplicit;
    const auto stream = stream_of(here, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    *status = stream->capture;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  return enter("cudaStreamGetDevice", Needs::driver, [&](Process& here) {
    if (device == nullptr) return cudaErrorInvalidValue;
    const auto stream = stream_of(here, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    *device = stream->options().device;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return enter("cudaGraphDestroy", Needs::context,
               [&](Process&) { return graph == nullptr ? cudaErrorInvalidValue : cudaSuccess; });
}
