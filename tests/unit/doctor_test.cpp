// Every status that every check of `tenon doctor` can come to, on machines that are made up.
#include <gtest/gtest.h>

#include <cerrno>
#include <cli/doctor/check.hpp>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tenon::cli::doctor {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

Gpu sound_gpu(const std::string& uuid) {
  Gpu gpu;
  gpu.name = "NVIDIA H200";
  gpu.uuid = uuid;
  gpu.ipc_events = true;
  gpu.mig = false;
  gpu.bytes = 140'000 * kMiB;
  gpu.free = 139'000 * kMiB;
  return gpu;
}

// A machine with nothing to complain about.
Evidence sound() {
  Evidence machine;
  machine.files = {
      {file::kKernel, "6.18.5\n"},
      {file::kStatus, "Name:\ttenon\nSeccomp:\t0\n"},
      {file::kMounts, "proc /proc proc rw,nosuid 0 0\ntmpfs /dev/shm tmpfs rw,huge=advise 0 0\n"},
      {file::kLoad, "0.50 0.40 0.30 1/100 4242\n"},
      {file::kPidNamespace, "pid:[4026531836]"},
      {file::kIpcNamespace, "ipc:[4026531839]"},
      {file::kUserNamespace, "user:[4026531837]"},
      {file::kHugePages, "always within_size [advise] never deny force\n"},
      {file::kClock, "tsc\n"},
      {file::kMemoryMax, "max\n"},
      {file::kPtrace, "1\n"},
      {file::kDriver,
       "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  "
       "580.159.04  Release Build\n"}};
  machine.shm = Space{64'000 * kMiB, 60'000 * kMiB};
  machine.sharing = {"", true, true, true, true};
  machine.memlock = Evidence::kUnlimited;
  machine.stack = 8 * kMiB;
  machine.cpus = 16;
  machine.interfaces = {"eth0"};
  machine.loopbacks = {"lo"};
  machine.relay_built_in = true;
  machine.nccl = {true, "2.28.9", ""};
  machine.gpus.driver = 13000;
  machine.gpus.runtime = 13000;
  machine.gpus.all = {sound_gpu("GPU-0"), sound_gpu("GPU-1")};
  return machine;
}

struct Case {
  const char* check;
  Status status;
  const char* says;  ///< in detail or advice
  std::function<void(Evidence&)> change;
};

void nothing(Evidence&) {}
std::function<void(Evidence&)> file_of(const char* path, const char* text) {
  return [=](Evidence& e) { e.files[path] = text; };
}
std::function<void(Evidence&)> no_file(const char* path) {
  return [=](Evidence& e) { e.files.erase(path); };
}
std::function<void(Evidence&)> variable(const char* name, const char* value) {
  return [=](Evidence& e) { e.environment[name] = value; };
}
void no_gpu(Evidence& e) { e.gpus = {{}, "", 0, 13000, {}, {}, {}}; }
void no_cuda(Evidence& e) { e.gpus = {}; }
void untried(Evidence& e) { e.sharing = {"there is no room", false, false, false, false}; }
void systemd_user(Evidence& e) {
  e.files[file::kSystemd] = "";
  e.uid = 1000;
  e.user = "ada";
}
std::function<void(Evidence&)> logind(std::map<std::string, std::string> files) {
  return [=](Evidence& e) {
    systemd_user(e);
    for (const auto& [path, text] : files) e.files[path] = text;
  };
}

std::vector<Case> host_cases() {
  constexpr auto ok = Status::ok;
  constexpr auto warn = Status::warn;
  constexpr auto fail = Status::fail;
  constexpr auto unknown = Status::not_checked;
  const auto expandable = variable("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True");
  const auto refused = [=](Evidence& e) {
    expandable(e);
    e.sharing.getfd = EPERM;
  };
  return {
      {"kernel", ok, "Linux 6.18.5", nothing},
      {"kernel", ok, "5.14.0", file_of(file::kKernel, "5.14.0-70.el9\n")},
      {"kernel", warn, "before Linux 5.14", file_of(file::kKernel, "5.4.0-200-generic\n")},
      {"kernel", warn, "WSL", file_of(file::kKernel, "6.6.87.2-microsoft-standard-WSL2\n")},
      {"kernel", unknown, "osrelease", no_file(file::kKernel)},
      {"shm-size", ok, "of 67.1 GB free", nothing},
      {"shm-size", fail, "mount a tmpfs", [](Evidence& e) { e.shm.reset(); }},
      {"shm-size", fail, "1777", [](Evidence& e) { e.shm->is_writable = false; }},
      {"shm-size", fail, "tenon gc", [](Evidence& e) { e.shm->free = 1000; }},
      {"shm-size", warn, "--shm-size",
       [](Evidence& e) {
         e.shm = Space{64 * kMiB, 60 * kMiB};
       }},
      {"shm-size", warn, "tenon gc", [](Evidence& e) { e.shm->free = 100 * kMiB; }},
      {"shm-size", warn, "no tmpfs", [](Evidence& e) { e.shm->is_tmpfs = false; }},
      {"shm-sharing", ok, "same bytes", nothing},
      {"shm-sharing", fail, "does not see", [](Evidence& e) { e.sharing.seen = false; }},
      {"shm-sharing", unknown, "there is no room\nlook at shm-size first", untried},
      {"file-locks", ok, "die with their holder", nothing},
      {"file-locks", fail, "does not refuse", [](Evidence& e) { e.sharing.locked = false; }},
      {"file-locks", fail, "killed process", [](Evidence& e) { e.sharing.freed = false; }},
      {"file-locks", unknown, "there is no room", untried},
      {"futex", ok, "wakes another", nothing},
      {"futex", warn, "100 ms late", [](Evidence& e) { e.sharing.woken = false; }},
      {"futex", unknown, "there is no room", untried},
      {"stale", ok, "no leftovers", nothing},
      {"stale", warn, "3 objects of dead publishers, 5 MB",
       [](Evidence& e) {
         e.stale_objects = 3;
         e.stale_bytes = 5'000'000;
       }},
      {"stale", unknown, "listing /dev/shm\n'tenon gc'",
       [](Evidence& e) { e.stale_trouble = "listing /dev/shm"; }},
      {"remove-ipc", ok, "no systemd", nothing},
      {"remove-ipc", ok, "system user", file_of(file::kSystemd, "")},
      {"remove-ipc", warn, "RemoveIPC=no", systemd_user},
      {"remove-ipc", ok, "ada lingers", logind({{"/var/lib/systemd/linger/ada", ""}})},
      {"remove-ipc", warn, "at logout", logind({{"/var/lib/systemd/linger/bob", ""}})},
      {"huge-pages", ok, "huge=advise", nothing},
      {"huge-pages", ok, "huge=always",
       file_of(file::kMounts, "tmpfs /dev/shm tmpfs rw,size=9k,huge=always,nodev 0 0\n")},
      {"huge-pages", warn, "remount,huge=advise",
       file_of(file::kMounts, "tmpfs /dev/shm tmpfs rw,nosuid 0 0\n")},
      {"huge-pages", warn, "remount,huge=advise",
       file_of(file::kMounts, "tmpfs /dev/shm tmpfs rw,huge=never 0 0\n")},
      {"huge-pages", warn, "deny",
       file_of(file::kHugePages, "always within_size advise never [deny] force\n")},
      {"huge-pages", ok, "force",
       file_of(file::kHugePages, "always within_size advise never deny [force]\n")},
      {"huge-pages", unknown, "cannot be read", no_file(file::kMounts)},
      {"memory-limit", ok, "no limit", nothing},
      {"memory-limit", ok, "100 GB", file_of(file::kMemoryMax, "100000000000\n")},
      {"memory-limit", warn, "killed", file_of(file::kMemoryMax, "1073741824\n")},
      {"memory-limit", unknown, "cgroup", no_file(file::kMemoryMax)},
      {"memlock", ok, "unlimited", nothing},
      {"memlock", ok, "only RDMA", [](Evidence& e) { e.memlock = 8 * kMiB; }},
      {"memlock", warn, "ulimit -l",
       [](Evidence& e) {
         e.memlock = 8 * kMiB;
         e.infiniband = true;
       }},
      {"stack", ok, "8.39 MB", nothing},
      {"stack", warn, "ulimit -s", [](Evidence& e) { e.stack = Evidence::kUnlimited; }},
      {"pid-namespace", ok, "machine's own", nothing},
      {"pid-namespace", warn, "--pid=host", file_of(file::kPidNamespace, "pid:[4026532999]")},
      {"pid-namespace", unknown, "cannot be read", no_file(file::kPidNamespace)},
      {"ipc-namespace", ok, "machine's own", nothing},
      {"ipc-namespace", warn, "--ipc=host", file_of(file::kIpcNamespace, "ipc:[4026532999]")},
      {"ipc-namespace", unknown, "cannot be read", no_file(file::kIpcNamespace)},
      {"user-namespace", ok, "machine's own", nothing},
      {"user-namespace", warn, "uid 1000 is 100999 outside",
       [](Evidence& e) {
         e.files[file::kUserNamespace] = "user:[4026532999]";
         e.files[file::kUidMap] =
             "         0       1000          1\n         1     100000      65536\n";
         e.uid = 1000;
       }},
      {"user-namespace", warn, "uid 0 is nobody outside",
       file_of(file::kUserNamespace, "user:[4026532999]")},
      {"user-namespace", unknown, "cannot be read", no_file(file::kUserNamespace)},
      {"proc", ok, "shows processes", nothing},
      {"proc", ok, "shows", file_of(file::kMounts, "proc /proc proc rw,hidepid=0 0 0\n")},
      {"proc", warn, "hidepid", file_of(file::kMounts, "proc /proc proc rw,hidepid=2 0 0\n")},
      {"proc", warn, "hidepid", file_of(file::kMounts, "proc /proc proc rw,hidepid=invisible\n")},
      {"proc", warn, "mount -t proc", no_file(file::kStatus)},
      {"proc", unknown, "cannot be read", no_file(file::kMounts)},
      {"seccomp", ok, "no filter", nothing},
      {"seccomp", ok, "a filter; pidfd_open works", file_of(file::kStatus, "Seccomp:\t2\n")},
      {"seccomp", warn, "allow pidfd_open", [](Evidence& e) { e.pidfds = false; }},
      {"seccomp", unknown, "cannot be read", no_file(file::kStatus)},
      {"ptrace", ok, "pidfd_getfd works", nothing},
      {"ptrace", ok, "pidfd_getfd works", expandable},
      {"ptrace", ok, "refused; Tenon needs no ptrace",
       [](Evidence& e) { e.sharing.getfd = EPERM; }},
      {"ptrace", warn, "ptrace_scope=0", refused},
      {"ptrace", warn, "pidfd_getfd: Operation not permitted", refused},
      {"ptrace", warn, "--cap-add=SYS_PTRACE; Linux 5.6",
       [=](Evidence& e) {
         refused(e);
         e.files.erase(file::kPtrace);
       }},
      {"ptrace", unknown, "see shm-sharing", untried},
      {"cores", ok, "16 usable, load 0.5", nothing},
      {"cores", warn, "a core each", [](Evidence& e) { e.cpus = 1; }},
      {"cores", warn, "1.5 usable", file_of(file::kCpuMax, "150000 100000\n")},
      {"cores", ok, "16 usable", file_of(file::kCpuMax, "max 100000\n")},
      {"cores", warn, "more work than cores", file_of(file::kLoad, "40.00 1.0 1.0 1/1 1\n")},
      {"clock", ok, "tsc", nothing},
      {"clock", warn, "system call", file_of(file::kClock, "hpet\n")},
      {"clock", unknown, "cannot be read", no_file(file::kClock)},
  };
}

std::vector<Case> cuda_cases() {
  constexpr auto ok = Status::ok;
  constexpr auto warn = Status::warn;
  constexpr auto fail = Status::fail;
  constexpr auto unknown = Status::not_checked;
  using Kind = Trouble::Kind;
  const auto asking = [](Kind kind, const char* what) {
    return [=](Evidence& e) { e.gpus = {{kind, what, "it"}, "", 0, 0, {}, {}, {}}; };
  };
  const auto probing = [](Kind kind, const char* what) {
    return [=](Evidence& e) { e.gpus.probe = {kind, what, "the importer"}; };
  };
  const auto unprobed = probing(Kind::silent, "did not answer");
  const auto hidden = [](Evidence& e) {
    e.gpus.all.clear();
    e.environment["CUDA_VISIBLE_DEVICES"] = "";
  };
  return {
      {"driver", ok, "580.159.04, for CUDA 13.0", nothing},
      {"driver", fail, "NVRM", asking(Kind::silent, "did not answer within 30 s")},
      {"driver", fail, "--timeout", asking(Kind::silent, "did not answer within 30 s")},
      {"driver", fail, "LD_PRELOAD", asking(Kind::crashed, "was ended by signal 11")},
      {"driver", fail, "it was ended by signal 11",
       asking(Kind::crashed, "was ended by signal 11")},
      {"driver", fail, "standard error", asking(Kind::odd, "ended with exit code 1")},
      {"driver", warn, "ulimit -u", asking(Kind::not_started, "was not started: EAGAIN")},
      {"driver", fail, "libcuda.so.1", no_gpu},
      {"driver", unknown, "host memory only",
       [](Evidence& e) {
         no_gpu(e);
         e.files.erase(file::kDriver);
       }},
      {"driver", unknown, "without the CUDA toolkit", no_cuda},
      {"runtime", ok, "CUDA 13.0", nothing},
      {"runtime", warn, "minor versions", [](Evidence& e) { e.gpus.runtime = 13010; }},
      {"runtime", fail, "580 or later", [](Evidence& e) { e.gpus.driver = 12040; }},
      {"runtime", unknown, "see driver", no_gpu},
      {"gpus", ok, "2 x NVIDIA H200", nothing},
      {"gpus", ok, "NVIDIA H200, L4", [](Evidence& e) { e.gpus.all[1].name = "L4"; }},
      {"gpus", warn, "see visible-devices", hidden},
      {"gpus", warn, "see visible-devices",
       [=](Evidence& e) {
         hidden(e);
         e.gpus.error = "cudaErrorNoDevice, no CUDA-capable device is detected";
       }},
      {"gpus", fail, "cudaErrorSystemNotReady",
       [=](Evidence& e) {
         hidden(e);
         e.gpus.error = "cudaErrorSystemNotReady, system not yet initialized";
       }},
      {"gpus", fail, "of different releases",
       [=](Evidence& e) {
         hidden(e);
         e.gpus.error = "cudaErrorSystemDriverMismatch, unsupported combination";
       }},
      {"gpus", unknown, "see driver", no_gpu},
      {"visible-devices", ok, "not set", nothing},
      {"visible-devices", ok, "'4,5' shows 2", variable("CUDA_VISIBLE_DEVICES", "4,5")},
      {"visible-devices", warn, "'0,9,1' shows 2 of 3", variable("CUDA_VISIBLE_DEVICES", "0,9,1")},
      {"visible-devices", warn, "shows 0", hidden},
      {"visible-devices", unknown, "see driver", no_gpu},
      {"compute-mode", ok, "default", nothing},
      {"compute-mode", fail, "GPU 1: exclusive",
       [](Evidence& e) { e.gpus.all[1].compute_mode = 3; }},
      {"compute-mode", unknown, "no GPU", no_gpu},
      {"mig", ok, "off", nothing},
      {"mig", warn, "GPU 0: MIG is on", [](Evidence& e) { e.gpus.all[0].mig = true; }},
      {"mig", unknown, "nvidia-smi -L", [](Evidence& e) { e.gpus.all[0].mig.reset(); }},
      {"mig", unknown, "no GPU", no_gpu},
      {"mps", ok, "off", nothing},
      {"mps", warn, "GPUs 0, 1: this process is a client",
       [](Evidence& e) { e.gpus.all[0].mps = e.gpus.all[1].mps = true; }},
      {"mps", unknown, "no GPU", no_gpu},
      {"ipc-memory", ok, "opened it", nothing},
      {"ipc-memory", fail, "GPU 1: cudaErrorMapBufferObjectFailed",
       [](Evidence& e) { e.gpus.all[1].memory_trouble = "cudaErrorMapBufferObjectFailed"; }},
      {"ipc-memory", fail, "Tegra",
       [](Evidence& e) { e.gpus.all[0].memory_trouble = "cudaErrorNotSupported"; }},
      {"ipc-memory", fail, "the importer did not answer", unprobed},
      {"ipc-memory", fail, "the memory limit", probing(Kind::crashed, "was ended by signal 9")},
      {"ipc-memory", warn, "ulimit -u", probing(Kind::not_started, "was not started: EAGAIN")},
      {"ipc-memory", unknown, "no GPU", no_gpu},
      {"ipc-events", ok, "saw one pass", nothing},
      {"ipc-events", warn, "GPU 0: not supported",
       [](Evidence& e) { e.gpus.all[0].ipc_events = false; }},
      {"ipc-events", warn, "cudaErrorInvalidResourceHandle",
       [](Evidence& e) { e.gpus.all[0].event_trouble = "cudaErrorInvalidResourceHandle"; }},
      {"ipc-events", unknown, "see ipc-memory", unprobed},
      {"peers", ok, "every GPU", nothing},
      {"peers", ok, "one GPU", [](Evidence& e) { e.gpus.all.pop_back(); }},
      {"peers", warn, "0-1, 1-0",
       [](Evidence& e) {
         e.gpus.separate = {{0, 1}, {1, 0}};
       }},
      {"peers", fail, "GPU 1 from GPU 0: cudaErrorTooManyPeers; GPU 0 from GPU 1: other bytes",
       [](Evidence& e) {
         e.gpus.unopened = {{0, 1, "cudaErrorTooManyPeers"}, {1, 0, "other bytes"}};
       }},
      {"peers", fail, "IOMMU",
       [](Evidence& e) {
         e.gpus.peer_probe = {Kind::silent, "did not answer", "the importer"};
       }},
      {"peers", unknown, "see ipc-memory", unprobed},
      {"peers", unknown, "see ipc-memory",
       [](Evidence& e) { e.gpus.all[1].memory_trouble = "cudaErrorNotSupported"; }},
      {"peers", unknown, "no GPU", no_gpu},
      {"gpu-memory", ok, "146 GB free", nothing},
      {"gpu-memory", warn, "GPU 1: 105 MB free",
       [](Evidence& e) { e.gpus.all[1].free = 100 * kMiB; }},
      {"gpu-memory", unknown, "see ipc-memory", unprobed},
      {"allocator", ok, "nothing set", nothing},
      {"allocator", ok, "nothing set",
       variable("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:False")},
      {"allocator", warn, "PYTORCH_CUDA_ALLOC_CONF has expandable_segments:True",
       variable("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64,expandable_segments:True")},
      {"allocator", warn, "PYTORCH_ALLOC_CONF has backend:cudaMallocAsync",
       variable("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync")},
      {"allocator", warn, "memory saver",
       variable("LD_PRELOAD", "/lib/torch_memory_saver_hook.so")},
      {"launch-blocking", ok, "off", nothing},
      {"launch-blocking", ok, "off", variable("CUDA_LAUNCH_BLOCKING", "0")},
      {"launch-blocking", warn, "unset it", variable("CUDA_LAUNCH_BLOCKING", "1")},
  };
}

std::vector<Case> network_cases() {
  constexpr auto ok = Status::ok;
  constexpr auto warn = Status::warn;
  constexpr auto fail = Status::fail;
  constexpr auto unknown = Status::not_checked;
  const auto no_nccl = [](Evidence& e) { e.nccl = {true, "", "cannot be loaded"}; };
  return {
      {"gloo", ok, "built in", nothing},
      {"gloo", unknown, "without the relay", [](Evidence& e) { e.relay_built_in = false; }},
      {"nccl", ok, "2.28.9", nothing},
      {"nccl", warn, "cannot be loaded", no_nccl},
      {"nccl", unknown, "no GPU",
       [=](Evidence& e) {
         no_gpu(e);
         no_nccl(e);
       }},
      {"nccl", fail, "TENON_NCCL_LIBRARY",
       [=](Evidence& e) {
         no_nccl(e);
         e.environment["TENON_NCCL_LIBRARY"] = "/nowhere/libnccl.so";
       }},
      {"nccl", unknown, "NCCL's header", [](Evidence& e) { e.nccl = {}; }},
      {"nccl-environment", ok, "nothing set", nothing},
      {"nccl-environment", ok, "nothing set", variable("NCCL_SOCKET_IFNAME", "ib,eth")},
      {"nccl-environment", ok, "nothing set", variable("NCCL_SOCKET_IFNAME", "=ib0,eth0")},
      {"nccl-environment", ok, "nothing set", variable("NCCL_SOCKET_IFNAME", "^docker,lo")},
      {"nccl-environment", ok, "nothing set", variable("NCCL_SOCKET_IFNAME", "")},
      {"nccl-environment", fail, "up are: eth0, lo", variable("NCCL_SOCKET_IFNAME", "ib")},
      {"nccl-environment", fail, "NCCL_SOCKET_IFNAME='=eth' leaves none",
       variable("NCCL_SOCKET_IFNAME", "=eth")},
      {"nccl-environment", fail, "up are: eth0, lo", variable("NCCL_SOCKET_IFNAME", "^eth,lo")},
      {"nccl-environment", fail, "up are: none",
       [](Evidence& e) {
         e.environment["NCCL_SOCKET_IFNAME"] = "eth";
         e.interfaces.clear();
         e.loopbacks.clear();
       }},
      {"nccl-environment", warn, "no other node", variable("NCCL_SOCKET_IFNAME", "lo")},
      {"nccl-environment", warn, "no other node", variable("NCCL_SOCKET_IFNAME", "^eth")},
      {"nccl-environment", warn, "set it for all", variable("NCCL_CUMEM_ENABLE", "0")},
      {"nccl-environment", ok, "nothing set", variable("NCCL_CUMEM_ENABLE", "1")},
      {"nccl-environment", fail, "deadline", variable("NCCL_COMM_BLOCKING", "1")},
      {"nccl-environment", unknown, "no GPU", no_gpu},
      {"interfaces", ok, "eth0", nothing},
      {"interfaces", warn, "--network=host", [](Evidence& e) { e.interfaces.clear(); }},
  };
}

void check(const std::vector<Check>& checks, const std::vector<Case>& cases) {
  std::set<std::string> asked;
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.check) + ": " + c.says);
    asked.insert(c.check);
    Evidence machine = sound();
    c.change(machine);
    bool found = false;
    for (const Check& check : checks) {
      if (std::string(check.name) != c.check) continue;
      found = true;
      const Finding finding = check.ask(machine);
      EXPECT_STREQ(name_of(finding.status), name_of(c.status)) << finding.detail;
      EXPECT_NE((finding.detail + "\n" + finding.advice).find(c.says), std::string::npos)
          << finding.detail << "\n"
          << finding.advice;
      EXPECT_FALSE(finding.detail.empty());
      const bool is_bad = finding.status == Status::warn || finding.status == Status::fail;
      if (finding.status != Status::not_checked) {
        EXPECT_EQ(!finding.advice.empty(), is_bad);
      }
    }
    EXPECT_TRUE(found) << "there is no such check";
  }
  for (const Check& check : checks) EXPECT_EQ(asked.count(check.name), 1U) << check.name;
}

TEST(Doctor, JudgesTheHost) { check(host_checks(), host_cases()); }
TEST(Doctor, JudgesGpus) { check(cuda_checks(), cuda_cases()); }
TEST(Doctor, JudgesTheNetwork) { check(network_checks(), network_cases()); }

TEST(Doctor, HasNothingToSayOfASoundMachine) {
  const Evidence machine = sound();
  for (const auto* group : {&host_checks(), &cuda_checks(), &network_checks()})
    for (const Check& check : *group)
      EXPECT_EQ(check.ask(machine).status, Status::ok) << check.name;
}

// A machine of which nothing could be learned crashes no check, and none claims that all is well of
// what it did not see.
TEST(Doctor, SurvivesKnowingNothing) {
  Evidence nothing_known;
  nothing_known.sharing.trouble = "nothing was tried";
  for (const auto* group : {&host_checks(), &cuda_checks(), &network_checks()})
    for (const Check& check : *group) EXPECT_FALSE(check.ask(nothing_known).detail.empty());
}

struct PublicationCase {
  const char* state;
  Status status;
  const char* says;
  std::function<void(Publication&, Evidence&)> change = [](Publication&, Evidence&) {};
};

TEST(Doctor, JudgesAPublication) {
  const auto on_gpu = [](Publication& p, Evidence&) { p.device = "GPU-1"; };
  const std::vector<PublicationCase> cases{
      {"ready", Status::ok, "can be attached to"},
      {"ready", Status::ok, "can be attached to", on_gpu},
      {"absent", Status::fail, "--owner"},
      {"starting", Status::warn, "wait"},
      {"stale", Status::fail, "tenon gc"},
      {"wrong-version", Status::fail, "same version"},
      {"not-yours", Status::fail, "group"},
      {"damaged", Status::fail, "publish anew"},
      {"ready", Status::fail, "all 64", [](Publication& p, Evidence&) { p.places = 64; }},
      {"ready", Status::fail, "GPU-9, which is not seen here",
       [](Publication& p, Evidence&) { p.device = "GPU-9"; }},
      {"ready", Status::fail, "no GPU memory in this build",
       [](Publication& p, Evidence& e) {
         p.device = "GPU-1";
         e.gpus = {};
       }},
      {"ready", Status::warn, "pid 77 here",
       [](Publication& p, Evidence&) {
         p.device = "GPU-1";
         p.here = 2;
       }},
      {"ready", Status::ok, "can be attached", [](Publication& p, Evidence&) { p.here = 2; }},
      {"ready", Status::warn, "driver 12040",
       [](Publication& p, Evidence&) {
         p.device = "GPU-1";
         p.driver = 12040;
       }},
      {"ready", Status::warn, "format 1.0, this tenon has 1.2: can be attached to",
       [](Publication& p, Evidence&) { p.minor = 0; }},
      {"ready", Status::warn, "until this one is updated",
       [](Publication& p, Evidence&) { p.minor = format::kMinor + 1; }},
  };
  for (const PublicationCase& c : cases) {
    SCOPED_TRACE(std::string(c.state) + ": " + c.says);
    Evidence machine = sound();
    Publication publication{"policy", c.state, "why", "", 77, 1, 1, 13000, 2};
    c.change(publication, machine);
    const Finding finding = judge(publication, machine);
    EXPECT_STREQ(name_of(finding.status), name_of(c.status)) << finding.detail;
    EXPECT_NE((finding.detail + "\n" + finding.advice).find(c.says), std::string::npos)
        << finding.detail << "\n"
        << finding.advice;
  }
}

}  // namespace
}  // namespace tenon::cli::doctor
