// The simulated runtime within one process: devices, memory, copies, errors. Streams:
// cuda_sim_stream_test.cpp; between processes: cuda_sim_ipc_test.cpp.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <array>
#include <atomic>

#include "test_support.hpp"

namespace tenon::sim::test {
namespace {

using Devices = Simulated;
using Memory = Simulated;
using Copies = Simulated;
using Errors = Simulated;
using Driver = Simulated;
using Forks = Simulated;

constexpr int kPoisoned = std::to_integer<int>(kPoison);

std::string uuid_of_ordinal(int ordinal) {
  cudaDeviceProp properties;
  EXPECT_OK(cudaGetDeviceProperties(&properties, ordinal));
  for (int device = 0; device < 4; ++device) {
    std::string hex;
    for (const char byte : properties.uuid.bytes) {
      char text[3];
      std::snprintf(text, sizeof text, "%02x", static_cast<unsigned char>(byte));
      hex += text;
    }
    std::string known = device_uuid(device).substr(4);
    std::erase(known, '-');
    if (known == hex) return device_uuid(device);
  }
  return "unknown";
}

int device_count() {
  int count = -1;
  const cudaError_t error = cudaGetDeviceCount(&count);
  return error == cudaSuccess ? count : -static_cast<int>(error);
}

/// The devices that CUDA_VISIBLE_DEVICES makes visible of four; {-100} for cudaErrorNoDevice.
std::vector<int> visible_with(const std::string& value) {
  const Variable devices("TENON_SIM_DEVICES", "4");
  const Variable visible("CUDA_VISIBLE_DEVICES", value);
  reset_process();
  std::vector<int> found;
  const int count = device_count();
  if (count < 0) return {count};
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    for (int device = 0; device < 4; ++device) {
      if (uuid_of_ordinal(ordinal) == device_uuid(device)) found.push_back(device);
    }
  }
  return found;
}

TEST_F(Devices, AreTwoWithNamesAndDistinctUuids) {
  EXPECT_EQ(device_count(), 2);
  EXPECT_NE(device_uuid(0), device_uuid(1));
  EXPECT_EQ(uuid_of_ordinal(0), device_uuid(0));
  EXPECT_EQ(uuid_of_ordinal(1), device_uuid(1));
  cudaDeviceProp properties;
  ASSERT_OK(cudaGetDeviceProperties(&properties, 1));
  EXPECT_STREQ(properties.name, "Tenon simulated GPU");
  EXPECT_EQ(properties.totalGlobalMem, std::size_t{4} << 30U);
  EXPECT_GT(properties.multiProcessorCount, 0);
  EXPECT_EQ(properties.major, 9);
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
}

TEST_F(Devices, FollowCudaVisibleDevices) {
  using List = std::vector<int>;
  EXPECT_EQ(visible_with("2,0"), (List{2, 0}));
  EXPECT_EQ(visible_with("3"), (List{3}));
  EXPECT_EQ(visible_with(device_uuid(1) + ",0"), (List{1, 0}));
  EXPECT_EQ(visible_with(device_uuid(3).substr(0, 20)), (List{3}));
  EXPECT_EQ(visible_with("1,9,0"), (List{1}));
  EXPECT_EQ(visible_with("1,1"), (List{-cudaErrorNoDevice}));
  EXPECT_EQ(visible_with(""), (List{-cudaErrorNoDevice}));
  EXPECT_EQ(visible_with("-1"), (List{-cudaErrorNoDevice}));
}

TEST_F(Devices, MayHaveNoDriver) {
  const Variable none("TENON_SIM_DRIVER", "0");
  int count = -1;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
  EXPECT_EQ(count, -1);
  int version = -1;
  EXPECT_OK(cudaDriverGetVersion(&version));
  EXPECT_EQ(version, 0);
  EXPECT_OK(cudaRuntimeGetVersion(&version));
  EXPECT_EQ(version, CUDART_VERSION);
}

TEST_F(Devices, ReachEachOtherUnlessToldNotTo) {
  int can = -1;
  EXPECT_OK(cudaDeviceCanAccessPeer(&can, 0, 1));
  EXPECT_EQ(can, 1);
  EXPECT_OK(cudaDeviceEnablePeerAccess(1, 0));
  EXPECT_EQ(cudaDeviceEnablePeerAccess(1, 0), cudaErrorPeerAccessAlreadyEnabled);
  EXPECT_EQ(cudaDeviceEnablePeerAccess(0, 0), cudaErrorInvalidDevice);
  reset_process();
  const Variable four("TENON_SIM_DEVICES", "4");
  const Variable pairs("TENON_SIM_NO_PEER", "0-1,2-3");
  EXPECT_OK(cudaDeviceCanAccessPeer(&can, 1, 0));
  EXPECT_EQ(can, 0);
  EXPECT_OK(cudaDeviceCanAccessPeer(&can, 0, 2));
  EXPECT_EQ(can, 1);
  EXPECT_EQ(cudaDeviceEnablePeerAccess(1, 0), cudaErrorPeerAccessUnsupported);
}

TEST_F(Devices, AnswerForAttributesAndComputeMode) {
  const Variable mode("TENON_SIM_COMPUTE_MODE", "prohibited");
  const Variable other("TENON_SIM_ATTRIBUTES", "125:0,133:1");
  int value = -1;
  EXPECT_OK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeMode, 0));
  EXPECT_EQ(value, cudaComputeModeProhibited);
  EXPECT_OK(cudaDeviceGetAttribute(&value, cudaDevAttrIpcEventSupport, 0));
  EXPECT_EQ(value, 0);
  EXPECT_OK(cudaDeviceGetAttribute(&value, cudaDevAttrMpsEnabled, 1));
  EXPECT_EQ(value, 1);
  EXPECT_OK(cudaDeviceGetAttribute(&value, cudaDevAttrUnifiedAddressing, 0));
  EXPECT_EQ(value, 1);
  void* pointer = nullptr;
  EXPECT_EQ(cudaMalloc(&pointer, 1), cudaErrorDevicesUnavailable);
}

TEST_F(Memory, IsPoisonedAndLimitedPerDevice) {
  const Variable limit("TENON_SIM_MEMORY", "100000");
  std::byte* first = allocate(60000);
  EXPECT_EQ(read_byte(first), kPoisoned);
  EXPECT_EQ(read_byte(first, 59999), kPoisoned);
  void* second = nullptr;
  EXPECT_EQ(cudaMalloc(&second, 40001), cudaErrorMemoryAllocation);
  EXPECT_EQ(second, nullptr);
  std::size_t free = 0;
  std::size_t total = 0;
  EXPECT_OK(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, 40000U);
  EXPECT_EQ(total, 100000U);
  EXPECT_OK(cudaSetDevice(1));
  EXPECT_OK(cudaMalloc(&second, 100000));
  EXPECT_EQ(live_allocations(), 2U);
  EXPECT_EQ(bytes_in_use(0), 60000U);
  EXPECT_EQ(bytes_in_use(1), 100000U);
  EXPECT_OK(cudaFree(second));
  EXPECT_OK(cudaFree(first));
  EXPECT_EQ(live_allocations(), 0U);
}

TEST_F(Memory, IsFreedOnceAndFromItsBase) {
  std::byte* pointer = allocate(1000);
  int host = 0;
  EXPECT_EQ(cudaFree(pointer + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(&host), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(pointer), cudaErrorInvalidValue);
  EXPECT_OK(cudaFree(nullptr));
  EXPECT_OK(cudaFree(pointer));
  EXPECT_EQ(cudaFree(pointer), cudaErrorInvalidValue);
  EXPECT_TRUE(faults([&] { *static_cast<volatile std::byte*>(pointer) = std::byte{1}; }));
  void* nothing = &host;
  EXPECT_OK(cudaMalloc(&nothing, 0));
  EXPECT_EQ(nothing, nullptr);
}

TEST_F(Memory, FreedTwiceInStreamOrderIsAViolation) {
  const cudaStream_t stream = make_stream();
  std::byte* pointer = allocate(1000);
  hold_stream(stream, true);
  EXPECT_OK(cudaFreeAsync(pointer, stream));
  EXPECT_EQ(live_allocations(), 1U);
  EXPECT_OK(cudaFreeAsync(pointer, stream));
  hold_stream(stream, false);
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(live_allocations(), 0U);
  EXPECT_EQ(violations(), 1U);
}

TEST_F(Memory, IsSafeFromSeveralThreads) {
  std::vector<std::thread> threads;
  for (int i = 1; i <= 4; ++i) {
    threads.emplace_back([i] {
      EXPECT_OK(cudaSetDevice(i % 2));
      const cudaStream_t stream = make_stream();
      for (int round = 0; round < 10; ++round) {
        std::byte* memory = allocate(100);
        EXPECT_OK(cudaMemsetAsync(memory, i, 100, stream));
        EXPECT_OK(cudaStreamSynchronize(stream));
        EXPECT_EQ(read_byte(memory), i);
        EXPECT_OK(cudaFree(memory));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(live_allocations(), 0U);
}

TEST_F(Memory, TellsWhatAPointerIs) {
  ASSERT_OK(cudaSetDevice(1));
  std::byte* device = allocate(1000);
  void* managed = nullptr;
  void* pinned = nullptr;
  void* pool = nullptr;
  int host = 0;
  EXPECT_OK(cudaMallocManaged(&managed, 100, cudaMemAttachGlobal));
  EXPECT_OK(cudaHostAlloc(&pinned, 100, cudaHostAllocDefault));
  EXPECT_OK(cudaMallocAsync(&pool, 100, cudaStreamPerThread));
  const auto type = [](const void* pointer) {
    cudaPointerAttributes attributes;
    EXPECT_OK(cudaPointerGetAttributes(&attributes, pointer));
    return std::pair(attributes.type, attributes.device);
  };
  EXPECT_EQ(type(device + 999), std::pair(cudaMemoryTypeDevice, 1));
  EXPECT_EQ(type(device + 1000), std::pair(cudaMemoryTypeUnregistered, cudaInvalidDeviceId));
  EXPECT_EQ(type(managed), std::pair(cudaMemoryTypeManaged, 1));
  EXPECT_EQ(type(pinned), std::pair(cudaMemoryTypeHost, 1));
  EXPECT_EQ(type(pool), std::pair(cudaMemoryTypeDevice, 1));
  EXPECT_EQ(type(&host), std::pair(cudaMemoryTypeUnregistered, cudaInvalidDeviceId));
  cudaIpcMemHandle_t handle;
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, managed), cudaErrorInvalidValue);
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, pool), cudaErrorInvalidValue);
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, pinned), cudaErrorInvalidValue);
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, &host), cudaErrorInvalidValue);
  EXPECT_EQ(bytes_in_use(1), 1100U);
  EXPECT_OK(cudaFreeAsync(pool, cudaStreamPerThread));
  EXPECT_OK(cudaStreamSynchronize(cudaStreamPerThread));
  EXPECT_EQ(bytes_in_use(1), 1000U);
  EXPECT_OK(cudaFree(managed));
  EXPECT_OK(cudaFreeHost(pinned));
}

TEST_F(Memory, CanBeClosedToTheHost) {
  const Variable closed("TENON_SIM_HOST_ACCESS", "0");
  std::byte* device = allocate(100);
  EXPECT_TRUE(faults([&] { (void)*static_cast<volatile std::byte*>(device); }));
  EXPECT_EQ(read_byte(device), kPoisoned);
  EXPECT_OK(cudaMemset(device, 7, 100));
  EXPECT_EQ(read_byte(device, 99), 7);
  EXPECT_EQ(static_cast<unsigned char*>(host_view(device + 50))[0], 7);
}

TEST_F(Copies, ReadTheirSourceWhenTheyRun) {
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(64);
  std::array<char, 64> source{};
  source.fill(1);
  hold_stream(stream, true);
  EXPECT_OK(cudaMemcpyAsync(device, source.data(), 64, cudaMemcpyHostToDevice, stream));
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);  // that too
  source.fill(2);                                    // too early
  hold_stream(stream, false);
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_OK(cudaStreamQuery(stream));
  EXPECT_EQ(read_byte(device), 2);
  EXPECT_EQ(bytes_copied(), 65U);
}

// A call that returns has read its source. What it wrote is there for the default stream alone.
TEST_F(Copies, OnTheDefaultStreamMayArriveAfterTheCallHasReturned) {
  const Variable delay("TENON_SIM_DELAY_US", "5000");
  const cudaStream_t apart = make_stream();
  std::byte* device = allocate(1);
  std::byte* other = allocate(1);
  const auto seen_apart = [&] {
    std::byte seen{};
    EXPECT_OK(cudaMemcpyAsync(&seen, device, 1, cudaMemcpyDeviceToHost, apart));
    EXPECT_OK(cudaStreamSynchronize(apart));
    return static_cast<int>(seen);
  };
  const auto comes_late = [&](const std::function<void(std::byte)>& write) {
    bool late = false;
    for (int value = 1; value <= 100 && !late; ++value) {
      write(static_cast<std::byte>(value));
      late = seen_apart() != value;
      EXPECT_EQ(read_byte(device), value);
    }
    return late;
  };
  EXPECT_TRUE(comes_late([&](std::byte value) {
    EXPECT_OK(cudaMemcpy(device, &value, 1, cudaMemcpyHostToDevice));
    value = std::byte{0xFF};  // in time: it has been read
  }));
  EXPECT_TRUE(comes_late(
      [&](std::byte value) { EXPECT_OK(cudaMemset(device, static_cast<int>(value), 1)); }));
  EXPECT_TRUE(comes_late([&](std::byte value) {
    EXPECT_OK(cudaMemset(other, static_cast<int>(value), 1));
    EXPECT_OK(cudaMemcpy(device, other, 1, cudaMemcpyDeviceToDevice));
  }));
  void* pinned = nullptr;
  EXPECT_OK(cudaMallocHost(&pinned, 1));
  EXPECT_FALSE(comes_late([&](std::byte value) {
    *static_cast<std::byte*>(pinned) = value;
    EXPECT_OK(cudaMemcpy(device, pinned, 1, cudaMemcpyHostToDevice));
  })) << "a copy from page-locked memory is waited for";
  EXPECT_OK(cudaFreeHost(pinned));
}

TEST_F(Copies, RefuseWhatTheyCanSeeIsWrong) {
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(64);
  char host[64] = {};
  const auto copy = [&](void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, bytes, kind, stream);
  };
  EXPECT_EQ(copy(host, host + 32, 8, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device, device + 32, 8, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device, host, 64, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device + 1, host, 64, cudaMemcpyDefault), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device, nullptr, 1, cudaMemcpyDefault), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device, host, 1, static_cast<cudaMemcpyKind>(7)), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemsetAsync(host, 0, 64, stream), cudaErrorInvalidValue);
  EXPECT_OK(copy(nullptr, nullptr, 0, cudaMemcpyDefault));
  EXPECT_OK(copy(device + 32, device, 32, cudaMemcpyDeviceToDevice));
  EXPECT_OK(cudaStreamSynchronize(stream));
}

TEST_F(Copies, GoInBatches) {
  const cudaStream_t stream = make_stream();
  std::byte* device = allocate(100);
  char staged[50];
  char late[50];
  std::memset(staged, 1, sizeof staged);
  std::memset(late, 1, sizeof late);
  void* to[] = {device, device + 50};
  const void* from[] = {staged, late};
  const std::size_t bytes[] = {50, 50};
  cudaMemcpyAttributes attributes[2] = {};
  attributes[0].srcAccessOrder = cudaMemcpySrcAccessOrderDuringApiCall;
  attributes[1].srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t first[] = {0, 1};
  hold_stream(stream, true);
  EXPECT_OK(cudaMemcpyBatchAsync(to, from, bytes, 2, attributes, first, 2, stream));
  std::memset(staged, 2, sizeof staged);
  std::memset(late, 2, sizeof late);
  hold_stream(stream, false);
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_EQ(read_byte(device, 49), 1);
  EXPECT_EQ(read_byte(device, 50), 2);
  EXPECT_EQ(cudaMemcpyBatchAsync(to, from, bytes, 2, attributes, first, 2, nullptr),
            cudaErrorInvalidValue);
  first[0] = 1;
  EXPECT_EQ(cudaMemcpyBatchAsync(to, from, bytes, 2, attributes, first, 2, stream),
            cudaErrorInvalidValue);
  attributes[0].srcAccessOrder = cudaMemcpySrcAccessOrderInvalid;
  first[0] = 0;
  EXPECT_EQ(cudaMemcpyBatchAsync(to, from, bytes, 2, attributes, first, 1, stream),
            cudaErrorInvalidValue);
}

void add_one(void* counter) { static_cast<std::atomic<int>*>(counter)->fetch_add(1); }

TEST_F(Errors, AreKeptPerThreadUntilAsked) {
  EXPECT_EQ(cudaSetDevice(9), cudaErrorInvalidDevice);
  int count = 0;
  EXPECT_OK(cudaGetDeviceCount(&count));  // a success does not clear it
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorInvalidDevice);
  std::thread([] { EXPECT_OK(cudaGetLastError()); }).join();
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
  EXPECT_OK(cudaGetLastError());
  EXPECT_STREQ(cudaGetErrorName(cudaErrorDeviceUninitialized), "cudaErrorDeviceUninitialized");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  EXPECT_STREQ(cudaGetErrorName(static_cast<cudaError_t>(12345)), "unrecognized error code");
}

TEST_F(Errors, OfAKernelStick) {
  const cudaStream_t stream = make_stream();
  static std::atomic<int> count{0};
  count = 0;
  std::byte* device = allocate(8);
  hold_stream(stream, true);
  EXPECT_OK(cudaLaunchHostFunc(stream, add_one, &count));
  EXPECT_OK(launch(stream, [] { break_context(); }));
  EXPECT_OK(cudaLaunchHostFunc(stream, add_one, &count));
  hold_stream(stream, false);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_OK(cudaGetLastError());  // which does not say whether the context works
  EXPECT_EQ(cudaFree(device), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorIllegalAddress);
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(count, 1);
  EXPECT_EQ(live_allocations(), 1U);
  reset_process();
  EXPECT_EQ(live_allocations(), 0U);
  EXPECT_OK(cudaFree(nullptr));
}

TEST_F(Errors, OfAKernelMayBeToldLater) {
  static std::atomic<int> behind{0};
  static std::atomic<int> elsewhere{0};
  behind = elsewhere = 0;
  static std::atomic<bool> tell{false};
  tell = false;
  const cudaStream_t stream = make_stream();
  const cudaStream_t other = make_stream();
  EXPECT_OK(launch(stream, [] {
    while (!tell) std::this_thread::sleep_for(100us);
    break_context();
  }));
  EXPECT_OK(cudaLaunchHostFunc(stream, add_one, &behind));
  EXPECT_OK(cudaLaunchHostFunc(other, add_one, &elsewhere));
  EXPECT_OK(cudaStreamSynchronize(other));
  EXPECT_EQ(elsewhere, 1);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  tell = true;
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamQuery(other), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaLaunchHostFunc(other, add_one, &elsewhere), cudaErrorIllegalAddress);
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(behind, 0);
  EXPECT_EQ(elsewhere, 1);
}

TEST_F(Errors, OfAKernelCannotBeResetAway) {
  std::byte* device = allocate(8);
  const cudaStream_t stream = make_stream();
  break_context();
  EXPECT_EQ(cudaFree(device), cudaErrorIllegalAddress);
  int current = -1;
  EXPECT_OK(cudaGetDevice(&current));
  EXPECT_OK(cudaDeviceReset());
  void* fresh = nullptr;
  EXPECT_EQ(cudaMalloc(&fresh, 1), cudaErrorDevicesUnavailable);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorDevicesUnavailable);
  EXPECT_OK(cudaGetDevice(&current));
  reset_process();
  EXPECT_OK(cudaMalloc(&fresh, 1));
}

TEST_F(Errors, OfAKernelStickToItsDevice) {
  static std::atomic<int> count{0};
  count = 0;
  EXPECT_OK(cudaSetDevice(1));
  const cudaStream_t sound = make_stream();
  std::byte* device = allocate(8);
  cudaStream_t broken = nullptr;
  std::thread([&] {  // on device 0, as it has chosen none
    broken = make_stream();
    EXPECT_OK(launch(broken, [] { break_context(); }));
    EXPECT_EQ(cudaStreamSynchronize(broken), cudaErrorIllegalAddress);
    EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  })
      .join();
  EXPECT_OK(cudaLaunchHostFunc(sound, add_one, &count));
  EXPECT_OK(cudaStreamSynchronize(sound));
  EXPECT_EQ(count, 1);
  EXPECT_EQ(cudaLaunchHostFunc(broken, add_one, &count), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamQuery(broken), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_OK(cudaGetLastError());
  EXPECT_OK(cudaFree(device));
}

TEST_F(Errors, AreInjectedByCall) {
  const Variable variable("TENON_SIM_FAIL", "cudaMalloc:2:2,cudaEventQuery:0:999");
  std::byte* pointer = allocate(1);
  void* none = nullptr;
  EXPECT_EQ(cudaMalloc(&none, 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(none, nullptr);
  EXPECT_OK(cudaMalloc(&none, 1));
  fail_call("cudaFree", 1, cudaErrorUnknown);
  EXPECT_EQ(cudaFree(pointer), cudaErrorUnknown);
  EXPECT_EQ(live_allocations(), 2U);
  EXPECT_OK(cudaFree(pointer));
  const cudaEvent_t event = make_event();
  EXPECT_EQ(cudaEventQuery(event), cudaErrorUnknown);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorUnknown);
  clear_failures();
  EXPECT_OK(cudaEventQuery(event));
  EXPECT_EQ(calls("cudaMalloc"), 3U);
  EXPECT_EQ(total_calls(), 10U);
  const auto log = call_log();
  ASSERT_EQ(log.size(), 10U);
  EXPECT_EQ(log[1].function, "cudaMalloc");
  EXPECT_EQ(log[1].result, cudaErrorMemoryAllocation);
  reset_calls();
  EXPECT_EQ(calls("cudaMalloc"), 0U);
  EXPECT_TRUE(call_log().empty());
}

template <class Function>
Function driver_function(const char* name) {
  void* function = nullptr;
  auto found = cudaDriverEntryPointSymbolNotFound;
  EXPECT_OK(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
  EXPECT_EQ(found, cudaDriverEntryPointSuccess);
  return reinterpret_cast<Function>(function);
}

TEST_F(Driver, FunctionsAreFoundByName) {
  const auto range = driver_function<PFN_cuMemGetAddressRange_v3020>("cuMemGetAddressRange");
  const auto attribute = driver_function<PFN_cuPointerGetAttribute_v4000>("cuPointerGetAttribute");
  const auto uuid = driver_function<PFN_cuDeviceGetUuid_v11040>("cuDeviceGetUuid");
  std::byte* device = allocate(1000);
  const auto inside = reinterpret_cast<CUdeviceptr>(device + 500);
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  EXPECT_EQ(range(&base, &bytes, inside), CUDA_SUCCESS);
  EXPECT_EQ(base, reinterpret_cast<CUdeviceptr>(device));
  EXPECT_EQ(bytes, 1000U);
  std::thread([&] { EXPECT_EQ(range(&base, &bytes, inside), CUDA_ERROR_INVALID_CONTEXT); }).join();
  unsigned capable = 9;
  EXPECT_EQ(attribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, inside),
            CUDA_SUCCESS);
  EXPECT_EQ(capable, 1U);
  void* managed = nullptr;
  EXPECT_OK(cudaMallocManaged(&managed, 10, cudaMemAttachGlobal));
  const auto other = reinterpret_cast<CUdeviceptr>(managed);
  EXPECT_EQ(attribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, other),
            CUDA_SUCCESS);
  EXPECT_EQ(capable, 0U);
  unsigned long long first = 0;
  unsigned long long second = 0;
  EXPECT_EQ(attribute(&first, CU_POINTER_ATTRIBUTE_BUFFER_ID, inside), CUDA_SUCCESS);
  EXPECT_EQ(attribute(&second, CU_POINTER_ATTRIBUTE_BUFFER_ID, other), CUDA_SUCCESS);
  EXPECT_NE(first, second);
  EXPECT_EQ(range(&base, &bytes, 4096), CUDA_ERROR_NOT_FOUND);
  CUuuid id;
  EXPECT_EQ(uuid(&id, 1), CUDA_SUCCESS);
  cudaDeviceProp properties;
  EXPECT_OK(cudaGetDeviceProperties(&properties, 1));
  EXPECT_EQ(std::memcmp(&id, &properties.uuid, sizeof id), 0);
  EXPECT_OK(cudaPeekAtLastError());  // the driver's errors are not the runtime's
  void* function = &id;
  auto found = cudaDriverEntryPointSuccess;
  EXPECT_OK(cudaGetDriverEntryPointByVersion("cuNoSuchThing", &function, 12000, cudaEnableDefault,
                                             &found));
  EXPECT_EQ(function, nullptr);
  EXPECT_EQ(found, cudaDriverEntryPointSymbolNotFound);
}

TEST_F(Forks, BeforeTheFirstCallMakeTwoIndependentProcesses) {
  int version = 0;
  EXPECT_OK(cudaDriverGetVersion(&version));  // no first call in this sense
  fail_call("cudaSetDevice", 1, cudaErrorUnknown);
  Child child([] {
    EXPECT_EQ(cudaSetDevice(0), cudaErrorUnknown);  // the child's copy
    (void)allocate(10);
    EXPECT_EQ(calls("cudaMalloc"), 1U);
  });
  EXPECT_EQ(cudaSetDevice(0), cudaErrorUnknown);
  std::byte* pointer = allocate(20);
  EXPECT_TRUE(child.succeeded());
  EXPECT_EQ(read_byte(pointer), kPoisoned);
}

TEST_F(Forks, AfterTheFirstCallLeaveTheChildWithNothing) {
  (void)allocate(10);
  Child child([] {
    void* pointer = nullptr;
    EXPECT_EQ(cudaMalloc(&pointer, 1), cudaErrorInitializationError);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInitializationError);
    reset_process();
    EXPECT_OK(cudaMalloc(&pointer, 1));
  });
  EXPECT_TRUE(child.succeeded());
  EXPECT_EQ(live_allocations(), 1U);
}

}  // namespace
}  // namespace tenon::sim::test
