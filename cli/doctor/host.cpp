// Kernel, shared memory, namespaces, limits.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <system_error>

#include "../common.hpp"
#include "check.hpp"
#include "logind.hpp"

namespace tenon::cli::doctor {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

// The number that text begins with; 0 when there is none.
std::uint64_t number_in(std::string_view text) {
  std::uint64_t number = 0;
  (void)std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// The value of "Key:<tab>value" in a file of such lines.
std::string field(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t at = line.find_first_not_of(" \t", key.size());
    return at == std::string::npos ? "" : line.substr(at);
  }
  return "";
}

Finding unreadable(const char* path) {
  return {Status::not_checked, std::string(path) + " cannot be read here"};
}

Finding kernel(const Evidence& evidence) {
  const auto release = evidence.file(file::kKernel);
  if (!release) return unreadable(file::kKernel);
  const std::string text = first_line(*release);
  const std::uint64_t major = number_in(text);
  const std::uint64_t minor = number_in(std::string_view(text).substr(std::min(
      text.find('.') == std::string::npos ? text.size() : text.find('.') + 1, text.size())));
  if (text.find("microsoft") != std::string::npos || text.find("Microsoft") != std::string::npos)
    return {Status::warn, "Linux " + text + " (WSL)",
            "GPU memory shared between processes is known to fail on WSL: see ipc-memory; host "
            "memory works"};
  if (major < 5 || (major == 5 && minor < 14))
    return {Status::warn, "Linux " + text,
            "before Linux 5.14 slots are faulted in page by page, so creating takes longer"};
  return {Status::ok, "Linux " + text};
}

Finding shm_size(const Evidence& evidence) {
  const char* const more =
      "docker: --shm-size=SIZE or --ipc=host; Kubernetes: an emptyDir of medium Memory at "
      "/dev/shm; elsewhere: mount -o remount,size=SIZE /dev/shm";
  if (!evidence.shm)
    return {Status::fail, "there is no /dev/shm", "mount a tmpfs there: publications live in it"};
  const Space& shm = *evidence.shm;
  const std::string text = human_bytes(shm.free) + " of " + human_bytes(shm.bytes) + " free";
  if (!shm.is_writable)
    return {Status::fail, "/dev/shm: this user cannot write there",
            "its mode should be 1777: chmod 1777 /dev/shm"};
  if (!shm.is_tmpfs)
    return {Status::warn, text + ", no tmpfs",
            "what is mounted on /dev/shm is no memory: mount a tmpfs there"};
  if (shm.free < kMiB)
    return {Status::fail, text, std::string("'tenon gc' removes leftovers; or make room: ") + more};
  if (shm.bytes <= 64 * kMiB)
    return {Status::warn, text + ", as containers have it by default", more};
  if (shm.free < 256 * kMiB)
    return {Status::warn, text,
            "host memory needs a model's bytes there, once or twice: 'tenon gc' removes "
            "leftovers"};
  return {Status::ok, text};
}

// Of those that are asked by two processes.
std::optional<Finding> not_tried(const Evidence& evidence) {
  if (evidence.sharing.trouble.empty()) return std::nullopt;
  return Finding{Status::not_checked, "two processes could not try: " + evidence.sharing.trouble,
                 "look at shm-size first; then at 'ulimit -u' and 'ulimit -n'"};
}

Finding shm_sharing(const Evidence& evidence) {
  if (const auto skipped = not_tried(evidence)) return *skipped;
  if (!evidence.sharing.seen)
    return {Status::fail, "another process does not see what this one writes to /dev/shm",
            "nothing can be published here: is /dev/shm a file system that is shared?"};
  return {Status::ok, "two processes see the same bytes"};
}

Finding file_locks(const Evidence& evidence) {
  if (const auto skipped = not_tried(evidence)) return *skipped;
  const char* const advice =
      "places and names are claimed by OFD locks (Linux 3.15): another kernel, or a sandbox "
      "(gVisor, say) without them, cannot be used";
  if (!evidence.sharing.locked)
    return {Status::fail, "another process's file lock in /dev/shm does not refuse", advice};
  if (!evidence.sharing.freed)
    return {Status::fail, "the file lock of a killed process is not free", advice};
  return {Status::ok, "refuse, and die with their holder"};
}

Finding futex(const Evidence& evidence) {
  if (const auto skipped = not_tried(evidence)) return *skipped;
  if (!evidence.sharing.woken)
    return {Status::warn, "another process's futex wake does not arrive",
            "waits still end, up to 100 ms late: look at the sandbox or seccomp profile"};
  return {Status::ok, "one process wakes another"};
}

Finding stale(const Evidence& evidence) {
  if (!evidence.stale_trouble.empty())
    return {Status::not_checked, evidence.stale_trouble, "'tenon gc' says more"};
  if (evidence.stale_objects == 0) return {Status::ok, "no leftovers of dead publishers"};
  return {Status::warn,
          fmt::format("{} objects of dead publishers, {}", evidence.stale_objects,
                      human_bytes(evidence.stale_bytes)),
          "tenon gc"};
}

Finding remove_ipc(const Evidence& evidence) {
  if (!evidence.file(file::kSystemd)) return {Status::ok, "no systemd here"};
  if (evidence.uid < 1000) return {Status::ok, "a system user's objects stay"};
  if (!evidence.user.empty() && evidence.file(file::kLinger + evidence.user))
    return {Status::ok, evidence.user + " lingers"};
  if (!logind_removes_ipc(evidence)) return {Status::ok, "RemoveIPC=no"};
  return {
      Status::warn, "systemd removes this user's /dev/shm objects at logout",
      "RemoveIPC=no in a file of /etc/systemd/logind.conf.d, or 'loginctl enable-linger', for a "
      "trainer that outlives the session"};
}

// The mount's own option counts for files in /dev/shm; `shmem_enabled` only by its words deny and
// force.
Finding huge_pages(const Evidence& evidence) {
  const auto mounts = evidence.file(file::kMounts);
  if (!mounts) return unreadable(file::kMounts);
  const std::string enabled = evidence.file(file::kHugePages).value_or("");
  if (enabled.find("[force]") != std::string::npos) return {Status::ok, "shmem_enabled is force"};
  if (enabled.find("[deny]") != std::string::npos)
    return {Status::warn, "shmem_enabled is deny",
            std::string("host memory is faster with: echo never > ") + file::kHugePages +
                ", and huge=advise for /dev/shm"};
  std::string chosen = "never";
  std::istringstream lines(*mounts);
  for (std::string line; std::getline(lines, line);) {
    if (line.find(" /dev/shm ") == std::string::npos) continue;
    const std::size_t at = line.find("huge=");
    chosen = at == std::string::npos ? "never"
                                     : line.substr(at + 5, line.find_first_of(", ", at) - at - 5);
  }
  if (chosen == "never")
    return {Status::warn, "/dev/shm is mounted with huge=never",
            "host memory is faster with: mount -o remount,huge=advise /dev/shm"};
  return {Status::ok, "/dev/shm is mounted with huge=" + chosen};
}

Finding memory_limit(const Evidence& evidence) {
  const auto most = evidence.file(file::kMemoryMax);
  if (!most) return {Status::not_checked, "no cgroup tells of a limit"};
  if (most->starts_with("max")) return {Status::ok, "no limit"};
  const std::uint64_t limit = number_in(*most);
  const std::string text = "limited to " + human_bytes(limit) + " by its cgroup";
  if (evidence.shm && limit < evidence.shm->bytes)
    return {Status::warn, text + ", less than /dev/shm",
            "pages in /dev/shm count: a publication larger than the limit gets its writer killed; "
            "raise it (docker: --memory)"};
  return {Status::ok, text};
}

Finding memlock(const Evidence& evidence) {
  if (evidence.memlock == Evidence::kUnlimited) return {Status::ok, "unlimited"};
  const std::string text = human_bytes(evidence.memlock);
  if (!evidence.infiniband) return {Status::ok, text + "; only RDMA needs more"};
  return {Status::warn, text + ", and there is InfiniBand",
          "NCCL over RDMA locks memory: ulimit -l unlimited (docker: --ulimit memlock=-1)"};
}

Finding stack(const Evidence& evidence) {
  if (evidence.stack == Evidence::kUnlimited)
    return {Status::warn, "unlimited",
            "NCCL's threads get small stacks then, and may crash: ulimit -s 8192"};
  return {Status::ok, human_bytes(evidence.stack)};
}

// Inodes of the namespaces that the kernel starts with.
constexpr const char* kFirstPidNamespace = "pid:[4026531836]";
constexpr const char* kFirstIpcNamespace = "ipc:[4026531839]";
constexpr const char* kFirstUserNamespace = "user:[4026531837]";

Finding pid_namespace(const Evidence& evidence) {
  const auto link = evidence.file(file::kPidNamespace);
  if (!link) return unreadable(file::kPidNamespace);
  if (*link == kFirstPidNamespace) return {Status::ok, "the machine's own"};
  return {Status::warn, "one of its own (" + *link + ")",
          "fine within one container; between two, GPU memory does not open where both processes "
          "happen to have the same pid: share it (docker: --pid=host, or --pid=container:NAME)"};
}

Finding ipc_namespace(const Evidence& evidence) {
  const auto link = evidence.file(file::kIpcNamespace);
  if (!link) return unreadable(file::kIpcNamespace);
  if (*link == kFirstIpcNamespace) return {Status::ok, "the machine's own"};
  return {Status::warn, "one of its own (" + *link + ")",
          "fine within one container; two must mount the same /dev/shm (docker: --ipc=host, or "
          "--ipc=shareable and --ipc=container:NAME)"};
}

// Who this user is outside: the number in the namespace that made this one.
std::string uid_outside(const Evidence& evidence) {
  std::istringstream ranges(evidence.file(file::kUidMap).value_or(""));
  std::uint64_t first = 0;
  std::uint64_t outside = 0;
  std::uint64_t count = 0;
  while (ranges >> first >> outside >> count) {
    if (evidence.uid >= first && evidence.uid - first < count)
      return std::to_string(outside + evidence.uid - first);
  }
  return "nobody";
}

Finding user_namespace(const Evidence& evidence) {
  const auto link = evidence.file(file::kUserNamespace);
  if (!link) return unreadable(file::kUserNamespace);
  if (*link == kFirstUserNamespace) return {Status::ok, "the machine's own"};
  return {Status::warn,
          fmt::format("one of its own ({}), where uid {} is {} outside", *link, evidence.uid,
                      uid_outside(evidence)),
          "fine within one container; between two, a user's files are another one's even in the "
          "same /dev/shm: share it (docker: --userns=host; podman: --userns=container:NAME)"};
}

Finding proc(const Evidence& evidence) {
  if (!evidence.file(file::kStatus))
    return {Status::warn, "/proc is not there",
            "the dead are still noticed by their locks, not by pid: mount -t proc proc /proc"};
  const auto mounts = evidence.file(file::kMounts);
  if (!mounts) return unreadable(file::kMounts);
  std::istringstream lines(*mounts);
  for (std::string line; std::getline(lines, line);) {
    const bool hides = line.find("hidepid=") != std::string::npos &&
                       line.find("hidepid=0") == std::string::npos &&
                       line.find("hidepid=off") == std::string::npos;
    if (line.find(" /proc proc ") == std::string::npos || !hides) continue;
    return {Status::warn, "/proc hides other users' processes (hidepid)",
            "fine for one user; where a group shares a publication, give it gid=GROUP in /proc's "
            "mount options"};
  }
  return {Status::ok, "shows processes"};
}

Finding seccomp(const Evidence& evidence) {
  const auto status = evidence.file(file::kStatus);
  if (!status) return unreadable(file::kStatus);
  const std::uint64_t mode = number_in(field(*status, "Seccomp:"));
  const std::string text = mode == 0 ? "no filter" : "a filter";
  if (evidence.pidfds) return {Status::ok, text + "; pidfd_open works"};
  return {
      Status::warn, text + "; pidfd_open is refused",
      "deaths are noticed up to 100 ms later, by /proc: allow pidfd_open in the seccomp profile "
      "(docker 20.10 and later do), or Linux 5.3"};
}

Finding ptrace(const Evidence& evidence) {
  if (!evidence.sharing.trouble.empty()) return {Status::not_checked, "see shm-sharing"};
  const int error = evidence.sharing.getfd;
  if (error == 0) return {Status::ok, "pidfd_getfd works; Tenon needs no ptrace"};
  const auto expands = [&](const char* name) {
    return evidence.variable(name).find("expandable_segments:True") != std::string::npos;
  };
  if (!expands("PYTORCH_CUDA_ALLOC_CONF") && !expands("PYTORCH_ALLOC_CONF"))
    return {Status::ok, "pidfd_getfd is refused; Tenon needs no ptrace"};
  const std::uint64_t scope = number_in(evidence.file(file::kPtrace).value_or(""));
  return {
      Status::warn,
      "pidfd_getfd: " + std::generic_category().message(error) + "; expandable segments are on",
      "PyTorch's own sharing of such memory fails: docker: --cap-add=SYS_PTRACE; " +
          (scope > 0 ? fmt::format("ptrace_scope is {}: sysctl kernel.yama.ptrace_scope=0; ", scope)
                     : std::string("Linux 5.6 or later; ")) +
          "Tenon's slots need none of it"};
}

Finding cores(const Evidence& evidence) {
  double usable = evidence.cpus;
  const std::string quota = evidence.file(file::kCpuMax).value_or("max");
  if (const std::size_t at = quota.find(' ');
      !quota.starts_with("max") && at != std::string::npos) {
    const std::uint64_t period = number_in(std::string_view(quota).substr(at + 1));
    if (period > 0)
      usable =
          std::min(usable, static_cast<double>(number_in(quota)) / static_cast<double>(period));
  }
  const std::string load_text = evidence.file(file::kLoad).value_or("");
  double load = 0;
  (void)std::from_chars(load_text.data(), load_text.data() + load_text.size(), load);
  const std::string text = fmt::format("{:g} usable, load {:.1f}", usable, load);
  if (usable < 2)
    return {Status::warn, text,
            "nothing spins on one core, so every wake costs a sleep; give publisher and engines a "
            "core each"};
  if (load > 1.5 * usable)
    return {Status::warn, text,
            "more work than cores: wakes come late; AttachOptions::spin of 0 spares the others"};
  return {Status::ok, text};
}

Finding clock_source(const Evidence& evidence) {
  const auto source = evidence.file(file::kClock);
  if (!source) return unreadable(file::kClock);
  const std::string text = first_line(*source);
  constexpr std::array<std::string_view, 3> kSlow{"hpet", "acpi_pm", "jiffies"};
  if (std::find(kSlow.begin(), kSlow.end(), text) != kSlow.end())
    return {Status::warn, text,
            "every look at the clock is a system call, also in waits: boot with tsc where it is "
            "stable"};
  return {Status::ok, text};
}

}  // namespace

const std::vector<Check>& host_checks() {
  static const std::vector<Check> kChecks{{"kernel", kernel},
                                          {"shm-size", shm_size},
                                          {"shm-sharing", shm_sharing},
                                          {"file-locks", file_locks},
                                          {"futex", futex},
                                          {"stale", stale},
                                          {"remove-ipc", remove_ipc},
                                          {"huge-pages", huge_pages},
                                          {"memory-limit", memory_limit},
                                          {"memlock", memlock},
                                          {"stack", stack},
                                          {"pid-namespace", pid_namespace},
                                          {"ipc-namespace", ipc_namespace},
                                          {"user-namespace", user_namespace},
                                          {"proc", proc},
                                          {"seccomp", seccomp},
                                          {"ptrace", ptrace},
                                          {"cores", cores},
                                          {"clock", clock_source}};
  return kChecks;
}

}  // namespace tenon::cli::doctor
