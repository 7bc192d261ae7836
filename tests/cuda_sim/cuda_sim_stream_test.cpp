// Streams, events, host functions and capturing in the simulated runtime.
#include <atomic>

#include "test_support.hpp"

extern "C" decltype(cudaMemcpyAsync) cudaMemcpyAsync_ptsz;
extern "C" decltype(cudaStreamSynchronize) cudaStreamSynchronize_ptsz;
extern "C" decltype(cudaLaunchHostFunc) cudaLaunchHostFunc_ptsz;
extern "C" decltype(cudaMemcpy) cudaMemcpy_ptds;

namespace tenon::sim::test {
namespace {

using StreamOrder = Simulated;
using EventRules = Simulated;
using HostFunctions = Simulated;
using Capture = Simulated;

constexpr int kPoisoned = std::to_integer<int>(kPoison);

void add_one(void* counter) { static_cast<std::atomic<int>*>(counter)->fetch_add(1); }

TEST_F(StreamOrder, IsThatOfSubmissionWithinAStreamOnly) {
  const cudaStream_t a = make_stream();
  const cudaStream_t b = make_stream();
  std::byte* device = allocate(4);
  hold_stream(a, true);
  for (int value = 1; value <= 50; ++value) EXPECT_OK(cudaMemsetAsync(device, value, 1, a));
  EXPECT_OK(cudaMemcpyAsync(device + 1, device, 1, cudaMemcpyDeviceToDevice, b));
  EXPECT_OK(cudaStreamSynchronize(b));
  hold_stream(a, false);
  EXPECT_OK(cudaStreamSynchronize(a));
  EXPECT_EQ(read_byte(device), 50);
  EXPECT_EQ(read_byte(device, 1), kPoisoned);  // b did not wait for a
  EXPECT_EQ(calls("cudaMemsetAsync"), 50U);
}

TEST_F(StreamOrder, ShowsAMissingWait) {
  // No holds: the delays alone make who does not wait see the state before, nearly always.
  const Variable delay("TENON_SIM_DELAY_US", "20000");
  const cudaStream_t stream = make_stream();
  std::atomic<int> done{0};
  int early = 0;
  for (int value = 1; value <= 10; ++value) {
    EXPECT_OK(launch(stream, [&done, value] { done = value; }));
    early += done == value ? 0 : 1;
    EXPECT_OK(cudaStreamSynchronize(stream));
    EXPECT_EQ(done, value);
  }
  EXPECT_GE(early, 5);
}

TEST_F(StreamOrder, OfTheLegacyStreamIncludesBlockingStreams) {
  const cudaStream_t blocking = make_stream(cudaStreamDefault);
  const cudaStream_t free = make_stream(cudaStreamNonBlocking);
  std::byte* device = allocate(3);
  hold_stream(blocking, true);
  EXPECT_OK(cudaMemsetAsync(device, 1, 1, blocking));
  EXPECT_OK(cudaMemcpyAsync(device + 1, device, 1, cudaMemcpyDeviceToDevice, nullptr));
  EXPECT_OK(cudaMemsetAsync(device, 2, 1, blocking));  // after the copy
  EXPECT_OK(cudaMemcpyAsync(device + 2, device, 1, cudaMemcpyDeviceToDevice, free));
  EXPECT_OK(cudaStreamSynchronize(free));
  hold_stream(blocking, false);
  EXPECT_OK(cudaDeviceSynchronize());
  EXPECT_EQ(read_byte(device, 0), 2);
  EXPECT_EQ(read_byte(device, 1), 1);
  EXPECT_EQ(read_byte(device, 2), kPoisoned);
  EXPECT_EQ(legacy_stream_uses(), 1U);
  EXPECT_EQ(calls("cudaDeviceSynchronize"), 1U);
}

TEST_F(StreamOrder, HoldsForADefaultStreamPerThread) {
  std::byte* device = allocate(2);
  const char one = 1;
  EXPECT_OK(cudaMemcpyAsync_ptsz(device, &one, 1, cudaMemcpyDefault, nullptr));
  EXPECT_OK(cudaMemcpyAsync_ptsz(device + 1, device, 1, cudaMemcpyDefault, nullptr));
  EXPECT_OK(cudaStreamSynchronize_ptsz(nullptr));
  char back = 0;
  EXPECT_OK(cudaMemcpy_ptds(&back, device + 1, 1, cudaMemcpyDefault));
  EXPECT_EQ(back, 1);
  EXPECT_EQ(legacy_stream_uses(), 0U);
  EXPECT_EQ(calls("cudaMemcpyAsync"), 2U);
}

TEST_F(StreamOrder, SurvivesDestructionOfTheStream) {
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(1);
  hold_stream(stream, true);
  EXPECT_OK(cudaMemsetAsync(device, 5, 1, stream));
  hold_stream(stream, false);
  EXPECT_OK(cudaStreamDestroy(stream));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle);
  EXPECT_OK(cudaDeviceSynchronize());
  EXPECT_EQ(read_byte(device), 5);
}

TEST_F(EventRules, NeverRecordedIsComplete) {
  const cudaEvent_t event = make_event();
  const cudaStream_t stream = make_stream();
  EXPECT_OK(cudaEventQuery(event));
  EXPECT_OK(cudaEventSynchronize(event));
  EXPECT_OK(cudaStreamWaitEvent(stream, event, 0));
  EXPECT_OK(cudaStreamSynchronize(stream));
}

TEST_F(EventRules, AWaitMeansTheLastRecordingAtItsTime) {
  const cudaEvent_t event = make_event();
  const cudaStream_t producer = make_stream();
  const cudaStream_t consumer = make_stream();
  EXPECT_OK(cudaEventRecord(event, producer));
  EXPECT_OK(cudaStreamWaitEvent(consumer, event, 0));
  EXPECT_OK(cudaEventSynchronize(event));
  hold_stream(producer, true);
  EXPECT_OK(cudaEventRecord(event, producer));  // does not concern the wait before
  EXPECT_OK(cudaStreamSynchronize(consumer));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_OK(cudaStreamWaitEvent(consumer, event, 0));
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(cudaStreamQuery(consumer), cudaErrorNotReady);
  hold_stream(producer, false);
  EXPECT_OK(cudaStreamSynchronize(consumer));
  EXPECT_OK(cudaEventQuery(event));
  EXPECT_OK(cudaEventDestroy(event));
  EXPECT_EQ(cudaEventRecord(event, producer), cudaErrorInvalidResourceHandle);
}

TEST_F(EventRules, RecordingsOnTwoStreamsAreToldApart) {
  const cudaEvent_t event = make_event();
  const cudaStream_t slow = make_stream();
  const cudaStream_t fast = make_stream();
  const cudaStream_t waiter = make_stream();
  hold_stream(slow, true);
  EXPECT_OK(cudaEventRecord(event, slow));
  EXPECT_OK(cudaStreamWaitEvent(waiter, event, 0));
  EXPECT_OK(cudaEventRecord(event, fast));
  EXPECT_OK(cudaEventSynchronize(event));
  EXPECT_EQ(cudaStreamQuery(waiter), cudaErrorNotReady);
  hold_stream(slow, false);
  EXPECT_OK(cudaStreamSynchronize(waiter));
}

TEST_F(EventRules, KeepTimeUnlessToldNotTo) {
  const cudaStream_t stream = make_stream();
  cudaEvent_t first = nullptr;
  EXPECT_OK(cudaEventCreate(&first));
  const cudaEvent_t last = make_event(cudaEventDefault);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, first, last), cudaErrorInvalidResourceHandle);
  EXPECT_OK(cudaEventRecord(first, stream));
  EXPECT_OK(launch(stream, [] { std::this_thread::sleep_for(5ms); }));
  hold_stream(stream, true);
  EXPECT_OK(cudaEventRecord(last, stream));
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, first, last), cudaErrorNotReady);
  hold_stream(stream, false);
  EXPECT_OK(cudaEventSynchronize(last));
  EXPECT_OK(cudaEventElapsedTime(&milliseconds, first, last));
  EXPECT_GE(milliseconds, 0.0F);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, first, make_event()),
            cudaErrorInvalidResourceHandle);
}

TEST_F(EventRules, InterprocessOnesMustNotKeepTime) {
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventInterprocess), cudaErrorInvalidValue);
  cudaIpcEventHandle_t handle;
  EXPECT_EQ(cudaIpcGetEventHandle(&handle, make_event()), cudaErrorInvalidResourceHandle);
  event = make_event(cudaEventInterprocess | cudaEventDisableTiming);
  EXPECT_OK(cudaIpcGetEventHandle(&handle, event));
  EXPECT_EQ(cudaIpcOpenEventHandle(&event, handle), cudaErrorDeviceUninitialized);
}

TEST_F(HostFunctions, RunBehindTheWorkBeforeThem) {
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(1);
  struct Seen {
    void* device;
    std::atomic<int> value{-1};
  } seen{host_view(device)};
  EXPECT_OK(cudaMemsetAsync(device, 3, 1, stream));
  const auto look = [](void* argument) {
    auto* at = static_cast<Seen*>(argument);
    at->value = *static_cast<unsigned char*>(at->device);
  };
  EXPECT_OK(cudaLaunchHostFunc(stream, look, &seen));
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(seen.value, 3);
  EXPECT_EQ(cudaLaunchHostFunc(stream, nullptr, nullptr), cudaErrorInvalidValue);
  std::atomic<int> count{0};
  EXPECT_OK(cudaLaunchHostFunc_ptsz(nullptr, add_one, &count));
  EXPECT_OK(cudaStreamSynchronize_ptsz(nullptr));
  EXPECT_EQ(count, 1);
}

TEST_F(HostFunctions, CanBeHeldForever) {
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(1);
  static std::atomic<int> count{0};
  hold_host_functions(true);
  const cudaEvent_t event = make_event();
  EXPECT_OK(cudaMemsetAsync(device, 4, 1, stream));
  EXPECT_OK(cudaEventRecord(event, stream));
  EXPECT_OK(cudaLaunchHostFunc(stream, add_one, &count));
  EXPECT_OK(cudaEventSynchronize(event));
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(count, 0);
  hold_host_functions(false);
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(count, 1);
  hold_host_functions(true);
  EXPECT_OK(cudaLaunchHostFunc(stream, add_one, &count));
  reset_process();
  EXPECT_EQ(count, 1);
}

TEST_F(HostFunctions, OfAllStreamsRunOneAfterTheOther) {
  struct Seen {
    std::atomic<int> running{0};
    std::atomic<int> most{0};
    std::atomic<int> ran{0};
  } seen;
  const auto function = [](void* argument) {
    auto* at = static_cast<Seen*>(argument);
    const int now = ++at->running;
    if (now > at->most) at->most = now;
    std::this_thread::sleep_for(2ms);
    --at->running;
    ++at->ran;
  };
  EXPECT_OK(cudaSetDevice(1));
  std::vector<cudaStream_t> streams{make_stream(), make_stream()};
  EXPECT_OK(cudaSetDevice(0));
  for (int i = 0; i < 3; ++i) streams.push_back(make_stream());
  for (const cudaStream_t stream : streams) {
    for (int i = 0; i < 3; ++i) EXPECT_OK(cudaLaunchHostFunc(stream, function, &seen));
  }
  for (const cudaStream_t stream : streams) EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(seen.most, 1);
  EXPECT_EQ(seen.ran, 15);
}

TEST_F(HostFunctions, ThatAreSlowDelayThoseOfOtherStreamsAndNoOtherWork) {
  static std::atomic<bool> begun{false};
  static std::atomic<bool> go_on{false};
  begun = go_on = false;
  const cudaStream_t slow = make_stream();
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(1);
  std::atomic<int> count{0};
  EXPECT_OK(cudaLaunchHostFunc(
      slow,
      [](void*) {
        begun = true;
        while (!go_on) std::this_thread::sleep_for(100us);
      },
      nullptr));
  while (!begun) std::this_thread::sleep_for(100us);
  const cudaEvent_t event = make_event();
  EXPECT_OK(cudaMemsetAsync(device, 3, 1, stream));
  EXPECT_OK(cudaEventRecord(event, stream));
  EXPECT_OK(cudaLaunchHostFunc(stream, add_one, &count));
  EXPECT_OK(cudaEventSynchronize(event));
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(count, 0);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  go_on = true;
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(count, 1);
}

TEST_F(HostFunctions, MustCallNoCuda) {
  const cudaStream_t stream = make_stream();
  static std::atomic<int> error{-1};
  error = -1;
  EXPECT_OK(cudaLaunchHostFunc(
      stream,
      [](void*) {
        int count = 0;
        error = cudaGetDeviceCount(&count);
      },
      nullptr));
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(error, cudaErrorNotPermitted);
  EXPECT_EQ(violations(), 1U);
  ASSERT_EQ(violation_log().size(), 1U);
  EXPECT_NE(violation_log()[0].find("cudaGetDeviceCount"), std::string::npos);
}

TEST_F(Capture, DropsWorkAndForbidsWaiting) {
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(1);
  std::atomic<int> count{0};
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusInvalidated;
  EXPECT_OK(cudaStreamIsCapturing(stream, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusNone);
  EXPECT_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  EXPECT_OK(cudaStreamIsCapturing(stream, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  EXPECT_OK(cudaLaunchHostFunc(stream, add_one, &count));
  EXPECT_OK(cudaMemsetAsync(device, 1, 1, stream));
  cudaGraph_t graph = nullptr;
  EXPECT_OK(cudaStreamEndCapture(stream, &graph));
  EXPECT_OK(cudaGraphDestroy(graph));
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(count, 0);
  EXPECT_EQ(read_byte(device), kPoisoned);
  EXPECT_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaMemsetAsync(device, 1, 1, stream), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorIllegalState);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal),
            cudaErrorStreamCaptureUnsupported);
}

}  // namespace
}  // namespace tenon::sim::test
