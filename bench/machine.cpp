#include "machine.hpp"

#include <fmt/core.h>
#include <gnu/libc-version.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "child.hpp"

namespace tenon::bench {
namespace {

// The text behind the first "key<separator>" that begins a line of `path`.
std::string field(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const std::size_t colon = line.find(':');
    const std::size_t at = line.find_first_not_of(" \t", colon + 1);
    return colon == std::string::npos || at == std::string::npos ? "" : line.substr(at);
  }
  return "";
}

std::string first_line(const char* path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::uint64_t memory_field(const std::string& key) {
  return std::strtoull(field("/proc/meminfo", key).c_str(), nullptr, 10) * 1024;
}

// tmpfs shows huge= only where it was set.
std::string shm_huge_option() {
  std::ifstream in("/proc/mounts");
  std::string found = "never (default)";
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string device;
    std::string where;
    std::string type;
    std::string options;
    words >> device >> where >> type >> options;
    const std::size_t at = options.find("huge=");
    if (where != "/dev/shm" || at == std::string::npos) continue;
    found = options.substr(at + 5, options.find(',', at) - at - 5);
  }
  return found;
}

struct ::statvfs shm() {
  struct ::statvfs fs {};
  (void)::statvfs("/dev/shm", &fs);
  return fs;
}

double gib(const nlohmann::json& bytes) { return double{bytes} / (1ULL << 30U); }

}  // namespace

std::uint64_t available_memory() { return memory_field("MemAvailable"); }

std::uint64_t available_shm() {
  const struct ::statvfs fs = shm();
  return static_cast<std::uint64_t>(fs.f_bavail) * fs.f_frsize;
}

nlohmann::json describe_run() {
  struct ::utsname kernel {};
  (void)::uname(&kernel);
  const struct ::statvfs fs = shm();
  const std::string flags = " " + field("/proc/cpuinfo", "flags") + " ";
  nlohmann::json machine{
      {"cpu", field("/proc/cpuinfo", "model name")},
      {"cores", std::thread::hardware_concurrency()},
      {"usable_cores", usable_cpus().size()},
      {"virtual", flags.find(" hypervisor ") != std::string::npos},
      {"memory_bytes", memory_field("MemTotal")},
      {"kernel", std::string(kernel.sysname) + " " + kernel.release},
      {"shm_bytes", static_cast<std::uint64_t>(fs.f_blocks) * fs.f_frsize},
      {"shm_huge", shm_huge_option()},
      {"transparent_hugepage", first_line("/sys/kernel/mm/transparent_hugepage/enabled")},
      {"compiler", __VERSION__},
      {"libc", std::string("glibc ") + ::gnu_get_libc_version()},
      {"nice", ::getpriority(PRIO_PROCESS, 0)},
      {"load_average", first_line("/proc/loadavg").substr(0, 14)}};
  return {{"machine", std::move(machine)}, {"version", TENON_VERSION}, {"commit", TENON_COMMIT}};
}

std::string header_text(const nlohmann::json& run) {
  const nlohmann::json& m = run["machine"];
  std::string gpu;
  if (m.contains("gpu"))
    gpu = fmt::format("{}{}, {:.1f} of {:.1f} GiB free, driver {}, runtime {}\n",
                      std::string(m["gpu"]["name"]),
                      m["gpu"]["simulated"] ? " (SIMULATED: times mean nothing)" : "",
                      gib(m["gpu"]["free_bytes"]), gib(m["gpu"]["memory_bytes"]),
                      int{m["gpu"]["driver"]}, int{m["gpu"]["runtime"]});
  return gpu + fmt::format(
                   "tenon-bench {} ({})\n{}{}, {} of {} cores, {:.1f} GiB; {}; /dev/shm {:.1f} GiB "
                   "huge={}; THP "
                   "{}\n"
                   "{}, {}; load {}, nice {}\n",
                   std::string(run["version"]), std::string(run["commit"]), std::string(m["cpu"]),
                   m["virtual"] ? " (virtual machine)" : "", int{m["usable_cores"]},
                   int{m["cores"]}, gib(m["memory_bytes"]), std::string(m["kernel"]),
                   gib(m["shm_bytes"]), std::string(m["shm_huge"]),
                   std::string(m["transparent_hugepage"]), std::string(m["compiler"]),
                   std::string(m["libc"]), std::string(m["load_average"]), int{m["nice"]});
}

}  // namespace tenon::bench
