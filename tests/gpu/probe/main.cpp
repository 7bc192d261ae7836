// Asks a real GPU what Tenon's CUDA code and its simulator take for granted: error codes and times
// of IPC handles and events between processes, who sees what when one of them dies, what becomes of
// host functions. Prints JSON, one object per question; docs/hardware-notes.md says what came out.
//
//   gpu_probe [QUESTION...]      all of them when none is named; exit status 77 without a GPU
//
// The program itself never uses CUDA: each question has processes of its own.
#include <cuda.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <algorithm>
#include <iostream>
#include <vector>

#include "kernels.hpp"
#include "pair.hpp"

namespace tenon::probe {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20U;
constexpr std::size_t kGiB = std::size_t{1} << 30U;

// --- Driver functions, by the runtime's own way ---

template <class Function>
Function driver(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  must(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name);
  return reinterpret_cast<Function>(found);
}

std::pair<char*, std::size_t> range_of(const void* pointer) {
  static const auto get =
      driver<CUresult (*)(CUdeviceptr*, std::size_t*, CUdeviceptr)>("cuMemGetAddressRange");
  CUdeviceptr base = 0;
  std::size_t size = 0;
  const CUresult result = get(&base, &size, reinterpret_cast<CUdeviceptr>(pointer));
  if (result != CUDA_SUCCESS) return {nullptr, static_cast<std::size_t>(result)};
  return {reinterpret_cast<char*>(base), size};
}
/// 1 or 0, or -code.
int is_legacy_ipc_capable(const void* pointer) {
  static const auto get =
      driver<CUresult (*)(void*, CUpointer_attribute, CUdeviceptr)>("cuPointerGetAttribute");
  int capable = 0;
  const CUresult result = get(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
                              reinterpret_cast<CUdeviceptr>(pointer));
  return result == CUDA_SUCCESS ? capable : -static_cast<int>(result);
}

// --- Memory ---

char* allocate(std::size_t bytes, int value = 0) {
  void* memory = nullptr;
  must(cudaMalloc(&memory, bytes), "cudaMalloc");
  must(cudaMemset(memory, value, bytes), "cudaMemset");
  must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return static_cast<char*>(memory);
}
double free_mib() {
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  must(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
  return static_cast<double>(free_bytes) / static_cast<double>(kMiB);
}
cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return stream;
}
cudaIpcMemHandle_t handle_of(void* memory) {
  cudaIpcMemHandle_t handle{};
  must(cudaIpcGetMemHandle(&handle, memory), "cudaIpcGetMemHandle");
  return handle;
}
cudaError_t open(const cudaIpcMemHandle_t& handle, char** memory) {
  void* opened = nullptr;
  const cudaError_t error = cudaIpcOpenMemHandle(&opened, handle, cudaIpcMemLazyEnablePeerAccess);
  *memory = static_cast<char*>(opened);
  return error;
}
char* must_open(const cudaIpcMemHandle_t& handle) {
  char* memory = nullptr;
  must(open(handle, &memory), "cudaIpcOpenMemHandle");
  return memory;
}
/// "0 cudaSuccess, byte 7"
std::string look(const char* memory) {
  unsigned char byte = 0;
  const cudaError_t error = cudaMemcpy(&byte, memory, 1, cudaMemcpyDeviceToHost);
  return code(error) + (error == cudaSuccess ? ", byte " + std::to_string(byte) : "");
}
std::string hex_of(const cudaIpcMemHandle_t& handle) {
  std::string hex;
  for (const char byte : handle.reserved) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(byte));
    hex += digits;
  }
  return hex;
}
bool same(const cudaIpcMemHandle_t& a, const cudaIpcMemHandle_t& b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}
double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// --- Death ---

/// Kills it; returns when it is known to be dead, with when that was. `killed` is when it was sent.
double kill_exporter(const Board& board, std::atomic<double>& killed) {
  const pid_t pid = board.exporter_pid;
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  killed = now_ms();
  ::kill(pid, SIGKILL);
  pollfd wait{fd, POLLIN, 0};
  ::poll(&wait, 1, 20'000);
  const double known = now_ms();
  ::close(fd);
  return known;
}
void kill_exporter(Role& role) {
  std::atomic<double> killed{0};
  const double known = kill_exporter(role.board(), killed);
  role.note("ms from SIGKILL to the pidfd's news", known - killed);
}
[[noreturn]] void wait_for_death() {
  for (;;) ::pause();
}

// --- Parts that questions have in common ---

void share(Role& me, std::size_t bytes, int value) {
  me.board().memory = handle_of(allocate(bytes, value));
  me.reach(1);
}
/// Shares memory until step 2.
Part shares(std::size_t bytes, int value) {
  return [=](Role& me) {
    share(me, bytes, value);
    me.await(2);
  };
}
Part shares_until_killed(std::size_t bytes, int value) {
  return [=](Role& me) {
    share(me, bytes, value);
    wait_for_death();
  };
}
/// Makes a context, and waits until something is shared.
void come_second(Role& me) {
  must(cudaFree(nullptr), "cudaFree");
  me.await(1);
}

// --- Questions ---

Json device() {
  return ask([](Role& me) {
    me.note("ms to the first context", took_ms([] { must(cudaFree(nullptr), "cudaFree"); }));
    cudaDeviceProp properties{};
    must(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    me.note("name", properties.name);
    int value = 0;
    must(cudaDriverGetVersion(&value), "cudaDriverGetVersion");
    me.note("driver", value);
    must(cudaRuntimeGetVersion(&value), "cudaRuntimeGetVersion");
    me.note("runtime", value);
    const std::pair<const char*, cudaDeviceAttr> attributes[] = {
        {"IpcEventSupport", cudaDevAttrIpcEventSupport},
        {"MpsEnabled", cudaDevAttrMpsEnabled},
        {"ComputeMode", cudaDevAttrComputeMode},
        {"UnifiedAddressing", cudaDevAttrUnifiedAddressing},
        {"ConcurrentManagedAccess", cudaDevAttrConcurrentManagedAccess},
        {"MultiProcessorCount", cudaDevAttrMultiProcessorCount},
        {"L2CacheSize", cudaDevAttrL2CacheSize}};
    for (const auto& [name, attribute] : attributes) {
      must(cudaDeviceGetAttribute(&value, attribute, 0), name);
      me.note(name, value);
    }
    me.note("free MiB", free_mib());
    for (const char* name :
         {"cuIpcOpenMemHandle", "cuLaunchHostFunc", "cuMemcpyBatchAsync", "cuStreamWriteValue64",
          "cuMemExportToShareableHandle", "cuCtxPushCurrent", "cuCheckpointProcessCheckpoint"}) {
      void* found = nullptr;
      cudaDriverEntryPointQueryResult result{};
      const cudaError_t error =
          cudaGetDriverEntryPointByVersion(name, &found, 13000, cudaEnableDefault, &result);
      me.note(name, code(error) + (found != nullptr ? ", there" : ", not there"));
    }
  });
}

// Also: whether closing waits for work.
Json latency() {
  Json all = Json::array();
  for (const std::size_t bytes : {2 * kMiB, 32 * kMiB, 256 * kMiB, kGiB, 8 * kGiB, 32 * kGiB}) {
    Json answer = ask(
        [bytes](Role& me) {
          must(cudaFree(nullptr), "cudaFree");
          char* memory = nullptr;
          me.note("cudaMalloc ms", took_ms([&] {
                    must(cudaMalloc(reinterpret_cast<void**>(&memory), bytes), "cudaMalloc");
                  }));
          me.note("first get us", 1e3 * took_ms([&] { me.board().memory = handle_of(memory); }));
          std::vector<double> times;
          for (int i = 0; i < 21; ++i)
            times.push_back(1e3 * took_ms([&] { (void)handle_of(memory); }));
          me.note("get us", median(times));
          me.reach(1);
          me.await(2);
          me.note("cudaFree ms", took_ms([&] { must(cudaFree(memory), "cudaFree"); }));
        },
        [bytes](Role& me) {
          must(cudaFree(nullptr), "cudaFree");
          const cudaStream_t stream = make_stream();
          char* const own = allocate(2 * kMiB);
          me.await(1);
          const auto& handle = me.board().memory;
          char* memory = nullptr;
          me.note("first open us", 1e3 * took_ms([&] { memory = must_open(handle); }));
          me.note("opening again gives the same pointer", must_open(handle) == memory);
          const auto [base, size] = range_of(memory);
          me.note("mapped bytes", size);
          me.note("mapped from its base", base == memory);
          must(cudaIpcCloseMemHandle(memory), "close");
          me.note("closed once, it reads", look(memory));
          me.note("first touch us",
                  1e3 * took_ms([&] {
                    must(cudaMemcpyAsync(own, memory, kMiB, cudaMemcpyDeviceToDevice, stream),
                         "copy");
                    must(cudaStreamSynchronize(stream), "synchronize");
                  }));
          std::vector<double> opens, closes;
          for (int i = 0; i < 11; ++i) {
            closes.push_back(1e3 * took_ms([&] { must(cudaIpcCloseMemHandle(memory), "close"); }));
            opens.push_back(1e3 * took_ms([&] { memory = must_open(handle); }));
          }
          me.note("open us", median(opens));
          me.note("close us", median(closes));
          must(launch_spin(50, nullptr, stream), "spin");
          me.note("ms to open again beside a kernel of 50 ms in another memory",
                  took_ms([&] { must_open(handle); }));
          me.note("ms to close one of two opens beside it",
                  took_ms([&] { must(cudaIpcCloseMemHandle(memory), "close"); }));
          must(cudaStreamSynchronize(stream), "synchronize");
          must(launch_spin(50, nullptr, stream), "spin");
          me.note("close ms beside a kernel of 50 ms in another memory",
                  took_ms([&] { must(cudaIpcCloseMemHandle(memory), "close"); }));
          must(cudaStreamSynchronize(stream), "synchronize");
          must(launch_spin(50, nullptr, stream), "spin");
          me.note("ms to open, not open before, beside a kernel of 50 ms in another memory",
                  took_ms([&] { memory = must_open(handle); }));
          must(cudaStreamSynchronize(stream), "synchronize");
          must(cudaLaunchHostFunc(
                   stream, [](void*) { sleep_ms(50); }, nullptr),
               "cudaLaunchHostFunc");
          me.note("close ms beside a host function of 50 ms",
                  took_ms([&] { must(cudaIpcCloseMemHandle(memory), "close"); }));
          me.reach(2);
        });
    answer["bytes"] = bytes;
    all.push_back(answer);
  }
  return all;
}

Json handles() {
  return ask(
      [](Role& me) {
        char* const memory = allocate(4 * kMiB, 7);
        const auto handle = handle_of(memory);
        char* opened = nullptr;
        me.note("open in the own process", code(open(handle, &opened)));
        cudaIpcMemHandle_t inner{};
        me.note("get of an inner pointer", code(cudaIpcGetMemHandle(&inner, memory + 65536)));
        me.note("an inner pointer's handle is the base's", same(handle, inner));
        char* const one = allocate(kMiB, 1);
        char* const other = allocate(kMiB, 2);
        const auto [base, size] = range_of(one);
        me.note("bytes of an allocation of 1 MiB, by the driver", size);
        me.note("handles of two allocations of 1 MiB are the same",
                same(handle_of(one), handle_of(other)));
        me.note("distance of two allocations of 1 MiB", other - one);
        me.note("the first of two 1 MiB is its range's base", base == one);
        me.board().memory = inner;
        me.board().second = handle_of(other);
        me.reach(1);
        me.await(2);
      },
      [](Role& me) {
        come_second(me);
        char* memory = nullptr;
        me.note("open of an inner pointer's handle", code(open(me.board().memory, &memory)));
        const auto [base, size] = range_of(memory);
        me.note("it is mapped from its base", base == memory);
        me.note("its bytes", size);
        char* second = nullptr;
        me.note("open of a second 1 MiB", code(open(me.board().second, &second)));
        const auto [second_base, second_size] = range_of(second);
        me.note("mapped bytes of a second 1 MiB", second_size);
        me.note("what is opened is the range's base", second_base == second);
        me.note("its first byte", look(second));
        me.note("close of what was not opened", code(cudaIpcCloseMemHandle(memory + 4096)));
        me.note("close", code(cudaIpcCloseMemHandle(memory)));
        me.note("close again", code(cudaIpcCloseMemHandle(memory)));
        me.note("reading what is closed", look(memory));
        me.note("a call behind that", code(cudaDeviceSynchronize()));
        me.reach(2);
      });
}

/// Of a handle with one bit changed, in each of its bytes.
Json garbage() {
  return ask(shares(4 * kMiB, 7), [](Role& me) {
    come_second(me);
    char* memory = nullptr;
    cudaIpcMemHandle_t handle{};
    me.note("zeros", code(open(handle, &memory)));
    std::memset(&handle, 0xFF, sizeof(handle));
    me.note("ones", code(open(handle, &memory)));
    me.note("a handle", hex_of(me.board().memory));
    me.note("its exporter's pid", me.board().exporter_pid.load());
    for (std::size_t i = 0; i < sizeof(handle); ++i) {
      handle = me.board().memory;
      handle.reserved[i] = static_cast<char>(handle.reserved[i] ^ 0x01);
      const cudaError_t error = open(handle, &memory);
      me.note("bit changed in byte " + std::to_string(i), code(error));
      if (error == cudaSuccess) (void)cudaIpcCloseMemHandle(memory);
    }
    me.note("a good one then", code(open(me.board().memory, &memory)));
    me.note("its byte", look(memory));
    me.reach(2);
  });
}

Json kinds() {
  return ask([](Role& me) {
    const auto tell = [&](const std::string& kind, void* memory) {
      cudaIpcMemHandle_t handle{};
      me.note(kind + ": get", code(cudaIpcGetMemHandle(&handle, memory)));
      me.note(kind + ": legacy IPC attribute", is_legacy_ipc_capable(memory));
    };
    tell("cudaMalloc", allocate(4 * kMiB));
    void* memory = nullptr;
    const cudaStream_t stream = make_stream();
    must(cudaMallocAsync(&memory, 4 * kMiB, stream), "cudaMallocAsync");
    must(cudaStreamSynchronize(stream), "synchronize");
    tell("cudaMallocAsync", memory);
    must(cudaHostAlloc(&memory, 4 * kMiB, 0), "cudaHostAlloc");
    tell("cudaHostAlloc", memory);
    must(cudaMallocManaged(&memory, 4 * kMiB), "cudaMallocManaged");
    tell("cudaMallocManaged", memory);
    CUmemAllocationProp properties{};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
    CUmemGenericAllocationHandle physical = 0;
    CUdeviceptr address = 0;
    const CUmemAccessDesc access{properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const bool mapped = driver<decltype(&cuMemCreate)>("cuMemCreate")(
                            &physical, 4 * kMiB, &properties, 0) == CUDA_SUCCESS &&
                        driver<decltype(&cuMemAddressReserve)>("cuMemAddressReserve")(
                            &address, 4 * kMiB, 0, 0, 0) == CUDA_SUCCESS &&
                        driver<decltype(&cuMemMap)>("cuMemMap")(address, 4 * kMiB, 0, physical,
                                                                0) == CUDA_SUCCESS &&
                        driver<decltype(&cuMemSetAccess)>("cuMemSetAccess")(
                            address, 4 * kMiB, &access, 1) == CUDA_SUCCESS;
    if (mapped) tell("cuMemCreate", reinterpret_cast<void*>(address));
    if (!mapped) me.note("cuMemCreate", "not mapped");
  });
}

/// Handles whose memory was freed before they are opened.
Json stale() {
  return ask(
      [](Role& me) {
        char* memory = allocate(64 * kMiB, 1);
        me.board().memory = handle_of(memory);
        must(cudaFree(memory), "cudaFree");
        me.reach(1);
        me.await(2);
        char* const again = allocate(64 * kMiB, 2);
        me.note("freed and allocated again: same address", again == memory);
        me.board().second = handle_of(again);
        me.note("freed and allocated again: same handle",
                same(me.board().memory, me.board().second));
        me.note("the old handle", hex_of(me.board().memory));
        me.note("the new handle", hex_of(me.board().second));
        me.reach(3);
        me.await(4);
      },
      [](Role& me) {
        come_second(me);
        char* memory = nullptr;
        me.note("open of what is freed", code(open(me.board().memory, &memory)));
        me.reach(2);
        me.await(3);
        const cudaError_t error = open(me.board().memory, &memory);
        me.note("open of the old handle when all is allocated again", code(error));
        if (error == cudaSuccess) me.note("it reads (old is 1, new is 2)", look(memory));
        char* fresh = nullptr;
        me.note("open of the new handle", code(open(me.board().second, &fresh)));
        me.note("the new one reads", look(fresh));
        me.reach(4);
      });
}

/// Memory that is freed while somebody has it open.
Json freed_while_open() {
  return ask(
      [](Role& me) {
        char* const memory = allocate(kGiB, 1);
        me.board().memory = handle_of(memory);
        const double before = free_mib();
        me.reach(1);
        me.await(2);
        me.note("cudaFree ms", took_ms([&] { me.note("cudaFree", code(cudaFree(memory))); }));
        me.note("MiB that came free", free_mib() - before);
        char* const again = allocate(kGiB, 2);
        me.note("allocated again at the same address", again == memory);
        me.board().second = handle_of(again);
        me.note("same handle", same(me.board().memory, me.board().second));
        me.reach(3);
        me.await(4);
        me.note("MiB free more when the other closed it, one such allocated", free_mib() - before);
        me.note("what is new still reads", look(again));
      },
      [](Role& me) {
        come_second(me);
        char* const memory = must_open(me.board().memory);
        me.note("reads before", look(memory));
        me.reach(2);
        me.await(3);
        me.note("reads behind the free (old is 1, new is 2)", look(memory));
        const auto open_beside = [&](const std::string& which, const cudaIpcMemHandle_t& handle) {
          char* beside = nullptr;
          const cudaError_t error = open(handle, &beside);
          me.note("open of the " + which + " handle beside it", code(error));
          if (error != cudaSuccess) return;
          me.note("the " + which + " one is at the same address", beside == memory);
          me.note("the " + which + " one reads", look(beside));
          me.note("close of the " + which + " one", code(cudaIpcCloseMemHandle(beside)));
        };
        open_beside("old", me.board().memory);
        open_beside("new", me.board().second);
        me.note("the first one still reads", look(memory));
        me.note("close", code(cudaIpcCloseMemHandle(memory)));
        me.reach(4);
      });
}

Json killed_while_open() {
  return ask(shares_until_killed(kGiB, 7), [](Role& me) {
    come_second(me);
    char* memory = must_open(me.board().memory);
    const double before = free_mib();
    kill_exporter(me);
    me.note("reads at once", look(memory));
    std::vector<double> freed;
    for (int i = 0; i < 5; ++i, sleep_ms(200)) freed.push_back(free_mib() - before);
    me.note("MiB that came free, every 200 ms", freed);
    me.note("reads after a second", look(memory));
    char* again = nullptr;
    const cudaError_t error = open(me.board().memory, &again);
    me.note("open again while open", code(error));
    if (error == cudaSuccess) must(cudaIpcCloseMemHandle(again), "close");
    me.note("close", code(cudaIpcCloseMemHandle(memory)));
    me.note("MiB that came free with the close", free_mib() - before);
    me.note("open behind the close", code(open(me.board().memory, &again)));
  });
}

Json killed_before_open() {
  return ask(shares_until_killed(4 * kMiB, 7), [](Role& me) {
    come_second(me);
    kill_exporter(me);
    char* memory = nullptr;
    me.note("open at once", code(open(me.board().memory, &memory)));
    sleep_ms(500);
    me.note("open after half a second", code(open(me.board().memory, &memory)));
  });
}

/// A dead publisher's kernel: how long it goes on, and whether what is behind it runs.
Json killed_with_work() {
  return ask(
      [](Role& me) {
        auto* const counter = reinterpret_cast<unsigned long long*>(allocate(2 * kMiB));
        me.board().memory = handle_of(counter);
        const cudaStream_t stream = make_stream();
        must(launch_spin(1, nullptr, stream), "spin");
        must(cudaStreamSynchronize(stream), "synchronize");
        must(launch_spin(1000, counter, stream), "spin");
        must(cudaLaunchHostFunc(
                 stream, [](void* board) { static_cast<Board*>(board)->time_ms = now_ms(); },
                 &me.board()),
             "cudaLaunchHostFunc");
        me.reach(1);
        wait_for_death();
      },
      [](Role& me) {
        must(cudaFree(nullptr), "cudaFree");
        const cudaStream_t stream = make_stream();
        unsigned long long* seen = nullptr;
        must(cudaHostAlloc(reinterpret_cast<void**>(&seen), sizeof(*seen), 0), "cudaHostAlloc");
        me.await(1);
        const char* const memory = must_open(me.board().memory);
        sleep_ms(100);
        const auto count = [&] {
          must(cudaMemcpyAsync(seen, memory, sizeof(*seen), cudaMemcpyDeviceToHost, stream),
               "copy");
          must(cudaStreamSynchronize(stream), "synchronize");
          return *seen;
        };
        unsigned long long last = count();
        sleep_ms(5);
        me.note("it counts before", count() > last);
        // The news is waited for elsewhere: what happens until then is looked at here. A look takes
        // some 20 us, unless the driver is busy with the dead one.
        std::atomic<double> killed{0};
        std::atomic<double> known{0};
        std::thread killer([&] {
          sleep_ms(20);
          known = kill_exporter(me.board(), killed);
        });
        double changed = 0;
        double longest_ms = 0;
        unsigned long long looks = 0;
        for (last = count(); known == 0 || now_ms() < known + 1500;) {
          const double before = now_ms();
          const unsigned long long now = count();
          const double after = now_ms();
          if (std::exchange(last, now) != now) changed = after;
          if (killed == 0 || before < killed || known != 0) continue;
          ++looks;
          longest_ms = std::max(longest_ms, after - before);
        }
        killer.join();
        me.note("ms from SIGKILL to the pidfd's news", known - killed);
        me.note("looks between the two", looks);
        me.note("ms of the longest of them", longest_ms);
        me.note("ms from SIGKILL to the last change", changed - killed);
        me.note("ms from the pidfd's news to the last change", changed - known);
        me.note("its host function ran", me.board().time_ms != 0);
      });
}

Json events() {
  return ask(
      [](Role& me) {
        must(cudaFree(nullptr), "cudaFree");
        const cudaStream_t stream = make_stream();
        cudaEvent_t event = nullptr;
        me.note("create", code(cudaEventCreateWithFlags(
                              &event, cudaEventInterprocess | cudaEventDisableTiming)));
        me.note("get", code(cudaIpcGetEventHandle(&me.board().event, event)));
        me.reach(1);
        me.await(2);
        must(launch_spin(1, nullptr, stream), "spin");
        must(cudaStreamSynchronize(stream), "synchronize");
        must(launch_spin(100, nullptr, stream), "spin");
        me.note("record", code(cudaEventRecord(event, stream)));
        me.board().time_ms = now_ms();
        me.reach(3);
        me.await(4);
        must(launch_spin(1000, nullptr, stream), "spin");
        must(cudaEventRecord(event, stream), "record");
        me.reach(5);
        wait_for_death();
      },
      [](Role& me) {
        must(cudaFree(nullptr), "cudaFree");
        const cudaStream_t stream = make_stream();
        me.await(1);
        cudaEvent_t event = nullptr;
        const cudaError_t opened = cudaIpcOpenEventHandle(&event, me.board().event);
        me.note("open", code(opened));
        if (opened != cudaSuccess) return;
        me.note("query of what was never recorded", code(cudaEventQuery(event)));
        me.reach(2);
        me.await(3);
        me.note("query behind a kernel of 100 ms", code(cudaEventQuery(event)));
        must(cudaStreamWaitEvent(stream, event), "wait");
        me.note("ms until a stream passed it",
                took_ms([&] { must(cudaStreamSynchronize(stream), "synchronize"); }));
        me.note("query then", code(cudaEventQuery(event)));
        me.reach(4);
        me.await(5);
        sleep_ms(50);
        must(cudaStreamWaitEvent(stream, event), "wait");
        kill_exporter(me);
        const double killed = now_ms();
        std::string query = code(cudaEventQuery(event));
        me.note("query when its recorder is dead", query);
        std::string waiting = code(cudaStreamQuery(stream));
        me.note("a stream that waits for it", waiting);
        while (now_ms() < killed + 5000 && cudaStreamQuery(stream) == cudaErrorNotReady)
          sleep_ms(1);
        me.note("ms until the stream is not waiting any more, 5000 at most", now_ms() - killed);
        me.note("the stream then", code(cudaStreamQuery(stream)));
        me.note("the event then", code(cudaEventQuery(event)));
        me.note("a copy then", code(cudaFree(nullptr)));
      });
}

Json host_functions() {
  return ask([](Role& me) {
    must(cudaFree(nullptr), "cudaFree");
    const cudaStream_t stream = make_stream();
    std::atomic<double> ran{0};
    const auto function = [](void* at) { static_cast<std::atomic<double>*>(at)->store(now_ms()); };
    std::vector<double> calls, idle, behind;
    for (int i = 0; i < 201; ++i) {
      ran = 0;
      const double begin = now_ms();
      must(cudaLaunchHostFunc(stream, function, &ran), "cudaLaunchHostFunc");
      calls.push_back(1e3 * (now_ms() - begin));
      while (ran == 0) {
      }
      idle.push_back(1e3 * (ran - begin));
    }
    for (int i = 0; i < 51; ++i) {
      ran = 0;
      const double begin = now_ms();
      must(launch_spin(1, nullptr, stream), "spin");
      must(cudaLaunchHostFunc(stream, function, &ran), "cudaLaunchHostFunc");
      while (ran == 0) {
      }
      behind.push_back(1e3 * (ran - begin) - 1000);
    }
    me.note("us of the call", median(calls));
    me.note("us until it ran on an idle stream", median(idle));
    me.note("us behind the end of a kernel of 1 ms, its launch among them", median(behind));
    // Two streams: does one wait for the other's function?
    const cudaStream_t other = make_stream();
    must(cudaLaunchHostFunc(
             stream, [](void*) { sleep_ms(50); }, nullptr),
         "cudaLaunchHostFunc");
    sleep_ms(2);
    ran = 0;
    const double begin = now_ms();
    must(cudaLaunchHostFunc(other, function, &ran), "cudaLaunchHostFunc");
    while (ran == 0) {
    }
    me.note("ms until one ran beside another stream's of 50 ms", ran - begin);
    must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::thread::id threads[2];
    const auto tell = [](void* at) {
      *static_cast<std::thread::id*>(at) = std::this_thread::get_id();
    };
    must(cudaLaunchHostFunc(stream, tell, &threads[0]), "cudaLaunchHostFunc");
    must(cudaLaunchHostFunc(other, tell, &threads[1]), "cudaLaunchHostFunc");
    must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    me.note("those of two streams run on one thread", threads[0] == threads[1]);
    me.note("which is the program's own", threads[0] == std::this_thread::get_id());
  });
}

/// A context that breaks: what runs, what is reported, who else is hurt.
Json broken(cudaError_t (*launch)(cudaStream_t)) {
  return ask(
      [launch](Role& me) {
        char* const memory = allocate(4 * kMiB, 7);
        me.board().memory = handle_of(memory);
        const cudaStream_t stream = make_stream();
        const cudaStream_t other = make_stream();
        must(launch_spin(1, nullptr, stream), "spin");
        must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        me.reach(1);
        me.await(2);
        std::atomic<int> before{0}, behind{0}, later{0};
        std::atomic<double> elsewhere{0};
        const auto set = [](void* at) { *static_cast<std::atomic<int>*>(at) = 1; };
        const auto set_time = [](void* at) { *static_cast<std::atomic<double>*>(at) = now_ms(); };
        must(cudaLaunchHostFunc(stream, set, &before), "cudaLaunchHostFunc");
        const double other_begin = now_ms();
        must(launch_spin(30, nullptr, other), "spin");
        must(cudaLaunchHostFunc(other, set_time, &elsewhere), "cudaLaunchHostFunc");
        must(launch_spin(5, nullptr, stream), "spin");
        must(launch(stream), "launch");
        me.note("cudaLaunchHostFunc behind it", code(cudaLaunchHostFunc(stream, set, &behind)));
        const double begin = now_ms();
        me.note("cudaStreamQuery at once", code(cudaStreamQuery(stream)));
        me.note("cudaStreamSynchronize", code(cudaStreamSynchronize(stream)));
        me.note("ms of it", now_ms() - begin);
        me.note("cudaStreamQuery of another stream", code(cudaStreamQuery(other)));
        me.note("cudaGetLastError", text(cudaGetLastError()));
        me.note("cudaGetLastError again", text(cudaGetLastError()));
        me.note("cudaLaunchHostFunc later", code(cudaLaunchHostFunc(other, set, &later)));
        sleep_ms(300);
        me.note("host function before it ran", before.load());
        me.note("host function behind it ran", behind.load());
        me.note("host function in another stream, behind a kernel, ran", elsewhere != 0);
        me.note("ms from the launch of that kernel of 30 ms until it ran",
                elsewhere != 0 ? elsewhere - other_begin : -1.0);
        me.note("host function of later ran", later.load());
        me.note("cudaMemGetInfo", [] {
          std::size_t a = 0, b = 0;
          return code(cudaMemGetInfo(&a, &b));
        }());
        me.note("cudaMemcpy", look(memory));
        cudaIpcMemHandle_t handle{};
        me.note("cudaIpcGetMemHandle", code(cudaIpcGetMemHandle(&handle, memory)));
        me.note("cudaFree", code(cudaFree(memory)));
        int device = -1;
        me.note("cudaGetDevice", code(cudaGetDevice(&device)));
        me.note("cudaDeviceReset", code(cudaDeviceReset()));
        void* fresh = nullptr;
        me.note("cudaMalloc behind the reset", code(cudaMalloc(&fresh, kMiB)));
        me.note("cudaStreamQuery behind the reset, of a stream before it",
                code(cudaStreamQuery(other)));
        me.note("cudaGetDevice behind the reset", code(cudaGetDevice(&device)));
        me.reach(3);
        me.await(4);
      },
      [](Role& me) {
        come_second(me);
        char* const memory = must_open(me.board().memory);
        me.note("reads before", look(memory));
        me.reach(2);
        me.await(3);
        me.note("reads behind", look(memory));
        me.note("cudaDeviceSynchronize", code(cudaDeviceSynchronize()));
        me.reach(4);
      });
}

Json forked() {
  return ask([](Role& me) {
    must(cudaFree(nullptr), "cudaFree");
    const pid_t child = ::fork();
    if (child == 0) {
      void* memory = nullptr;
      me.note("cudaMalloc in a forked child", code(cudaMalloc(&memory, kMiB)));
      ::_exit(0);
    }
    ::waitpid(child, nullptr, 0);
  });
}

/// In a forked child, whose pid is `pid` when one is given: opens what the exporter shares.
void open_as_another(Role& me, const std::string& who, pid_t pid = 0) {
  if (pid != 0) {
    std::FILE* const last = std::fopen("/proc/sys/kernel/ns_last_pid", "we");
    const bool set = last != nullptr && std::fprintf(last, "%d", pid - 1) > 0;
    if (last == nullptr || std::fclose(last) != 0 || !set) {
      me.note(who + ": choosing a pid", std::strerror(errno));
      return;
    }
  }
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      me.note(who + ": own pid", ::getpid());
      me.note(who + ": first call", code(cudaFree(nullptr)));
      char* memory = nullptr;
      const cudaError_t error = open(me.board().memory, &memory);
      me.note(who + ": open", code(error));
      if (error == cudaSuccess) me.note(who + ": it reads", look(memory));
    } catch (const std::exception& e) {
      me.note(who + ": ended by", e.what());
    }
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
}

/// From another pid namespace, with a /proc of its own: CUDA does not start with another's.
Json pid_namespace() {
  return ask(shares(4 * kMiB, 7), [](Role& me) {
    me.await(1);
    if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      me.note("namespaces", std::strerror(errno));
      me.reach(2);
      return;
    }
    const pid_t first = ::fork();  // pid 1 there, which uses no CUDA
    if (first == 0) {
      if (::mount("proc", "/proc", "proc", 0, nullptr) != 0)
        me.note("a /proc", std::strerror(errno));
      me.note("the exporter's pid, where it is", me.board().exporter_pid.load());
      open_as_another(me, "another pid");
      open_as_another(me, "the exporter's pid", me.board().exporter_pid);
      ::_exit(0);
    }
    ::waitpid(first, nullptr, 0);
    me.reach(2);
  });
}

/// Whether what is mapped from elsewhere is read as fast as one's own.
Json speed() {
  return ask(shares(4 * kGiB, 7), [](Role& me) {
    char* const own = allocate(4 * kGiB);
    char* const to = allocate(4 * kGiB);
    me.await(1);
    const char* const theirs = must_open(me.board().memory);
    const cudaStream_t stream = make_stream();
    const auto copy = [&](const char* from) {
      std::vector<double> times;
      for (int i = 0; i < 11; ++i) {
        times.push_back(took_ms([&] {
          must(cudaMemcpyAsync(to, from, 4 * kGiB, cudaMemcpyDeviceToDevice, stream), "copy");
          must(cudaStreamSynchronize(stream), "synchronize");
        }));
      }
      return median(times);
    };
    me.note("ms to copy 4 GiB of its own", copy(own));
    me.note("ms to copy 4 GiB of another process", copy(theirs));
    me.reach(2);
  });
}

using Question = std::pair<const char*, Json (*)()>;
constexpr Question kQuestions[] = {
    {"device", device},
    {"handles", handles},
    {"garbage", garbage},
    {"kinds", kinds},
    {"stale", stale},
    {"freed while open", freed_while_open},
    {"killed while open", killed_while_open},
    {"killed before open", killed_before_open},
    {"killed with work", killed_with_work},
    {"events", events},
    {"host functions", host_functions},
    {"broken by a trap", [] { return broken(launch_trap); }},
    {"broken by an illegal write", [] { return broken(launch_illegal_write); }},
    {"forked", forked},
    {"pid namespace", pid_namespace},
    {"speed", speed},
    {"latency", latency},
};

bool has_gpu() {
  const Json answer = ask([](Role& me) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    me.note("count", count);
    me.note("why", cudaGetErrorString(error));
  });
  if (answer["exporter"].value("count", 0) > 0) return true;
  std::cout << "no GPU: " << answer["exporter"].value("why", "") << "\n";
  return false;
}

int run(const std::vector<std::string>& wanted) {
  if (!has_gpu()) {
    const char* required = std::getenv("TENON_REQUIRE_GPU");
    return required != nullptr && std::string(required) == "1" ? 1 : 77;
  }
  Json answers = Json::object();
  for (const auto& [name, question] : kQuestions) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    std::cerr << name << std::endl;
    answers[name] = question();
  }
  std::cout << answers.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace tenon::probe

int main(int argc, char** argv) {
  try {
    return tenon::probe::run({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::cerr << "gpu_probe: " << e.what() << "\n";
    return 1;
  }
}
