// Events, and what waits for them.
#include <sys/mman.h>

#include "call.hpp"

using namespace tenon::sim;

namespace {

cudaError_t create(const char* function, cudaEvent_t* event, unsigned flags) {
  return enter(function, Needs::context, [&](Process& here) {
    constexpr unsigned known =
        cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
    const bool shared = (flags & cudaEventInterprocess) != 0;
    if (event == nullptr || (flags & ~known) != 0) return cudaErrorInvalidValue;
    if (shared && (flags & cudaEventDisableTiming) == 0) return cudaErrorInvalidValue;
    Event made{.flags = flags, .device = this_thread().device, .number = here.events.next_number()};
    made.state = shared ? shared_event(here.node.event_object(here.id, made.number), true)
                        : std::make_shared<EventState>();
    if (made.state == nullptr) return cudaErrorMemoryAllocation;
    *event = here.events.add(std::move(made));
    return cudaSuccess;
  });
}

bool keeps_time(const Event& event) {
  return (event.flags & cudaEventDisableTiming) == 0 && event.state->recorded != 0;
}

}  // namespace

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return create("cudaEventCreate", event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return create("cudaEventCreateWithFlags", event, flags);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return enter("cudaEventDestroy", Needs::context, [&](Process& here) {
    const auto event = here.events.take(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if ((event->flags & cudaEventInterprocess) != 0 && !event->imported)
      ::shm_unlink(("/" + here.node.event_object(here.id, event->number)).c_str());
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  return enter("cudaEventRecord", Needs::context, [&](Process& here) {
    const auto event = here.events.find(handle);
    const auto stream = stream_of(here, stream_handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->device != stream->options().device) return cudaErrorInvalidResourceHandle;
    if (stream->capture == cudaStreamCaptureStatusInvalidated)
      return cudaErrorStreamCaptureInvalidated;
    if (stream->capture == cudaStreamCaptureStatusActive) return cudaSuccess;
    const std::uint64_t recording = event->state->recorded.fetch_add(1) + 1;
    here.streams.submit(stream, Stream::Kind::device_work,
                        [state = event->state, recording] { state->complete(recording); });
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return enter("cudaEventQuery", Needs::context, [&](Process& here) {
    const auto event = here.events.find(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    return event->state->is_done(event->state->recorded) ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return enter("cudaEventSynchronize", Needs::context, [&](Process& here) {
    const auto event = here.events.find(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    event->state->wait(event->state->recorded, [&] { return here.is_broken(event->device); });
    return after_waiting(here, event->device);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned flags) {
  return enter("cudaStreamWaitEvent", Needs::context, [&](Process& here) {
    if ((flags & ~static_cast<unsigned>(cudaEventWaitExternal)) != 0) return cudaErrorInvalidValue;
    const auto event = here.events.find(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    // The recording that is the last one now: later ones do not change what is waited for.
    return enqueue(here, stream, Stream::Kind::device_work,
                   [&here, event, recording = event->state->recorded.load()] {
                     event->state->wait(recording, [&] {
                       return here.pacing.abandoned(worker_device()) ||
                              here.is_broken(event->device);
                     });
                   });
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t last) {
  return enter("cudaEventElapsedTime", Needs::context, [&](Process& here) {
    if (milliseconds == nullptr) return cudaErrorInvalidValue;
    const auto from = here.events.find(first);
    const auto to = here.events.find(last);
    if (from == nullptr || to == nullptr || !keeps_time(*from) || !keeps_time(*to))
      return cudaErrorInvalidResourceHandle;
    if (!from->state->is_done(from->state->recorded) || !to->state->is_done(to->state->recorded))
      return cudaErrorNotReady;
    const auto difference = static_cast<std::int64_t>(to->state->done_ns) -
                            static_cast<std::int64_t>(from->state->done_ns);
    *milliseconds = static_cast<float>(difference) / 1e6F;
    return cudaSuccess;
  });
}
