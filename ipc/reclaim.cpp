#include "reclaim.hpp"

#include <dirent.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string_view>
#include <tenon/detail/crash_point.hpp>
#include <tenon/detail/process.hpp>
#include <utility>

namespace tenon::ipc {

using detail::crash_point;
using detail::CrashPoint;

namespace {

constexpr const char* kDirectory = "/dev/shm";

std::vector<std::string> objects_with_prefix(const std::string& prefix) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(kDirectory), ::closedir);
  if (!dir) throw SystemError(errno, std::string("listing ") + kDirectory);
  while (const struct ::dirent* entry = ::readdir(dir.get())) {
    if (std::string_view(entry->d_name).starts_with(prefix)) names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::uint64_t object_bytes(const std::string& name) noexcept {
  struct ::stat st {};
  return ::lstat((std::string(kDirectory) + "/" + name).c_str(), &st) == 0
             ? static_cast<std::uint64_t>(st.st_size)
             : 0;
}

// A link, a pipe or another user's file under a publication's name owns no slots of `owner`: else
// any user could keep them from being collected.
bool may_own_slots(const std::string& name, Uid owner) noexcept {
  struct ::stat st {};
  return ::lstat((std::string(kDirectory) + "/" + name).c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
         st.st_uid == owner;
}

// An open object whose header may be readable. While it is being created its mode is 0200: it can
// be opened for writing, which is enough to lock it, but not be read.
class Candidate {
 public:
  explicit Candidate(const std::string& name) : path_(std::string(kDirectory) + "/" + name) {
    detail::check_regular(name);
    constexpr int kFlags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    fd_ = detail::ForkGuard::open(path_.c_str(), O_RDWR | kFlags);
    if (fd_ < 0 && errno == EACCES) {
      fd_ = detail::ForkGuard::open(path_.c_str(), O_WRONLY | kFlags);
    }
    if (fd_ < 0 && errno != ENOENT) throw SystemError(errno, "opening " + path_);
    if (fd_ >= 0)
      readable_ =
          ::pread(fd_, &header_, sizeof(header_), 0) == static_cast<ssize_t>(sizeof(header_));
  }
  Candidate(const Candidate&) = delete;
  Candidate& operator=(const Candidate&) = delete;
  ~Candidate() {
    if (fd_ >= 0) detail::ForkGuard::close(fd_);
  }

  [[nodiscard]] bool exists() const noexcept { return fd_ >= 0; }
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] bool still_named() const noexcept {
    struct ::stat here {};
    struct ::stat there {};
    return ::fstat(fd_, &here) == 0 && ::lstat(path_.c_str(), &there) == 0 &&
           here.st_dev == there.st_dev && here.st_ino == there.st_ino;
  }
  [[nodiscard]] bool belongs_to(Uid owner) const noexcept {
    struct ::stat st {};
    return ::fstat(fd_, &st) == 0 && st.st_uid == owner && S_ISREG(st.st_mode);
  }
  /// The header, if there is one that this program understands.
  [[nodiscard]] const format::Header* header() const noexcept {
    // relaxed, here and of the state: a copy of our own, which pread() made.
    const auto* h = reinterpret_cast<const format::Header*>(header_);
    const bool ours = readable_ && h->magic.load(std::memory_order_relaxed) == format::kMagic &&
                      h->major == format::kMajor && h->struct_hash == format::struct_hash();
    return ours ? h : nullptr;
  }

 private:
  std::string path_;
  int fd_ = -1;
  bool readable_ = false;
  alignas(format::Header) std::byte header_[sizeof(format::Header)];
};

}  // namespace

void unlink_if_named(const detail::SharedObject& object) noexcept {
  if (object.still_named()) detail::SharedObject::unlink(object.name());
}

RemovalResult remove_if_dead(const std::string& name, Uid owner, bool dry_run) {
  const Candidate candidate(name);
  if (!candidate.exists()) return {Removal::absent, {}};
  if (!candidate.belongs_to(owner)) {
    throw Error(Errc::NotYours,
                "/dev/shm/" + name + " is not a regular file of uid " + std::to_string(owner));
  }
  const format::Header* h = candidate.header();
  const std::string pid = h == nullptr ? "" : std::to_string(h->publisher.pid);
  const bool ready = h != nullptr && h->state.load(std::memory_order_relaxed) ==
                                         static_cast<std::uint32_t>(format::State::ready);
  const bool locked = dry_run ? !detail::is_locked_by_other(candidate.fd(), format::kPublisherByte)
                              : detail::try_lock_byte(candidate.fd(), format::kPublisherByte);
  const bool runs =
      ready && detail::still_owns(candidate.fd(), format::kPublisherByte, h->publisher);
  if (!locked) {
    // A lock held although the publisher is dead is a cleaner's; `closed` by a publisher that lives
    // on waits for its readers and removes the name itself. Across pid namespaces only the lock can
    // tell.
    const bool foreign =
        ready && h->publisher.pid_namespace != detail::this_process().pid_namespace;
    if (runs || foreign) return {Removal::live, "published by process " + pid};
    return {Removal::busy, "being created, closed or cleaned"};
  }
  // Without its lock a process has lost its descriptors, or is about to have exited.
  if (runs) return {Removal::busy, "published by process " + pid + ", which lost its lock"};
  if (!candidate.still_named()) return {Removal::busy, "its name changed hands"};

  crash_point(CrashPoint::clean_locked);
  RemovalResult result{Removal::removed,
                       pid.empty() || pid == "0"
                           ? "left behind half created, or damaged"
                           : "left behind by process " + pid + ", which is gone",
                       object_bytes(name)};
  if (h != nullptr) {
    for (const std::string& slot : objects_with_prefix(detail::slot_prefix(owner) +
                                                       detail::instance_text(h->instance) + ".")) {
      result.bytes += object_bytes(slot);
      if (!dry_run) detail::SharedObject::unlink(slot);
      crash_point(CrashPoint::clean_slot);
    }
  }
  // The name last: a cleaner killed half-way leaves it to be found.
  if (!dry_run && !detail::SharedObject::unlink(name)) {
    return {Removal::busy, "cannot be removed (permission?)"};
  }
  crash_point(CrashPoint::clean_name);
  if (!dry_run) detail::log(LogLevel::info, "removed /dev/shm/", name, ", ", result.why);
  return result;
}

}  // namespace tenon::ipc

namespace tenon {

std::vector<Leftover> gc(bool dry_run, std::optional<Uid> owner) {
  const Uid uid = owner.value_or(::geteuid());
  // Slots are listed before headers are read: a header is created before its slots and removed
  // after them, so a slot in this list whose header is not found below belongs to nobody.
  const std::vector<std::string> slots = ipc::objects_with_prefix(detail::slot_prefix(uid));
  std::vector<Leftover> found;
  std::set<std::string> living;  // instances
  bool some_unknown = false;     // an object that may own slots, but cannot be read yet
  for (const std::string& name : ipc::objects_with_prefix(detail::publication_prefix(uid))) {
    try {
      const ipc::RemovalResult result = ipc::remove_if_dead(name, uid, dry_run);
      if (result.what == ipc::Removal::removed) found.push_back({name, result.why, result.bytes});
      if (result.what == ipc::Removal::removed && !dry_run) continue;
      const ipc::Candidate candidate(name);
      if (!candidate.exists()) continue;
      if (const format::Header* h = candidate.header()) {
        living.insert(detail::instance_text(h->instance));
      } else {
        some_unknown = true;
      }
    } catch (const Error& e) {
      const auto* system = dynamic_cast<const SystemError*>(&e);
      const bool forbidden = system != nullptr && system->error() == EACCES;
      if (e.code() != Errc::NotYours && !forbidden) throw;
      some_unknown = some_unknown || ipc::may_own_slots(name, uid);
    }
  }
  for (const std::string& slot : slots) {
    const std::string rest = slot.substr(detail::slot_prefix(uid).size());
    if (some_unknown || living.count(rest.substr(0, rest.find('.'))) > 0) continue;
    const std::uint64_t bytes = ipc::object_bytes(slot);
    if (bytes == 0 && ::access(("/dev/shm/" + slot).c_str(), F_OK) != 0)
      continue;  // removed with its publication
    if (!dry_run && !detail::SharedObject::unlink(slot)) continue;
    ipc::crash_point(ipc::CrashPoint::clean_orphan);
    found.push_back({slot, "a slot that belongs to no publication", bytes});
  }
  return found;
}

}  // namespace tenon
