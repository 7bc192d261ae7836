// The simulated runtime between processes. Every child is forked before the parent's first call.
#include <dirent.h>

#include <atomic>

#include "test_support.hpp"

namespace tenon::sim::test {
namespace {

using Sharing = Simulated;
using Closing = Simulated;
using Staleness = Simulated;
using Freeing = Simulated;
using Limits = Simulated;
using SharedEvents = Simulated;
using Exits = Simulated;

cudaIpcMemHandle_t export_memory(void* pointer) {
  cudaIpcMemHandle_t handle{};
  EXPECT_OK(cudaIpcGetMemHandle(&handle, pointer));
  return handle;
}

std::byte* open_memory(const cudaIpcMemHandle_t& handle) {
  void* pointer = nullptr;
  EXPECT_OK(cudaIpcOpenMemHandle(&pointer, handle, cudaIpcMemLazyEnablePeerAccess));
  return static_cast<std::byte*>(pointer);
}

cudaError_t try_open(const cudaIpcMemHandle_t& handle) {
  void* pointer = nullptr;
  return cudaIpcOpenMemHandle(&pointer, handle, cudaIpcMemLazyEnablePeerAccess);
}

bool same(const cudaIpcMemHandle_t& a, const cudaIpcMemHandle_t& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

/// Objects in /dev/shm of this test's node.
int objects(const std::string& kind) {
  const std::string name = "." + std::string(std::getenv("TENON_SIM_NODE")) + "." + kind;
  int count = 0;
  DIR* directory = ::opendir("/dev/shm");
  while (const struct ::dirent* entry = ::readdir(directory))
    count += std::string(entry->d_name).find(name) != std::string::npos ? 1 : 0;
  ::closedir(directory);
  return count;
}

/// A child that exports memory with a byte set, and then does what it is poked to do. Its end of
/// the channel is 1.
struct Exporter {
  explicit Exporter(std::function<void(Channel&, std::byte*)> then = {}, int device = 0)
      : child([this, then = std::move(then), device] {
          EXPECT_OK(cudaSetDevice(device));
          std::byte* memory = allocate(5000);
          fill(memory, 42, 5000);
          channel.send(1, export_memory(memory));
          channel.send(1, memory);
          if (then) then(channel, memory);
          channel.await(1);  // until poked for the last time, or killed
        }) {}

  /// Called once, in the importer.
  cudaIpcMemHandle_t handle() {
    const auto received = channel.receive<cudaIpcMemHandle_t>(0);
    address = channel.receive<std::byte*>(0);
    return received;
  }
  bool finish() {
    channel.poke(0);
    return child.succeeded();
  }

  Channel channel;
  Child child;
  std::byte* address = nullptr;  // in the exporter
};

TEST_F(Sharing, ShowsTheBytesAtAnotherAddress) {
  Exporter exporter([](Channel& channel, std::byte* memory) {
    channel.await(1);
    EXPECT_EQ(read_byte(memory, 17), 43);  // what the importer wrote
    channel.send(1, export_memory(memory + 4000));
  });
  const auto handle = exporter.handle();
  std::byte* memory = open_memory(handle);
  EXPECT_NE(memory, exporter.address);
  EXPECT_EQ(read_byte(memory), 42);
  EXPECT_EQ(read_byte(memory, 4999), 42);
  fill(memory + 17, 43, 1);
  cudaPointerAttributes attributes;
  EXPECT_OK(cudaPointerGetAttributes(&attributes, memory + 4999));
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  EXPECT_EQ(attributes.device, 0);
  exporter.channel.poke(0);
  // A pointer into the allocation exports all of it.
  EXPECT_TRUE(same(exporter.channel.receive<cudaIpcMemHandle_t>(0), handle));
  cudaIpcMemHandle_t again;
  EXPECT_EQ(cudaIpcGetMemHandle(&again, memory), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_TRUE(exporter.finish());
  EXPECT_EQ(violations(), 0U);
}

TEST_F(Sharing, FailsWithinTheExportingProcess) {
  EXPECT_EQ(try_open(export_memory(allocate(10))), cudaErrorDeviceUninitialized);
}

TEST_F(Sharing, NeedsTheFlagAndARealHandle) {
  Exporter exporter;
  auto handle = exporter.handle();
  void* pointer = nullptr;
  EXPECT_EQ(cudaIpcOpenMemHandle(&pointer, handle, 0), cudaErrorInvalidValue);
  handle.reserved[0] ^= 1;
  EXPECT_EQ(try_open(handle), cudaErrorInvalidValue);
  EXPECT_EQ(try_open({}), cudaErrorInvalidValue);
  std::memset(&handle, 0xFF, sizeof handle);
  EXPECT_EQ(try_open(handle), cudaErrorInvalidValue);
  EXPECT_EQ(open_handles(), 0U);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Sharing, WorksWithADeviceThatIsNotVisible) {
  Exporter exporter({}, 1);
  const Variable visible("CUDA_VISIBLE_DEVICES", "0");
  std::byte* memory = open_memory(exporter.handle());
  EXPECT_EQ(read_byte(memory), 42);
  cudaPointerAttributes attributes;
  EXPECT_OK(cudaPointerGetAttributes(&attributes, memory));
  EXPECT_EQ(attributes.device, 0);  // where it was opened
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Sharing, NeedsPeerAccessToAnotherDevice) {
  Exporter exporter({}, 1);
  const Variable separate("TENON_SIM_NO_PEER", "1");
  const auto handle = exporter.handle();
  EXPECT_EQ(try_open(handle), cudaErrorPeerAccessUnsupported);
  EXPECT_OK(cudaSetDevice(1));
  EXPECT_EQ(read_byte(open_memory(handle)), 42);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Sharing, StaysWithinANode) {
  Exporter exporter;
  const auto handle = exporter.handle();
  Child elsewhere([&] {
    const Variable other("TENON_SIM_NODE", std::string(std::getenv("TENON_SIM_NODE")) + "b");
    EXPECT_EQ(try_open(handle), cudaErrorInvalidResourceHandle);
    EXPECT_EQ(live_allocations(), 0U);
    reset_process();
    remove_node();
  });
  EXPECT_TRUE(elsewhere.succeeded());
  EXPECT_EQ(live_allocations(), 1U);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Closing, IsCountedAndLeavesMemoryThatFaults) {
  Exporter exporter;
  const auto handle = exporter.handle();
  std::byte* memory = open_memory(handle);
  EXPECT_EQ(open_memory(handle), memory);
  EXPECT_EQ(open_handles(), 2U);
  EXPECT_EQ(cudaIpcCloseMemHandle(memory + 1), cudaErrorInvalidValue);
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_EQ(read_byte(memory), 42);
  EXPECT_FALSE(faults([&] { (void)*static_cast<volatile std::byte*>(memory); }));
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_EQ(open_handles(), 0U);
  EXPECT_TRUE(faults([&] { (void)*static_cast<volatile std::byte*>(memory); }));
  EXPECT_EQ(cudaIpcCloseMemHandle(memory), cudaErrorInvalidValue);
  EXPECT_NE(open_memory(handle), memory);  // that address is not used again
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Closing, WaitsForWorkOfTheProcess) {
  Exporter exporter;
  std::byte* memory = open_memory(exporter.handle());
  const cudaStream_t stream = make_stream();
  std::vector<char> host(5000);
  EXPECT_OK(launch(stream, [] { std::this_thread::sleep_for(20ms); }));
  EXPECT_OK(cudaMemcpyAsync(host.data(), memory, 5000, cudaMemcpyDefault, stream));
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_OK(cudaStreamQuery(stream));
  EXPECT_EQ(host[4999], 42);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Closing, OneOfTwoOpensWaitsToo) {
  Exporter exporter;
  const auto handle = exporter.handle();
  std::byte* memory = open_memory(handle);
  EXPECT_EQ(open_memory(handle), memory);
  const cudaStream_t stream = make_stream();
  EXPECT_OK(launch(stream, [] { std::this_thread::sleep_for(20ms); }));
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_OK(cudaStreamQuery(stream));
  EXPECT_EQ(read_byte(memory), 42);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Closing, WaitsForHostFunctionsToo) {
  Exporter exporter;
  std::byte* memory = open_memory(exporter.handle());
  static std::atomic<bool> ran{false};
  ran = false;
  EXPECT_OK(cudaLaunchHostFunc(
      make_stream(),
      [](void*) {
        std::this_thread::sleep_for(20ms);
        ran = true;
      },
      nullptr));
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_TRUE(ran);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Closing, OpeningDoesNotWait) {
  Exporter exporter;
  const auto handle = exporter.handle();
  const cudaStream_t stream = make_stream();
  hold_stream(stream, true);
  EXPECT_OK(launch(stream, [] {}));
  std::byte* memory = open_memory(handle);
  EXPECT_EQ(open_memory(handle), memory);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  hold_stream(stream, false);
  EXPECT_TRUE(exporter.finish());
}

void free_when_poked(Channel& channel, std::byte* memory) {
  channel.await(1);
  EXPECT_OK(cudaFree(memory));
  channel.poke(1);
}

TEST_F(Staleness, HandlesFailAfterTheFree) {
  Exporter exporter(free_when_poked);
  const auto handle = exporter.handle();
  exporter.channel.poke(0);
  exporter.channel.await(0);
  EXPECT_EQ(try_open(handle), cudaErrorInvalidValue);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Staleness, HandlesOpenWhatIsAllocatedInTheSamePlace) {
  Exporter exporter([](Channel& channel, std::byte* memory) {
    const auto old = export_memory(memory);
    for (const std::size_t bytes : {5000, 6000}) {
      channel.await(1);
      EXPECT_OK(cudaFree(memory));
      memory = allocate(bytes);
      fill(memory, 77, bytes);
      EXPECT_FALSE(same(old, export_memory(memory)));
      channel.send(1, export_memory(memory));
    }
  });
  const auto old = exporter.handle();
  exporter.channel.poke(0);
  const auto fresh = exporter.channel.receive<cudaIpcMemHandle_t>(0);
  std::byte* memory = open_memory(old);
  EXPECT_EQ(read_byte(memory), 77);  // not what was exported with it
  EXPECT_EQ(open_memory(fresh), memory);
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  exporter.channel.poke(0);
  EXPECT_EQ(read_byte(open_memory(exporter.channel.receive<cudaIpcMemHandle_t>(0))), 77);
  EXPECT_EQ(try_open(old), cudaErrorInvalidValue);  // of another size
  EXPECT_TRUE(exporter.finish());
  EXPECT_EQ(violations(), 0U);
}

TEST_F(Staleness, HandlesFailAfterTheExportersDeath) {
  Exporter exporter;
  Exporter other;
  const auto handle = exporter.handle();
  std::byte* memory = open_memory(handle);
  exporter.child.kill();
  const auto unopened = other.handle();
  other.child.kill();
  EXPECT_EQ(try_open(unopened), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(open_memory(handle), memory);  // as it is open here
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_EQ(read_byte(memory), 42);
  EXPECT_EQ(bytes_in_use(0), 5000U);
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_EQ(bytes_in_use(0), 0U);
  EXPECT_EQ(objects("mem"), 0);
  EXPECT_EQ(try_open(handle), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(violations(), 0U);
}

TEST_F(Staleness, AZombieIsDead) {
  Exporter exporter;
  const auto handle = exporter.handle();
  ::kill(exporter.child.pid(), SIGKILL);  // and not waited for
  for (int i = 0; i < 2000 && try_open(handle) == cudaSuccess; ++i) {
    reset_process();
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_EQ(try_open(handle), cudaErrorInvalidResourceHandle);
}

TEST_F(Staleness, CanShowTheOldBytes) {
  const Variable ok("TENON_SIM_STALE", "ok");
  Exporter freed(free_when_poked);
  Exporter killed;
  const auto first = freed.handle();
  const auto second = killed.handle();
  freed.channel.poke(0);
  freed.channel.await(0);
  killed.child.kill();
  EXPECT_EQ(bytes_in_use(0), 0U);
  EXPECT_EQ(read_byte(open_memory(first)), 42);
  EXPECT_EQ(read_byte(open_memory(second)), 42);
  EXPECT_TRUE(freed.finish());
}

TEST_F(Staleness, HandlesOfSuccessiveAllocationsDiffer) {
  std::byte* memory = allocate(100);
  const auto first = export_memory(memory);
  EXPECT_TRUE(same(first, export_memory(memory)));
  EXPECT_OK(cudaFree(memory));
  EXPECT_FALSE(same(first, export_memory(allocate(100))));
}

TEST_F(Staleness, HandlesOfSuccessiveAllocationsCanBeTheSame) {
  const Variable reuse("TENON_SIM_HANDLE_REUSE", "1");
  Exporter exporter([](Channel& channel, std::byte* memory) {
    channel.await(1);
    const auto old = export_memory(memory);
    const auto other = export_memory(allocate(100));
    EXPECT_FALSE(same(old, other));  // both are alive
    EXPECT_OK(cudaFree(memory));
    std::byte* next = allocate(5000);
    fill(next, 77, 5000);
    EXPECT_TRUE(same(old, export_memory(next)));
    channel.poke(1);
  });
  const auto handle = exporter.handle();
  std::byte* memory = open_memory(handle);
  EXPECT_EQ(read_byte(memory), 42);
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  exporter.channel.poke(0);
  exporter.channel.await(0);
  EXPECT_EQ(read_byte(open_memory(handle)), 77);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Freeing, UnderAReaderIsAViolation) {
  Exporter exporter(free_when_poked);
  std::byte* memory = open_memory(exporter.handle());
  EXPECT_EQ(violations(), 0U);
  exporter.channel.poke(0);
  exporter.channel.await(0);
  EXPECT_EQ(violations(), 1U);
  ASSERT_EQ(violation_log().size(), 1U);
  EXPECT_NE(violation_log()[0].find("5000 bytes"), std::string::npos);
  EXPECT_EQ(read_byte(memory), 42);  // and yet the bytes stay until it closes
  EXPECT_EQ(live_allocations(), 1U);
  EXPECT_EQ(bytes_in_use(0), 5000U);
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_EQ(live_allocations(), 0U);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Freeing, LeavesWhatIsOpenToBeOpenedAgain) {
  Exporter exporter([](Channel& channel, std::byte* memory) {
    channel.await(1);
    EXPECT_OK(cudaFree(memory));
    memory = allocate(5000);
    fill(memory, 77, 5000);
    channel.send(1, export_memory(memory));
  });
  const auto old = exporter.handle();
  std::byte* memory = open_memory(old);
  exporter.channel.poke(0);
  const auto fresh = exporter.channel.receive<cudaIpcMemHandle_t>(0);
  EXPECT_EQ(open_memory(old), memory);
  EXPECT_EQ(read_byte(memory), 42);  // not what is new
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_EQ(read_byte(open_memory(fresh)), 77);
  EXPECT_EQ(read_byte(memory), 42);
  EXPECT_OK(cudaIpcCloseMemHandle(memory));
  EXPECT_EQ(try_open(old), cudaErrorInvalidValue);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Freeing, UnderADeadReaderIsNone) {
  Channel ready;
  Exporter exporter(free_when_poked);
  Child reader([&] {
    EXPECT_EQ(read_byte(open_memory(exporter.handle())), 42);
    ready.poke(1);
    ready.await(1);
  });
  ready.await(0);
  reader.kill();
  exporter.channel.poke(0);
  exporter.channel.await(0);
  EXPECT_EQ(violations(), 0U);
  EXPECT_EQ(live_allocations(), 0U);
  EXPECT_TRUE(exporter.finish());
}

TEST_F(Limits, CountAllProcessesAndForgetTheDead) {
  const Variable limit("TENON_SIM_MEMORY", "8000");
  Exporter exporter;
  (void)exporter.handle();
  void* pointer = nullptr;
  EXPECT_EQ(cudaMalloc(&pointer, 4000), cudaErrorMemoryAllocation);
  std::size_t free = 0;
  std::size_t total = 0;
  EXPECT_OK(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, 3000U);
  exporter.child.kill();
  EXPECT_OK(cudaMalloc(&pointer, 4000));
  EXPECT_EQ(objects("mem"), 1);
}

TEST_F(Limits, OneProcessPerDeviceInExclusiveMode) {
  const Variable mode("TENON_SIM_COMPUTE_MODE", "exclusive");
  Exporter exporter;
  (void)exporter.handle();
  int count = 0;
  EXPECT_OK(cudaGetDeviceCount(&count));
  EXPECT_EQ(cudaFree(nullptr), cudaErrorDevicesUnavailable);
  EXPECT_OK(cudaSetDevice(1));
  exporter.child.kill();
  EXPECT_OK(cudaSetDevice(0));
}

/// A child that exports an interprocess event and then records it as `record` says.
struct EventExporter {
  explicit EventExporter(std::function<void(Channel&, cudaEvent_t)> then)
      : child([this, then = std::move(then)] {
          const cudaEvent_t event = make_event(cudaEventInterprocess | cudaEventDisableTiming);
          EXPECT_OK(cudaIpcGetEventHandle(&handle, event));
          channel.send(1, handle);
          channel.await(1);
          then(channel, event);
          channel.await(1);
        }) {}
  cudaEvent_t open() {
    cudaEvent_t event = nullptr;
    EXPECT_OK(cudaIpcOpenEventHandle(&event, handle = channel.receive<cudaIpcEventHandle_t>(0)));
    return event;
  }
  Channel channel;
  Child child;
  cudaIpcEventHandle_t handle{};
};

TEST_F(SharedEvents, CarryRecordingsAcross) {
  EventExporter exporter([](Channel& channel, cudaEvent_t event) {
    const cudaStream_t stream = make_stream();
    hold_stream(stream, true);
    EXPECT_OK(cudaEventRecord(event, stream));
    channel.poke(1);
    channel.await(1);
    hold_stream(stream, false);
  });
  const cudaEvent_t event = exporter.open();
  const cudaStream_t stream = make_stream();
  EXPECT_OK(cudaEventQuery(event));  // never recorded
  exporter.channel.poke(0);
  exporter.channel.await(0);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_OK(cudaStreamWaitEvent(stream, event, 0));
  std::this_thread::sleep_for(3ms);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  exporter.channel.poke(0);
  EXPECT_OK(cudaStreamSynchronize(stream));
  EXPECT_OK(cudaEventSynchronize(event));
  EXPECT_OK(cudaEventRecord(event, stream));  // either side may
  EXPECT_OK(cudaEventSynchronize(event));
  EXPECT_OK(cudaEventDestroy(event));
  exporter.channel.poke(0);
  EXPECT_TRUE(exporter.child.succeeded());
}

TEST_F(SharedEvents, NeverCompleteWhenTheRecorderDied) {
  EventExporter exporter([](Channel& channel, cudaEvent_t event) {
    const cudaStream_t stream = make_stream();
    hold_stream(stream, true);
    EXPECT_OK(cudaEventRecord(event, stream));
    channel.poke(1);
  });
  const cudaEvent_t event = exporter.open();
  exporter.channel.poke(0);
  exporter.channel.await(0);
  const cudaStream_t stream = make_stream();
  EXPECT_OK(cudaStreamWaitEvent(stream, event, 0));
  exporter.child.kill();
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  cudaEvent_t again = nullptr;
  EXPECT_EQ(cudaIpcOpenEventHandle(&again, exporter.handle), cudaErrorInvalidResourceHandle);
}

TEST_F(Exits, InOrderLeaveNothingBehind) {
  Channel channel;
  const ::pid_t pid = tenon::test::quiet_fork();
  if (pid == 0) {
    (void)allocate(100);
    (void)make_event(cudaEventInterprocess | cudaEventDisableTiming);
    std::exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(objects("mem"), 0);
  EXPECT_EQ(objects("event"), 0);
  EXPECT_EQ(objects("control"), 1);
}

TEST_F(Exits, OfKilledProcessesAreClearedAwayByOthers) {
  Channel channel;
  Child child([&] {
    for (int i = 0; i < 20; ++i) (void)allocate(100);
    (void)make_event(cudaEventInterprocess | cudaEventDisableTiming);
    channel.poke(1);
    channel.await(1);
  });
  channel.await(0);
  EXPECT_EQ(objects("mem"), 20);
  child.kill();
  EXPECT_EQ(objects("mem"), 20);
  EXPECT_EQ(live_allocations(), 0U);
  EXPECT_EQ(objects("mem"), 0);
  EXPECT_EQ(objects("event"), 1);
  int version = 0;
  EXPECT_OK(cudaDriverGetVersion(&version));  // a process joins
  EXPECT_EQ(objects("event"), 0);
}

TEST_F(Exits, AtAnyMomentLeaveAWorkingNode) {
  for (int round = 0; round < 20; ++round) {
    Channel channel;
    Child busy([&] {
      channel.poke(1);
      for (;;) {
        std::byte* memory = allocate(100);
        EXPECT_OK(cudaFree(memory));
      }
    });
    channel.await(0);
    std::this_thread::sleep_for(std::chrono::microseconds(500 * round));
    busy.kill();
    EXPECT_EQ(live_allocations(), 0U);
  }
  EXPECT_OK(cudaFree(allocate(100)));
}

TEST_F(Exits, RemovingANodeRemovesItsObjects) {
  Exporter exporter;
  (void)exporter.handle();
  exporter.child.kill();
  EXPECT_EQ(objects(""), 2);
  remove_node();
  EXPECT_EQ(objects(""), 0);
  EXPECT_EQ(violations(), 0U);
  EXPECT_EQ(objects(""), 0);  // asking makes none
}

}  // namespace
}  // namespace tenon::sim::test
