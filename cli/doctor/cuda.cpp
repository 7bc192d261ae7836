// Driver, GPUs, and what two processes can share of them.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "../common.hpp"
#include "check.hpp"

namespace tenon::cli::doctor {
namespace {

// CUDA told nothing, because of the process that was to ask it.
Finding not_asked(const Trouble& trouble) {
  const std::string text = trouble.who + " " + trouble.what;
  switch (trouble.kind) {
    case Trouble::Kind::not_started:
      return {Status::warn, text,
              "GPUs are not judged: see 'ulimit -u' and 'ulimit -n', the cgroup's pids.max, free "
              "memory, and that /proc is there"};
    case Trouble::Kind::crashed:
      return {Status::fail, text,
              "'dmesg' says more: 9 is mostly the memory limit, 31 a seccomp profile, another one "
              "the driver's libraries, or what LD_PRELOAD and LD_LIBRARY_PATH bring in"};
    case Trouble::Kind::odd:
      return {Status::fail, text,
              "what it said is on standard error; see what LD_PRELOAD and LD_LIBRARY_PATH bring "
              "in"};
    default:
      return {Status::fail, text,
              "look at 'nvidia-smi' and 'dmesg | grep NVRM'; a GPU that hangs takes a reset, a "
              "slow one (no persistence mode, many GPUs) a longer --timeout"};
  }
}

std::string cuda_version(int version) {
  return fmt::format("CUDA {}.{}", version / 1000, version / 10 % 100);
}

// "580.159.04" of /proc/driver/nvidia/version: the first word like it.
std::string driver_version(const std::string& text) {
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const bool is_version = word.find('.') != std::string::npos &&
                            word.find_first_not_of("0123456789.") == std::string::npos;
    if (is_version) return word;
  }
  return "of unknown version";
}

Finding driver(const Evidence& evidence) {
  const Gpus& gpus = evidence.gpus;
  if (gpus.trouble) return not_asked(gpus.trouble);
  if (gpus.runtime == 0)
    return {Status::not_checked, "this tenon was built without the CUDA toolkit"};
  const auto module = evidence.file(file::kDriver);
  if (gpus.driver == 0 && module)
    return {Status::fail,
            "the kernel has driver " + driver_version(*module) + ", but libcuda.so.1 is not here",
            "in a container: --gpus all with the NVIDIA Container Toolkit; else install the "
            "driver's libcuda"};
  if (gpus.driver == 0) return {Status::not_checked, "no NVIDIA driver: host memory only"};
  return {Status::ok,
          (module ? driver_version(*module) + ", " : "") + "for " + cuda_version(gpus.driver)};
}

Finding runtime(const Evidence& evidence) {
  const Gpus& gpus = evidence.gpus;
  if (gpus.driver == 0 || gpus.runtime == 0) return {Status::not_checked, "see driver"};
  const std::string text = cuda_version(gpus.runtime);
  const std::string with = text + ", the driver is for " + cuda_version(gpus.driver);
  if (gpus.driver / 1000 < gpus.runtime / 1000)
    return {Status::fail, with,
            "update the driver (CUDA 13 takes 580 or later), or build Tenon with an older toolkit"};
  if (gpus.driver < gpus.runtime)
    return {Status::warn, with,
            "minor versions go together but were not tested so: update the driver"};
  return {Status::ok, text};
}

Finding seen(const Evidence& evidence) {
  const Gpus& gpus = evidence.gpus;
  if (gpus.driver == 0) return {Status::not_checked, "see driver"};
  const auto says = [&](const char* error) { return gpus.error.find(error) != std::string::npos; };
  if (says("cudaErrorSystemDriverMismatch"))
    return {Status::fail, gpus.error,
            "libcuda.so.1 and the kernel's driver are of different releases: reboot after an "
            "update of the driver; in a container, its image brings a libcuda (the compat folder "
            "in LD_LIBRARY_PATH, say)"};
  const bool hidden = gpus.error.empty() || says("cudaErrorNoDevice");
  if (gpus.all.empty() && hidden && evidence.environment.count("CUDA_VISIBLE_DEVICES") > 0)
    return {Status::warn, "none is seen: see visible-devices",
            "host memory works; for GPU memory unset or mend CUDA_VISIBLE_DEVICES"};
  if (gpus.all.empty())
    return {Status::fail, gpus.error.empty() ? "the driver shows none" : gpus.error,
            "'nvidia-smi' should list them; in a container: --gpus all; with NVSwitch, the fabric "
            "manager must run"};
  const bool alike = std::all_of(gpus.all.begin(), gpus.all.end(),
                                 [&](const Gpu& gpu) { return gpu.name == gpus.all.front().name; });
  std::string text = fmt::format("{} x {}", gpus.all.size(), gpus.all.front().name);
  if (!alike) {
    text = gpus.all.front().name;
    for (std::size_t i = 1; i < gpus.all.size(); ++i) text += ", " + gpus.all[i].name;
  }
  return {Status::ok, text};
}

// For checks of every GPU.
std::optional<Finding> nothing_to_check(const Evidence& evidence) {
  if (evidence.gpus.all.empty()) return Finding{Status::not_checked, "no GPU is seen"};
  return std::nullopt;
}

// "GPUs 0, 3", of those that have it; empty when none has.
template <class Has>
std::string which(const Evidence& evidence, Has has) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < evidence.gpus.all.size(); ++i) {
    if (has(evidence.gpus.all[i])) found.push_back(i);
  }
  if (found.empty()) return "";
  return fmt::format("GPU{} {}", found.size() == 1 ? "" : "s", fmt::join(found, ", "));
}

Finding visible_devices(const Evidence& evidence) {
  if (evidence.gpus.driver == 0) return {Status::not_checked, "see driver"};
  if (evidence.environment.count("CUDA_VISIBLE_DEVICES") == 0)
    return {Status::ok, "CUDA_VISIBLE_DEVICES is not set: all are seen"};
  const std::string list = evidence.variable("CUDA_VISIBLE_DEVICES");
  const auto named = static_cast<std::size_t>(std::count(list.begin(), list.end(), ',')) + 1;
  const std::size_t seen = evidence.gpus.all.size();
  const std::string text = fmt::format("CUDA_VISIBLE_DEVICES='{}' shows {}", list, seen);
  if (seen == 0)
    return {Status::warn, text, "for host memory that is fine; for GPU memory unset or mend it"};
  if (seen < named)
    return {Status::warn, fmt::format("{} of {} named", text, named),
            "CUDA stops at the first entry that is no device: 'nvidia-smi -L' lists them"};
  return {Status::ok, text + "; publications go by UUID"};
}

Finding compute_mode(const Evidence& evidence) {
  if (const auto nothing = nothing_to_check(evidence)) return *nothing;
  const std::string gpus = which(evidence, [](const Gpu& gpu) { return gpu.compute_mode != 0; });
  if (gpus.empty()) return {Status::ok, "default"};
  return {Status::fail, gpus + ": exclusive or prohibited",
          "a second process cannot use it: nvidia-smi -i N -c DEFAULT"};
}

Finding mig(const Evidence& evidence) {
  if (const auto nothing = nothing_to_check(evidence)) return *nothing;
  const std::string gpus = which(evidence, [](const Gpu& gpu) { return gpu.mig.value_or(false); });
  if (!gpus.empty())
    return {Status::warn, gpus + ": MIG is on",
            "memory is shared within one GPU instance only: run trainer and engines in the same, "
            "or use host memory"};
  if (!which(evidence, [](const Gpu& gpu) { return !gpu.mig; }).empty())
    return {Status::not_checked, "NVML (libnvidia-ml.so.1) does not tell",
            "'nvidia-smi -L' lists instances, if there are any"};
  return {Status::ok, "off"};
}

Finding mps(const Evidence& evidence) {
  if (const auto nothing = nothing_to_check(evidence)) return *nothing;
  const std::string gpus = which(evidence, [](const Gpu& gpu) { return gpu.mps; });
  if (gpus.empty()) return {Status::ok, "off"};
  return {Status::warn, gpus + ": this process is a client of MPS",
          "untested; a fault of one client kills all of them, the trainer too; users have servers "
          "of their own"};
}

// Why memory or events were not tried on any GPU.
std::optional<Finding> not_probed(const Evidence& evidence) {
  if (const auto nothing = nothing_to_check(evidence)) return nothing;
  if (!evidence.gpus.probe) return std::nullopt;
  return not_asked(evidence.gpus.probe);
}

Finding ipc_memory(const Evidence& evidence) {
  if (const auto finding = not_probed(evidence)) return *finding;
  const std::string gpus =
      which(evidence, [](const Gpu& gpu) { return !gpu.memory_trouble.empty(); });
  if (gpus.empty()) return {Status::ok, "another process opened it and read it"};
  const auto first = std::find_if(evidence.gpus.all.begin(), evidence.gpus.all.end(),
                                  [](const Gpu& gpu) { return !gpu.memory_trouble.empty(); });
  return {Status::fail, gpus + ": " + first->memory_trouble,
          "GPU memory cannot be shared between processes here: see compute-mode, mig, mps, kernel "
          "(WSL) and pid-namespace; Tegra (Jetson) has no such sharing; host memory works"};
}

Finding ipc_events(const Evidence& evidence) {
  if (const auto finding = not_probed(evidence)) return {Status::not_checked, "see ipc-memory"};
  const std::string gpus =
      which(evidence, [](const Gpu& gpu) { return !gpu.ipc_events || !gpu.event_trouble.empty(); });
  if (gpus.empty()) return {Status::ok, "another process saw one pass"};
  const auto first = std::find_if(evidence.gpus.all.begin(), evidence.gpus.all.end(),
                                  [](const Gpu& gpu) { return !gpu.event_trouble.empty(); });
  const bool refused = first != evidence.gpus.all.end();
  return {Status::warn, gpus + ": " + (refused ? first->event_trouble : "not supported"),
          "Tenon needs none; other libraries do: events take a common /dev/shm (shm-sharing)"};
}

// Of pairs that CUDA says reach each other, when one was seen not to.
std::optional<Finding> broken_peers(const Gpus& gpus) {
  std::string text;
  if (gpus.peer_probe)
    text = "opening another GPU's memory: " + gpus.peer_probe.who + " " + gpus.peer_probe.what;
  for (const Unopened& pair : gpus.unopened)
    text += fmt::format("{}GPU {} from GPU {}: {}", text.empty() ? "" : "; ", pair.of, pair.by,
                        pair.trouble);
  if (text.empty()) return std::nullopt;
  return Finding{Status::fail, text,
                 "run engines on the publication's GPU, or attach with it current (a device has so "
                 "many peers and no more: cudaErrorTooManyPeers); in a virtual machine, or with "
                 "wrong bytes: ACS, IOMMU"};
}

Finding peers(const Evidence& evidence) {
  if (const auto nothing = nothing_to_check(evidence)) return *nothing;
  const Gpus& gpus = evidence.gpus;
  if (gpus.all.size() == 1) return {Status::ok, "there is one GPU"};
  if (const auto finding = broken_peers(gpus)) return *finding;
  const bool tried = !gpus.probe && std::all_of(gpus.all.begin(), gpus.all.end(), [](const Gpu& g) {
    return g.memory_trouble.empty();
  });
  if (gpus.separate.empty() && !tried) return {Status::not_checked, "see ipc-memory"};
  if (gpus.separate.empty()) return {Status::ok, "every GPU reaches every other"};
  std::string pairs;
  for (const auto& [from, to] : gpus.separate)
    pairs += fmt::format("{}{}-{}", pairs.empty() ? "" : ", ", from, to);
  return {Status::warn, "no access: " + pairs,
          "an engine must run on a GPU that reaches the publication's: 'nvidia-smi topo -p2p r' "
          "shows why (in a virtual machine: ACS, IOMMU)"};
}

Finding gpu_memory(const Evidence& evidence) {
  if (const auto finding = not_probed(evidence)) return {Status::not_checked, "see ipc-memory"};
  constexpr std::uint64_t kContext = std::uint64_t{600} << 20U;
  const std::string low = which(evidence, [](const Gpu& gpu) { return gpu.free < kContext; });
  std::uint64_t least = evidence.gpus.all.front().free;
  for (const Gpu& gpu : evidence.gpus.all) least = std::min(least, gpu.free);
  if (low.empty()) return {Status::ok, "at least " + human_bytes(least) + " free on each"};
  return {Status::warn, low + ": " + human_bytes(least) + " free",
          "each process takes about 500 MB for its context alone: 'nvidia-smi' shows who has it"};
}

Finding allocator(const Evidence& evidence) {
  for (const char* name : {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"}) {
    const std::string value = evidence.variable(name);
    for (const char* part : {"expandable_segments:True", "backend:cudaMallocAsync"}) {
      if (value.find(part) == std::string::npos) continue;
      return {Status::warn, std::string(name) + " has " + part,
              "such memory cannot be shared: publish by gathering, or into Tenon's slots; only "
              "plan_unpacked() of PyTorch's own tensors is refused (NotShareable)"};
    }
  }
  if (evidence.variable("LD_PRELOAD").find("memory_saver") != std::string::npos)
    return {Status::warn, "LD_PRELOAD has a memory saver",
            "it makes cudaMalloc memory that cannot be shared: create publications outside its "
            "region"};
  return {Status::ok, "nothing set that hinders sharing"};
}

Finding launch_blocking(const Evidence& evidence) {
  const std::string value = evidence.variable("CUDA_LAUNCH_BLOCKING");
  if (value.empty() || value == "0") return {Status::ok, "off"};
  return {Status::warn, "CUDA_LAUNCH_BLOCKING=" + value,
          "publish() waits for the gather instead of enqueueing it: unset it but for debugging"};
}

}  // namespace

const std::vector<Check>& cuda_checks() {
  static const std::vector<Check> kChecks{{"driver", driver},
                                          {"runtime", runtime},
                                          {"gpus", seen},
                                          {"visible-devices", visible_devices},
                                          {"compute-mode", compute_mode},
                                          {"mig", mig},
                                          {"mps", mps},
                                          {"ipc-memory", ipc_memory},
                                          {"ipc-events", ipc_events},
                                          {"peers", peers},
                                          {"gpu-memory", gpu_memory},
                                          {"allocator", allocator},
                                          {"launch-blocking", launch_blocking}};
  return kChecks;
}

}  // namespace tenon::cli::doctor
