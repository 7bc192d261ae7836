#include "collect.hpp"

#include <ifaddrs.h>
#include <linux/magic.h>
#include <net/if.h>
#include <pwd.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <tenon/detail/segment.hpp>
#include <tenon/inspect.hpp>

#include "../common.hpp"

namespace tenon::cli::doctor {
namespace {

constexpr const char* kShm = "/dev/shm";

std::optional<std::string> text_of(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_symlink(path, error)) {
    // Those of /proc lead to no path.
    const auto target = std::filesystem::read_symlink(path, error);
    if (!error && target.string().find(":[") != std::string::npos) return target.string();
  }
  if (std::filesystem::is_directory(path, error)) return "";
  std::ifstream file(path);
  if (!file) return std::nullopt;
  try {
    return std::string{std::istreambuf_iterator<char>(file), {}};  // may be empty
  } catch (const std::ios_base::failure&) {                        // it can be opened and not read
    return std::nullopt;
  }
}

// Of this process's own group where there are groups below what is seen as the root.
std::optional<std::string> of_cgroup(const std::string& root, const std::string& path) {
  constexpr std::string_view kRoot = "/sys/fs/cgroup";
  const std::string own = text_of(root + "/proc/self/cgroup").value_or("");
  if (own.starts_with("0::/")) {
    const std::string group = own.substr(3, own.find('\n') - 3);
    const auto text = text_of(root + std::string(kRoot) + group + path.substr(kRoot.size()));
    if (text) return text;
  }
  return text_of(root + path);
}

// logind.conf and its drop-ins: no folders, nothing hidden.
std::vector<std::string> logind_files(const std::string& root) {
  std::vector<std::string> found;
  for (const std::string path : file::kLogind) {
    found.push_back(path);
    std::error_code error;
    std::filesystem::directory_iterator entry(root + path + ".d", error);
    for (; !error && entry != end(entry); entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      if (name.ends_with(".conf") && !name.starts_with('.') && !entry->is_directory(error))
        found.push_back(path + ".d/" + name);
    }
  }
  return found;
}

std::string name_of_user(Uid uid) {
  const struct ::passwd* row = ::getpwuid(uid);
  return row != nullptr ? row->pw_name : "";
}

std::optional<Space> space_of(const char* path) {
  struct ::statfs fs {};
  if (::statfs(path, &fs) != 0) return std::nullopt;
  const auto unit = static_cast<std::uint64_t>(fs.f_bsize);
  return Space{fs.f_blocks * unit, fs.f_bavail * unit, fs.f_type == TMPFS_MAGIC,
               ::access(path, W_OK | X_OK) == 0};
}

std::uint64_t limit(int resource) {
  struct ::rlimit limits {};
  if (::getrlimit(static_cast<__rlimit_resource>(resource), &limits) != 0 ||
      limits.rlim_cur == RLIM_INFINITY)
    return Evidence::kUnlimited;
  return limits.rlim_cur;
}

unsigned usable_cpus() {
  ::cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return 1;
  return static_cast<unsigned>(std::max(CPU_COUNT(&cpus), 1));
}

bool has_pidfds() {
  const auto fd = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0U));
  if (fd >= 0) ::close(fd);
  return fd >= 0;
}

// Those that lead to other machines, or loopback.
std::vector<std::string> interfaces_up(bool loopback) {
  struct ::ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return {};
  const std::unique_ptr<struct ::ifaddrs, void (*)(struct ::ifaddrs*)> all(first, ::freeifaddrs);
  std::vector<std::string> names;
  for (const auto* at = first; at != nullptr; at = at->ifa_next) {
    const bool has_address = at->ifa_addr != nullptr && (at->ifa_addr->sa_family == AF_INET ||
                                                         at->ifa_addr->sa_family == AF_INET6);
    const bool is_loopback = (at->ifa_flags & IFF_LOOPBACK) != 0;
    if (!has_address || (at->ifa_flags & IFF_UP) == 0 || is_loopback != loopback) continue;
    if (std::find(names.begin(), names.end(), at->ifa_name) == names.end())
      names.emplace_back(at->ifa_name);
  }
  return names;
}

void count_stale(Evidence& evidence, Uid owner) {
  try {
    for (const Leftover& leftover : tenon::gc(true, owner)) {
      ++evidence.stale_objects;
      evidence.stale_bytes += leftover.bytes;
    }
  } catch (const Error& error) {
    evidence.stale_trouble = error.message();
  }
}

}  // namespace

std::map<std::string, std::string> files_of(const std::string& root, const std::string& user) {
  std::map<std::string, std::string> files;
  std::vector<std::string> paths = logind_files(root);
  for (const char* path :
       {file::kKernel, file::kStatus, file::kMounts, file::kLoad, file::kPidNamespace,
        file::kIpcNamespace, file::kUserNamespace, file::kUidMap, file::kHugePages, file::kClock,
        file::kSystemd, file::kPtrace, file::kDriver})
    paths.emplace_back(path);
  if (!user.empty()) paths.push_back(file::kLinger + user);
  for (const std::string& path : paths) {
    if (auto text = text_of(root + path)) files[path] = std::move(*text);
  }
  for (const char* path : {file::kMemoryMax, file::kCpuMax}) {
    if (auto text = of_cgroup(root, path)) files[path] = std::move(*text);
  }
  return files;
}

Evidence collect(Uid owner) {
  Evidence evidence;
  evidence.uid = ::geteuid();
  evidence.user = name_of_user(evidence.uid);
  evidence.files = files_of("", evidence.user);
  for (const char* name : {"CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF",
                           "LD_PRELOAD", "CUDA_LAUNCH_BLOCKING", "TENON_NCCL_LIBRARY",
                           "NCCL_COMM_BLOCKING", "NCCL_CUMEM_ENABLE", "NCCL_SOCKET_IFNAME"}) {
    if (const char* value = std::getenv(name)) evidence.environment[name] = value;
  }
  evidence.shm = space_of(kShm);
  evidence.memlock = limit(RLIMIT_MEMLOCK);
  evidence.stack = limit(RLIMIT_STACK);
  evidence.cpus = usable_cpus();
  evidence.pidfds = has_pidfds();
  evidence.interfaces = interfaces_up(false);
  evidence.loopbacks = interfaces_up(true);
  std::error_code error;
  evidence.infiniband = std::filesystem::exists("/sys/class/infiniband", error) &&
                        !std::filesystem::is_empty("/sys/class/infiniband", error);
  count_stale(evidence, owner);
  return evidence;
}

Publication look_at(const std::string& name, Uid owner) {
  Publication publication;
  publication.name = name;
  publication.here = detail::this_pid_namespace();
  try {
    const detail::Found found =
        detail::find_publication(name, owner, detail::SharedObject::Access::read_only);
    publication.state = tenon::name_of(found.state);
    publication.why = found.why;
    if (!found.segment) return publication;
    const detail::Facts& facts = found.segment->facts();
    if (facts.memory == MemoryKind::cuda)
      publication.device = detail::device_text(facts.device_uuid);
    publication.pid = facts.publisher.pid;
    publication.pid_namespace = facts.publisher.pid_namespace;
    publication.driver = facts.driver_version;
    publication.minor = found.segment->header().minor;
    publication.places = static_cast<unsigned>(detail::read_places(*found.segment).size());
  } catch (const Error& error) {
    if (error.code() == Errc::InvalidName) throw;
    publication.state = "damaged";
    publication.why = error.message();
  }
  return publication;
}

}  // namespace tenon::cli::doctor
