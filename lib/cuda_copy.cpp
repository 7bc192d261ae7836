#include "cuda_copy.hpp"

#include <optional>
#include <string>
#include <tenon/cuda.hpp>
#include <tenon/detail/wait.hpp>
#include <thread>

namespace tenon {
namespace {

namespace cuda = detail::cuda;

class Event {
 public:
  Event() {
    cuda::check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~Event() { (void)cuda::forgotten(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) {
    cuda::check(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  [[nodiscard]] bool has_passed() {
    const cudaError_t error = cuda::forgotten(cudaEventQuery(event_));
    if (error == cudaErrorNotReady) return false;
    cuda::check(error, "waiting for a copy");
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// The device whose memory that is; empty for host memory.
std::optional<int> device_of(const void* pointer) {
  cudaPointerAttributes attributes{};
  cuda::check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    return std::nullopt;
  return attributes.device;
}

}  // namespace

// Each caller waits for an event of its own: others may keep the stream busy for ever.
void cuda_copy_and_wait(void* to, const void* from, std::uint64_t bytes, Duration timeout) {
  const detail::Deadline deadline(timeout);
  (void)cuda::device_count();  // so that a machine without a GPU is told of as one
  const int device = device_of(to).value_or(device_of(from).value_or(0));
  const cuda::DeviceScope scope(device);  // the calling thread may never have chosen one
  const cudaStream_t stream = detail::per_process<cuda::Devices>().stream(device);
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  Event event;
  event.record(stream);
  constexpr Duration kSpin = std::chrono::milliseconds(2);  // of which sleeping is no small part
  if (detail::spin_until(detail::effective_spin(kSpin), [&] { return event.has_passed(); })) return;
  while (!event.has_passed()) {
    if (deadline.passed())
      throw Error(Errc::DeadlinePassed,
                  "copying " + std::to_string(bytes) + " bytes was not done in time");
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

}  // namespace tenon
