#include "node.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <type_traits>

#include "config.hpp"

namespace tenon::sim {
namespace {

enum class State : std::uint32_t {
  free,
  live,
  orphan,  // freed, or its process died, while another has it open: still in use
  stale,   // gone, but its object is kept (TENON_SIM_STALE)
};

struct Allocation {
  State state;
  std::uint32_t generation;
  ProcessId owner;
  std::int32_t device;
  std::uint32_t object;
  std::uint64_t bytes;
};

struct Opening {
  std::uint32_t used;
  AllocationId allocation;
  std::uint32_t reserved;
  ProcessId owner;
};

struct Claim {
  std::uint32_t used;
  std::int32_t device;
  ProcessId owner;
};

constexpr std::uint64_t kMagic = 0x31'4C52'5443'4E54;  // "TNCTRL1"
constexpr std::uint32_t kAllocations = 32768;
constexpr std::uint32_t kOpenings = 65536;
constexpr std::uint32_t kClaims = 256;
constexpr std::uint32_t kTexts = 16;

std::string prefix_of(const std::string& node) {
  return "tenon-sim." + std::to_string(::getuid()) + "." + node + ".";
}

/// The objects in /dev/shm whose names begin so.
std::vector<std::string> objects(const std::string& prefix) {
  std::vector<std::string> found;
  DIR* directory = ::opendir("/dev/shm");
  if (directory == nullptr) return found;
  while (const struct ::dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name.compare(0, prefix.size(), prefix) == 0) found.push_back(name);
  }
  ::closedir(directory);
  return found;
}

}  // namespace

/// The control segment. Zero bytes are an empty one. The counts say how far the tables were used.
struct Control {
  std::uint64_t magic;
  std::uint64_t violations;
  std::uint32_t allocation_count;
  std::uint32_t first_free_allocation;
  std::uint32_t opening_count;
  std::uint32_t first_free_opening;
  char texts[kTexts][192];
  Claim claims[kClaims];
  Allocation allocations[kAllocations];
  Opening openings[kOpenings];
};
static_assert(std::is_trivially_copyable_v<Control>);
static_assert(sizeof(Allocation) == 40 && sizeof(Opening) == 32 && sizeof(Claim) == 24);

class Node::Lock {
 public:
  explicit Lock(Node& node) : guard_(node.mutex_), fd_(node.fd_) {
    while (::flock(fd_, LOCK_EX) != 0) {
      if (errno != EINTR) die("locking the control segment: " + std::string(std::strerror(errno)));
    }
  }
  ~Lock() { ::flock(fd_, LOCK_UN); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  std::lock_guard<std::mutex> guard_;
  int fd_;
};

Node::Node(Options options) : options_(std::move(options)), prefix_(prefix_of(options_.name)) {
  attach(options_.make);
  if (options_.make) sweep_events();
}

Node::~Node() {
  if (control_ == nullptr) return;
  ::munmap(control_, sizeof *control_);
  ::close(fd_);
}

void Node::attach(bool make) {
  const std::string name = "/" + prefix_ + "control";
  bool removed = true;  // between opening and locking it
  while (removed) {
    fd_ = ::shm_open(name.c_str(), O_RDWR | (make ? O_CREAT : 0), 0600);
    if (fd_ < 0 && !make && errno == ENOENT) return;
    if (fd_ < 0) die("opening " + name + ": " + std::strerror(errno));
    {
      const Lock lock(*this);
      struct ::stat status {};
      if (::fstat(fd_, &status) != 0) die("looking at " + name);
      removed = status.st_nlink == 0;
      if (!removed) map_control(static_cast<std::uint64_t>(status.st_size));
    }
    if (removed) ::close(fd_);
  }
}

/// Under the lock.
void Node::map_control(std::uint64_t bytes) {
  const std::string name = "/dev/shm/" + prefix_ + "control";
  if (bytes == 0 && ::ftruncate(fd_, sizeof *control_) != 0)
    die("sizing " + name + ": " + std::strerror(errno));
  if (bytes != 0 && bytes != sizeof *control_)
    die(name + " is of another version of the simulator: remove it");
  void* at = ::mmap(nullptr, sizeof *control_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (at == MAP_FAILED) die("mapping " + name + ": " + std::strerror(errno));
  control_ = static_cast<Control*>(at);
  if (control_->magic != 0 && control_->magic != kMagic) die(name + " is foreign: remove it");
  control_->magic = kMagic;
}

void Node::sweep_events() {
  const std::string events = prefix_ + "event.";
  for (const std::string& name : objects(events)) {
    ProcessId owner;
    unsigned long long start = 0;
    if (std::sscanf(name.c_str() + events.size(), "%d.%llu.", &owner.pid, &start) != 2) continue;
    owner.start = start;
    if (!owner.alive()) ::shm_unlink(("/" + name).c_str());
  }
}

void Node::remove(const std::string& name) {
  for (const std::string& object : objects(prefix_of(name))) ::shm_unlink(("/" + object).c_str());
}

std::optional<AllocationId> Node::allocate(const Request& request) {
  const Lock lock(*this);
  const auto fits = [&] {
    const std::uint64_t in_use = used(request.device);
    return in_use <= request.limit && request.bytes <= request.limit - in_use;
  };
  if (!fits() || free_allocation() == kAllocations) reap();
  const std::uint32_t index = free_allocation();
  if (!fits() || index == kAllocations) return std::nullopt;
  Allocation& entry = control_->allocations[index];
  const std::uint32_t generation = entry.generation + 1;
  entry = {State::free, generation, self_, request.device, request.object ? 1U : 0U, request.bytes};
  entry.state = State::live;
  control_->allocation_count = std::max(control_->allocation_count, index + 1);
  control_->first_free_allocation = index + 1;
  return AllocationId{index, generation};
}

int Node::release(AllocationId id) {
  const Lock lock(*this);
  std::set<std::int32_t> importers;
  for (std::uint32_t i = 0; i < control_->opening_count; ++i) {
    const Opening& opening = control_->openings[i];
    if (opening.used != 0 && opening.allocation == id && opening.owner.alive())
      importers.insert(opening.owner.pid);
  }
  control_->allocations[id.index].state = State::orphan;
  if (importers.empty()) retire(id.index);
  return static_cast<int>(importers.size());
}

cudaError_t Node::find(const MemoryHandle& handle, Import& import) {
  if (handle.node != hash()) return cudaErrorInvalidResourceHandle;
  if (handle.index >= kAllocations) return cudaErrorInvalidValue;
  const Lock lock(*this);
  const bool dead = !handle.exporter.alive();
  if (dead) reap();
  const Allocation& entry = control_->allocations[handle.index];
  const AllocationId id{handle.index, entry.generation};
  const bool theirs = entry.owner == handle.exporter && entry.object != 0;
  const bool same = handle.generation == 0 || handle.generation == entry.generation;
  // What is freed, or whose process is gone, only those who have it open can open again.
  const bool kept = entry.state == State::orphan && same && is_open_here(id);
  const bool stale = entry.state == State::stale && options_.keep_stale && same;
  if (!theirs || (entry.state != State::live && !kept && !stale))
    return dead ? cudaErrorInvalidResourceHandle : cudaErrorInvalidValue;
  if (entry.bytes != handle.bytes) return cudaErrorInvalidValue;
  import = {id, 0, entry.device, entry.bytes};
  return cudaSuccess;
}

bool Node::is_open_here(AllocationId id) const {
  const Opening* begin = control_->openings;
  return std::any_of(begin, begin + control_->opening_count, [&](const Opening& opening) {
    return opening.used != 0 && opening.allocation == id && opening.owner == self_;
  });
}

void Node::open(Import& import) {
  const Lock lock(*this);
  std::uint32_t index = free_opening();
  if (index == kOpenings) {
    reap();
    index = free_opening();
  }
  if (index == kOpenings) die("more than 65536 openings of memory on one node");
  control_->openings[index] = {1, import.id, 0, self_};
  control_->opening_count = std::max(control_->opening_count, index + 1);
  control_->first_free_opening = index + 1;
  import.opening = index;
}

void Node::close(const Import& import) {
  const Lock lock(*this);
  control_->openings[import.opening].used = 0;
  control_->first_free_opening = std::min(control_->first_free_opening, import.opening);
  const Allocation& entry = control_->allocations[import.id.index];
  if (entry.state == State::orphan && entry.generation == import.id.generation) reap();
}

bool Node::claim(int device, bool exclusive) {
  const Lock lock(*this);
  Claim* vacant = nullptr;
  for (Claim& claim : control_->claims) {
    if (claim.used != 0 && !claim.owner.alive()) claim.used = 0;
    if (claim.used == 0) {
      if (vacant == nullptr) vacant = &claim;
    } else if (claim.device == device) {
      if (claim.owner == self_) return true;
      if (exclusive) return false;
    }
  }
  if (vacant == nullptr) die("more than 256 contexts on one node");
  *vacant = {1, device, self_};
  return true;
}

void Node::leave() {
  const Lock lock(*this);
  for (Claim& claim : control_->claims) {
    if (claim.owner == self_) claim.used = 0;
  }
  bury([this](const ProcessId& process) { return process == self_ || !process.alive(); });
  for (const std::string& name : objects(prefix_ + "event." + std::to_string(self_.pid) + "." +
                                         std::to_string(self_.start) + "."))
    ::shm_unlink(("/" + name).c_str());
}

void Node::reap() {
  bury([](const ProcessId& process) { return !process.alive(); });
}

/// Clears away what the dead processes left. Under the lock.
void Node::bury(const Dead& dead) {
  std::map<std::pair<std::int32_t, std::uint64_t>, bool> known;  // asking the system is slow
  const auto is_dead = [&](const ProcessId& process) {
    const auto [at, fresh] = known.try_emplace({process.pid, process.start}, false);
    if (fresh) at->second = dead(process);
    return at->second;
  };
  std::set<std::uint32_t> open;
  for (std::uint32_t i = 0; i < control_->opening_count; ++i) {
    Opening& opening = control_->openings[i];
    if (opening.used == 0) continue;
    if (is_dead(opening.owner)) {
      opening.used = 0;
      control_->first_free_opening = std::min(control_->first_free_opening, i);
    } else if (control_->allocations[opening.allocation.index].generation ==
               opening.allocation.generation) {
      open.insert(opening.allocation.index);
    }
  }
  for (std::uint32_t i = 0; i < control_->allocation_count; ++i) {
    Allocation& entry = control_->allocations[i];
    if (entry.state == State::live && is_dead(entry.owner)) entry.state = State::orphan;
    if (entry.state == State::orphan && open.count(i) == 0) retire(i);
  }
}

void Node::retire(std::uint32_t index) {
  Allocation& entry = control_->allocations[index];
  if (options_.keep_stale && entry.object != 0) {
    entry.state = State::stale;
    return;
  }
  if (entry.object != 0) ::shm_unlink(("/" + memory_object({index, entry.generation})).c_str());
  entry.state = State::free;
  control_->first_free_allocation = std::min(control_->first_free_allocation, index);
}

std::uint64_t Node::used(int device) const {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < control_->allocation_count; ++i) {
    const Allocation& entry = control_->allocations[i];
    if (entry.device != device) continue;
    if (entry.state == State::live || entry.state == State::orphan) bytes += entry.bytes;
  }
  return bytes;
}

std::uint32_t Node::free_allocation() const {
  std::uint32_t i = control_->first_free_allocation;
  while (i < kAllocations && control_->allocations[i].state != State::free) ++i;
  return i;
}

std::uint32_t Node::free_opening() const {
  std::uint32_t i = control_->first_free_opening;
  while (i < kOpenings && control_->openings[i].used != 0) ++i;
  return i;
}

void Node::violation(const std::string& text) {
  const std::string line = "process " + std::to_string(self_.pid) + ": " + text;
  std::fprintf(stderr, "tenon-sim: VIOLATION: %s\n", line.c_str());
  const Lock lock(*this);
  char(&slot)[192] = control_->texts[control_->violations % kTexts];
  std::snprintf(slot, sizeof slot, "%s", line.c_str());
  ++control_->violations;
}

std::uint64_t Node::violations() {
  const Lock lock(*this);
  return control_->violations;
}

std::vector<std::string> Node::violation_log() {
  const Lock lock(*this);
  std::vector<std::string> log;
  const std::uint64_t count = control_->violations;
  for (std::uint64_t i = count - std::min<std::uint64_t>(count, kTexts); i < count; ++i)
    log.emplace_back(control_->texts[i % kTexts]);
  return log;
}

std::uint64_t Node::bytes_in_use(int device) {
  const Lock lock(*this);
  reap();
  return used(device);
}

std::uint64_t Node::live_allocations() {
  const Lock lock(*this);
  reap();
  const Allocation* begin = control_->allocations;
  return static_cast<std::uint64_t>(
      std::count_if(begin, begin + control_->allocation_count, [](const Allocation& entry) {
        return entry.state == State::live || entry.state == State::orphan;
      }));
}

std::string Node::memory_object(AllocationId id) const {
  return prefix_ + "mem." + std::to_string(id.index) + "." + std::to_string(id.generation);
}

std::string Node::event_object(const ProcessId& exporter, std::uint64_t number) const {
  return prefix_ + "event." + std::to_string(exporter.pid) + "." + std::to_string(exporter.start) +
         "." + std::to_string(number);
}

std::uint64_t Node::hash() const noexcept {
  std::uint64_t hash = 14695981039346656037U;
  for (const char c : prefix_) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return hash;
}

}  // namespace tenon::sim
