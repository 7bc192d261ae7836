#include "regions.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace tenon::sim {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSpacing = 2U << 20U;
// Below what the kernel uses of itself, within what ThreadSanitizer allows.
constexpr std::uint64_t kFirstHint = 0x7E90'0000'0000;
constexpr std::size_t kMaxReserved = 1024;

std::uint64_t pages(std::uint64_t bytes) {
  return (std::max<std::uint64_t>(bytes, 1) + kPage - 1) / kPage * kPage;
}

/// A file descriptor; -1 when the object is not there or there is no room for it.
int open_object(const std::string& name, std::uint64_t bytes, bool create) {
  const std::string path = "/" + name;
  const int fd = ::shm_open(path.c_str(), O_RDWR | (create ? O_CREAT | O_EXCL : 0), 0600);
  if (fd < 0 || !create) return fd;
  int error = EINTR;
  while (error == EINTR) error = ::posix_fallocate(fd, 0, static_cast<::off_t>(pages(bytes)));
  if (error == 0) return fd;
  ::close(fd);
  ::shm_unlink(path.c_str());
  return -1;
}

}  // namespace

std::byte* Regions::map_at_hint(std::uint64_t bytes, int protection, int fd) {
  if (next_hint_ == 0)
    next_hint_ = kFirstHint + (static_cast<std::uint64_t>(::getpid()) % 96 << 32U);
  // Only a hint: where something is already, the kernel takes another address.
  void* hint = reinterpret_cast<void*>(next_hint_);
  next_hint_ += (pages(bytes) + kSpacing) / kSpacing * kSpacing + kSpacing;
  const int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* at = ::mmap(hint, pages(bytes), protection, flags, fd, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

bool Regions::map(Region& region, const std::string& object, bool create, bool accessible) {
  int fd = -1;
  if (!object.empty()) {
    fd = open_object(object, region.bytes, create);
    if (fd < 0) return false;
  }
  const std::lock_guard lock(mutex_);
  std::byte* alias = map_at_hint(region.bytes, PROT_READ | PROT_WRITE, fd);
  if (fd >= 0) ::close(fd);
  if (alias == nullptr) return false;
  std::byte* base = accessible ? alias : map_at_hint(region.bytes, PROT_NONE, -1);
  if (base == nullptr) {
    ::munmap(alias, pages(region.bytes));
    return false;
  }
  region.base = base;
  region.alias = alias;
  region.number = ++last_number_;
  regions_[base] = region;
  if (region.kind == Region::Kind::imported)
    imports_[key(region.allocation.id, region.context)] = base;
  return true;
}

std::optional<Region> Regions::find(const void* pointer) const {
  const std::lock_guard lock(mutex_);
  auto after = regions_.upper_bound(static_cast<const std::byte*>(pointer));
  if (after == regions_.begin()) return std::nullopt;
  const Region& region = std::prev(after)->second;
  if (!region.contains(pointer, 1)) return std::nullopt;
  return region;
}

std::optional<Region> Regions::find_import(AllocationId id, int context) const {
  const std::lock_guard lock(mutex_);
  const auto found = imports_.find(key(id, context));
  if (found == imports_.end()) return std::nullopt;
  return regions_.at(found->second);
}

int Regions::count_opens(const void* base, int change) {
  const std::lock_guard lock(mutex_);
  return regions_.at(static_cast<const std::byte*>(base)).opens += change;
}

void Regions::remove(const void* base) {
  const std::lock_guard lock(mutex_);
  const auto found = regions_.find(static_cast<const std::byte*>(base));
  const Region region = found->second;
  regions_.erase(found);
  if (region.kind == Region::Kind::imported)
    imports_.erase(key(region.allocation.id, region.context));
  if (region.alias != region.base) ::munmap(region.alias, pages(region.bytes));
  reserve({region.base, pages(region.bytes)});
}

/// Makes a range fault, and gives the oldest such range back.
void Regions::reserve(Range range) {
  ::mmap(range.first, range.second, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  reserved_.push_back(range);
  if (reserved_.size() <= kMaxReserved) return;
  ::munmap(reserved_.front().first, reserved_.front().second);
  reserved_.pop_front();
}

void Regions::clear() {
  const std::lock_guard lock(mutex_);
  for (const auto& [base, region] : regions_) {
    if (region.alias != region.base) ::munmap(region.alias, pages(region.bytes));
    ::munmap(region.base, pages(region.bytes));
  }
  regions_.clear();
  imports_.clear();
  for (const Range& range : reserved_) ::munmap(range.first, range.second);
  reserved_.clear();
}

std::byte* Regions::reach(const void* pointer) const {
  const auto region = find(pointer);
  auto* at = const_cast<std::byte*>(static_cast<const std::byte*>(pointer));
  return region ? region->alias + (at - region->base) : at;
}

std::uint64_t Regions::opens() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t count = 0;
  for (const auto& [base, region] : regions_) {
    if (region.kind == Region::Kind::imported) count += static_cast<std::uint64_t>(region.opens);
  }
  return count;
}

}  // namespace tenon::sim
