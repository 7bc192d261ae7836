// What `tenon doctor` knows of a machine: collected once, judged by checks that look at nothing
// else. A test makes up the machine it wants.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tenon/name.hpp>
#include <utility>
#include <vector>

namespace tenon::cli::doctor {

/// A file system. Bytes.
struct Space {
  std::uint64_t bytes = 0;
  std::uint64_t free = 0;
  bool is_tmpfs = true;
  bool is_writable = true;  ///< by this process
};

/// What two processes saw of one object in /dev/shm.
struct Sharing {
  std::string trouble;  ///< why nothing was seen; empty when it was tried
  bool seen = false;    ///< the other one's bytes
  bool woken = false;   ///< by the other one's futex wake
  bool locked = false;  ///< the other one's lock refuses
  bool freed = false;   ///< the lock of a killed one is free
  int getfd = 0;        ///< 0, or errno of taking a descriptor of the first one (pidfd_getfd)
};

struct Gpu {
  std::string name;
  std::string uuid;  ///< "GPU-8-4-4-4-12"
  int compute_mode = 0;
  bool mps = false;
  bool ipc_events = false;
  std::optional<bool> mig{};  ///< nothing where NVML cannot tell
  std::uint64_t bytes = 0;
  std::uint64_t free = 0;      ///< 0 unless it was probed
  std::string memory_trouble;  ///< of memory shared between two processes; empty when it works
  std::string event_trouble;
};

/// Why another process of this program told nothing.
struct Trouble {
  enum class Kind {
    none,
    not_started,
    silent,   ///< it did not answer in time
    crashed,  ///< a signal ended it
    odd,      ///< it ended by itself, or answered what cannot be read
  };
  Kind kind = Kind::none;
  std::string what{};  ///< "did not answer within 30 s", "was ended by signal 11"
  std::string who{};   ///< "the importer"
  explicit operator bool() const noexcept { return kind != Kind::none; }
};

/// Memory of GPU `of` that a process with GPU `by` current could not open or read, although CUDA
/// says that they reach each other.
struct Unopened {
  std::size_t by;
  std::size_t of;
  std::string trouble;
};

struct Gpus {
  Trouble trouble;    ///< of the process that was to look; nothing below is known
  std::string error;  ///< CUDA's, when there is no device to be used
  int driver = 0;     ///< 13000 is CUDA 13.0; 0: none
  int runtime = 0;    ///< 0: this build has no GPU memory
  std::vector<Gpu> all;
  std::vector<std::pair<std::size_t, std::size_t>> separate;  ///< ordinals without peer access
  Trouble probe;  ///< why memory and events were not tried, or ended without an answer
  std::vector<Unopened> unopened{};  ///< of pairs that are not `separate`
  Trouble peer_probe{};              ///< why that has no answer
};

struct Nccl {
  bool built_in = false;
  std::string version;  ///< "2.28.9"; empty when it cannot be loaded
  std::string trouble;
};

struct Evidence {
  /// Text by path; what cannot be read is missing. Links hold what they point to.
  std::map<std::string, std::string> files;
  std::map<std::string, std::string> environment;  ///< those variables that are set
  std::optional<Space> shm{};                      ///< /dev/shm; nothing when there is none
  Sharing sharing{};
  std::uint64_t memlock = 0;  ///< bytes; kUnlimited
  std::uint64_t stack = 0;
  unsigned cpus = 1;  ///< that this process may run on
  bool pidfds = true;
  Uid uid = 0;
  std::string user;                     ///< its name; empty when it has none
  std::vector<std::string> interfaces;  ///< other than loopback, and up
  std::vector<std::string> loopbacks;   ///< that are up
  bool infiniband = false;
  std::uint64_t stale_objects = 0;
  std::uint64_t stale_bytes = 0;
  std::string stale_trouble;
  bool relay_built_in = false;
  Nccl nccl{};
  Gpus gpus{};

  static constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};
  [[nodiscard]] std::optional<std::string> file(const std::string& path) const {
    const auto found = files.find(path);
    return found == files.end() ? std::nullopt : std::optional(found->second);
  }
  /// Empty when it is not set.
  [[nodiscard]] std::string variable(const std::string& name) const {
    const auto found = environment.find(name);
    return found == environment.end() ? "" : found->second;
  }
};

/// Files that checks look at.
namespace file {
inline constexpr const char* kKernel = "/proc/sys/kernel/osrelease";
inline constexpr const char* kStatus = "/proc/self/status";
inline constexpr const char* kMounts = "/proc/mounts";
inline constexpr const char* kLoad = "/proc/loadavg";
inline constexpr const char* kPidNamespace = "/proc/self/ns/pid";  ///< links
inline constexpr const char* kIpcNamespace = "/proc/self/ns/ipc";
inline constexpr const char* kUserNamespace = "/proc/self/ns/user";
inline constexpr const char* kUidMap = "/proc/self/uid_map";
inline constexpr const char* kHugePages = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
inline constexpr const char* kClock =
    "/sys/devices/system/clocksource/clocksource0/current_clocksource";
inline constexpr const char* kMemoryMax = "/sys/fs/cgroup/memory.max";
inline constexpr const char* kCpuMax = "/sys/fs/cgroup/cpu.max";
inline constexpr const char* kSystemd = "/run/systemd/system";      ///< "" where systemd runs
inline constexpr const char* kLinger = "/var/lib/systemd/linger/";  ///< and a user's name
/// Of logind.conf, and of logind.conf.d/*.conf; a file in an earlier one hides its namesakes.
inline constexpr std::array<const char*, 4> kLogind{
    "/etc/systemd/logind.conf", "/run/systemd/logind.conf", "/usr/local/lib/systemd/logind.conf",
    "/usr/lib/systemd/logind.conf"};
inline constexpr const char* kPtrace = "/proc/sys/kernel/yama/ptrace_scope";
inline constexpr const char* kDriver = "/proc/driver/nvidia/version";
}  // namespace file

}  // namespace tenon::cli::doctor
