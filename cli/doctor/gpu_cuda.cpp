// The exporter and the importer, through the CUDA runtime; MIG through NVML where it can be loaded.
#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <iostream>
#include <tenon/cuda.hpp>
#include <thread>

#include "../common.hpp"
#include "gpus.hpp"

namespace tenon::cli::doctor {
namespace {

namespace cuda = detail::cuda;

constexpr std::size_t kBytes = std::size_t{2} << 20U;  // what CUDA shares at least
constexpr int kByte = 0x5A;

std::string text_of(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
}

// NVML's calls, with the types of its header, which is not needed.
class Nvml {
 public:
  Nvml() {
    const char* named = std::getenv("TENON_NVML_LIBRARY");
    void* library = ::dlopen(named != nullptr ? named : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    const auto init = reinterpret_cast<int (*)()>(::dlsym(library, "nvmlInit_v2"));
    by_bus_ = reinterpret_cast<ByBus>(::dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
    mig_mode_ = reinterpret_cast<MigMode>(::dlsym(library, "nvmlDeviceGetMigMode"));
    works_ = init != nullptr && by_bus_ != nullptr && mig_mode_ != nullptr && init() == kSuccess;
  }

  /// Nothing when it cannot tell.
  [[nodiscard]] std::optional<bool> mig(const std::string& bus) const {
    void* device = nullptr;
    if (!works_ || by_bus_(bus.c_str(), &device) != kSuccess) return std::nullopt;
    unsigned now = 0;
    unsigned pending = 0;
    const int result = mig_mode_(device, &now, &pending);
    if (result == kNotSupported) return false;
    if (result != kSuccess) return std::nullopt;
    return now != 0;
  }

 private:
  static constexpr int kSuccess = 0;
  static constexpr int kNotSupported = 3;
  using ByBus = int (*)(const char*, void**);
  using MigMode = int (*)(void*, unsigned*, unsigned*);
  ByBus by_bus_ = nullptr;
  MigMode mig_mode_ = nullptr;
  bool works_ = false;
};

Json describe(int device, const Nvml& nvml) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  Json json{{"name", properties.name},
            {"uuid", detail::device_text(cuda::uuid_of(device))},
            {"compute_mode", cuda::attribute(cudaDevAttrComputeMode, device)},
            {"mps", cuda::attribute(cudaDevAttrMpsEnabled, device) != 0},
            {"ipc_events", cuda::attribute(cudaDevAttrIpcEventSupport, device) != 0},
            {"bytes", properties.totalGlobalMem}};
  const std::string bus = fmt::format("{:08x}:{:02x}:{:02x}.0", properties.pciDomainID,
                                      properties.pciBusID, properties.pciDeviceID);
  // An instance has it in its name, "NVIDIA A100-SXM4-40GB MIG 1g.5gb".
  if (std::string(properties.name).find(" MIG ") != std::string::npos)
    json["mig"] = true;
  else if (const auto mig = nvml.mig(bus))
    json["mig"] = *mig;
  return json;
}

Json separate_pairs(int count) {
  Json pairs = Json::array();
  for (int from = 0; from < count; ++from) {
    for (int to = 0; to < count; ++to) {
      int reaches = 1;
      if (from != to)
        cuda::check(cudaDeviceCanAccessPeer(&reaches, from, to), "cudaDeviceCanAccessPeer");
      if (reaches == 0) pairs.push_back({from, to});
    }
  }
  return pairs;
}

// No context is made for this.
Json facts(int& count) {
  int driver = 0;
  int runtime = 0;
  (void)cuda::forgotten(cudaDriverGetVersion(&driver));
  cuda::check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  Json json{{"driver", driver}, {"runtime", runtime}};
  const cudaError_t error = cuda::forgotten(cudaGetDeviceCount(&count));
  if (error != cudaSuccess) {
    count = 0;
    json["error"] = text_of(error);
  }
  json["gpus"] = Json::array();
  const Nvml nvml;
  for (int device = 0; device < count; ++device) json["gpus"].push_back(describe(device, nvml));
  json["separate"] = separate_pairs(count);
  return json;
}

template <class Handle>
std::string hex_of(const Handle& handle) {
  std::string hex;
  for (const char byte : handle.reserved)
    hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return hex;
}
template <class Handle>
Handle handle_of(const std::string& hex) {
  Handle handle{};
  for (std::size_t i = 0; i < sizeof(handle.reserved); ++i)
    handle.reserved[i] = static_cast<char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return handle;
}

// Runs `part`; what it throws becomes json[key].
template <class Part>
void attempt(Json& json, const char* key, Part part) {
  try {
    part();
  } catch (const CudaError& error) {
    json[key] = error.message();
  }
}

// Memory and an event on the current device, which end with this process.
void share(Json& json) {
  std::byte* memory = nullptr;
  cudaStream_t stream = nullptr;
  attempt(json, "memory_trouble", [&] {
    cuda::check(cudaMalloc(reinterpret_cast<void**>(&memory), kBytes), "cudaMalloc");
    cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                "cudaStreamCreateWithFlags");
    cuda::check(cudaMemsetAsync(memory, kByte, kBytes, stream), "cudaMemsetAsync");
    cuda::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    cudaIpcMemHandle_t handle{};
    cuda::check(cudaIpcGetMemHandle(&handle, memory), "cudaIpcGetMemHandle");
    json["memory"] = hex_of(handle);
  });
  attempt(json, "event_trouble", [&] {
    cudaEvent_t event = nullptr;
    cuda::check(cudaEventCreateWithFlags(&event, cudaEventInterprocess | cudaEventDisableTiming),
                "cudaEventCreateWithFlags");
    cuda::check(cudaEventRecord(event, stream), "cudaEventRecord");
    cudaIpcEventHandle_t handle{};
    cuda::check(cudaIpcGetEventHandle(&handle, event), "cudaIpcGetEventHandle");
    json["event"] = hex_of(handle);
  });
}

std::string open_memory(const Json& shared) {
  if (!shared.contains("memory")) return shared.value("memory_trouble", "was not shared");
  void* memory = nullptr;
  const auto handle = handle_of<cudaIpcMemHandle_t>(shared.at("memory").get<std::string>());
  cuda::check(cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess),
              "cudaIpcOpenMemHandle");
  unsigned char byte = 0;
  cuda::check(
      cudaMemcpy(&byte, static_cast<std::byte*>(memory) + kBytes - 1, 1, cudaMemcpyDeviceToHost),
      "cudaMemcpy of what was opened");
  cuda::check(cudaIpcCloseMemHandle(memory), "cudaIpcCloseMemHandle");
  return byte == kByte ? "" : "what was opened has other bytes";
}

std::string open_event(const Json& shared) {
  if (!shared.contains("event")) return shared.value("event_trouble", "was not shared");
  cudaEvent_t event = nullptr;
  const auto handle = handle_of<cudaIpcEventHandle_t>(shared.at("event").get<std::string>());
  cuda::check(cudaIpcOpenEventHandle(&event, handle), "cudaIpcOpenEventHandle");
  const detail::Deadline deadline(std::chrono::seconds(2));
  cudaError_t error = cudaErrorNotReady;
  while ((error = cuda::forgotten(cudaEventQuery(event))) == cudaErrorNotReady) {
    if (deadline.passed()) return "it has not passed in the other process after 2 s";
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // between two looks
  }
  cuda::check(error, "cudaEventQuery");
  cuda::check(cudaEventDestroy(event), "cudaEventDestroy");
  return "";
}

std::string trouble_of(std::string (*open)(const Json&), const Json& shared) {
  try {
    return open(shared);
  } catch (const CudaError& error) {
    return error.message();
  }
}

// Memory as engines open it that use another GPU: with theirs current. Where `opened` has trouble
// with one of the two that was told already.
Json open_from_others(const Json& shared, const Json& opened) {
  const auto works = [&](std::size_t i) { return opened[i].at("memory") == ""; };
  Json failed = Json::array();
  for (std::size_t by = 0; by < shared.size(); ++by) {
    if (!works(by) || cuda::forgotten(cudaSetDevice(static_cast<int>(by))) != cudaSuccess) continue;
    for (std::size_t of = 0; of < shared.size(); ++of) {
      int reaches = 0;
      if (of == by || !works(of) ||
          cuda::forgotten(cudaDeviceCanAccessPeer(&reaches, static_cast<int>(by),
                                                  static_cast<int>(of))) != cudaSuccess ||
          reaches == 0)
        continue;
      std::string trouble = trouble_of(open_memory, shared[of]);
      if (!trouble.empty())
        failed.push_back({{"by", by}, {"of", of}, {"trouble", std::move(trouble)}});
    }
  }
  return failed;
}

void print_line(const Json& json) { print(json.dump() + "\n"); }

}  // namespace

void tell_of_gpus() {
  int count = 0;
  print_line(facts(count));
  Json all = Json::array();
  for (int device = 0; device < count; ++device) {
    Json json = Json::object();
    attempt(json, "memory_trouble", [&] {
      cuda::check(cudaSetDevice(device), "cudaSetDevice");
      std::size_t free = 0;
      std::size_t bytes = 0;
      cuda::check(cudaMemGetInfo(&free, &bytes), "cudaMemGetInfo");
      json["free"] = free;
      share(json);
    });
    all.push_back(std::move(json));
  }
  print_line(all);
  std::string ignored;
  while (std::getline(std::cin, ignored)) continue;
}

void open_handles() {
  std::string line;
  std::getline(std::cin, line);
  const Json shared = Json::parse(line);
  Json all = Json::array();
  for (std::size_t device = 0; device < shared.size(); ++device) {
    const cudaError_t error = cuda::forgotten(cudaSetDevice(static_cast<int>(device)));
    const std::string trouble =
        error == cudaSuccess ? "" : "cudaSetDevice in a second process: " + text_of(error);
    all.push_back({{"memory", trouble.empty() ? trouble_of(open_memory, shared[device]) : trouble},
                   {"event", trouble.empty() ? trouble_of(open_event, shared[device]) : trouble}});
  }
  print_line(all);
  print_line(open_from_others(shared, all));
}

}  // namespace tenon::cli::doctor
