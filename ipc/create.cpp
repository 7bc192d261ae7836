#include "create.hpp"

#include <sys/random.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <fstream>
#include <tenon/detail/crash_point.hpp>
#include <thread>
#include <utility>

#include "reclaim.hpp"

namespace tenon::ipc {
namespace {

using detail::crash_point;
using detail::CrashPoint;

constexpr int kCreating = 0200;  // nobody but root can read it before it is ready

struct ClaimedObject {
  detail::SharedObject object;
  detail::Claim claim;
};

// The object under `name`, locked, and certain to be the one the name leads to.
ClaimedObject claim_name(const std::string& name, Duration timeout,
                         std::vector<std::string>& notes) {
  const detail::Deadline deadline(timeout);
  std::string why;
  for (;;) {
    if (auto object = detail::SharedObject::create(name, kCreating)) {
      crash_point(CrashPoint::create_object);
      // Between creating and locking, a cleaner may have taken the object for a leftover.
      auto claim = detail::Claim::on(*object);
      if (claim && detail::try_lock_byte(claim->fd(), format::kPublisherByte) &&
          object->still_named()) {
        crash_point(CrashPoint::create_locked);
        return {std::move(*object), std::move(*claim)};
      }
      if (!deadline.passed()) continue;
    }
    const RemovalResult result = remove_if_dead(name, ::geteuid(), false);
    switch (result.what) {
      case Removal::removed:
        detail::log(LogLevel::warn, "replaced /dev/shm/", name, ", ", result.why);
        notes.push_back("replaced /dev/shm/" + name + ", " + result.why);
        if (!deadline.passed()) continue;
        break;
      case Removal::absent:
        if (!deadline.passed()) continue;
        break;
      case Removal::live:
        throw Error(Errc::NameInUse,
                    "'" + name + "' is in use: " + result.why + "; stop it or choose another name");
      case Removal::busy:
        why = result.why;
    }
    if (deadline.passed())
      throw Error(Errc::DeadlinePassed, "'" + name + "' did not become free in time: " + why);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void allocate_object(const detail::SharedObject& object, std::uint64_t bytes) {
  const int error = ::posix_fallocate(object.fd(), 0, static_cast<off_t>(bytes));
  if (error == 0) return;
  if (error == ENOSPC || error == ENOMEM) {
    struct ::statvfs fs {};
    (void)::statvfs("/dev/shm", &fs);
    throw Error(
        Errc::OutOfSpace,
        "creating /dev/shm/" + object.name() + ": " + std::to_string(bytes) +
            " bytes are needed and /dev/shm has " + std::to_string(fs.f_bavail * fs.f_frsize) +
            "; free some ('tenon gc'), or enlarge it ('mount -o remount,size=…', --shm-size)");
  }
  throw SystemError(error, "allocating /dev/shm/" + object.name());
}

std::uint64_t realtime_ns() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

// 32 hexadecimal digits with dashes in between; stays zero where /proc is not mounted.
void read_boot_id(std::uint8_t (&id)[16]) {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  file >> text;
  std::erase(text, '-');
  if (text.size() != 32) return;
  for (std::size_t i = 0; i < 16; ++i)
    id[i] = static_cast<std::uint8_t>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
}

template <std::size_t N>
void copy_text(char (&to)[N], std::string_view text) {
  std::memcpy(to, text.data(), std::min(text.size(), N - 1));
}

// Who publishes, and the instance: from here on cleaners can find the slots that belong to this
// object.
void sign(format::Header& h) {
  if (::getrandom(h.instance, sizeof(h.instance), 0) != static_cast<ssize_t>(sizeof(h.instance))) {
    throw SystemError(errno, "drawing an instance id");
  }
  h.publisher = detail::this_process();
  h.major = format::kMajor;
  h.minor = format::kMinor;
  h.struct_hash = format::struct_hash();
  // release: who finds the magic finds the versions above.
  h.magic.store(format::kMagic, std::memory_order_release);
}

void describe(format::Header& h, const SegmentRequest& request, const MemoryIdentity& memory,
              const format::Sections& at, std::uint64_t statistics) {
  read_boot_id(h.boot_id);
  h.total_bytes = at.end;
  h.memory_kind = static_cast<std::uint32_t>(memory.kind);
  std::copy(memory.device_uuid.begin(), memory.device_uuid.end(), h.device_uuid);
  h.driver_version = memory.driver_version;
  h.runtime_version = memory.runtime_version;
  h.mode = static_cast<std::uint32_t>(request.mode);
  h.bucket_count = request.layout.bucket_count();
  h.slot_count = request.slots;
  h.log_entries = request.mode == Mode::streaming ? request.slots : 2 * h.bucket_count;
  h.layout_bytes = request.layout.bytes().second;
  h.layout_hash = request.layout.hash();
  h.checksum_bytes = at.end - at.checksums;
  h.statistics_at = statistics;
  h.created_at = realtime_ns();
  copy_text(h.label, request.label);
  h.oldest.store(1, std::memory_order_relaxed);  // nobody looks before `ready`, which is released
}

// Slot b is as large as bucket b; a streaming slot takes any bucket.
std::vector<std::uint64_t> slot_sizes(const SegmentRequest& request) {
  const Layout& layout = request.layout;
  std::uint64_t largest = 0;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b)
    largest = std::max(largest, layout.bucket_bytes(b));
  std::vector<std::uint64_t> sizes(request.slots);
  for (std::size_t s = 0; s < sizes.size(); ++s) {
    const std::uint64_t bytes =
        request.mode == Mode::streaming ? largest : layout.bucket_bytes(s % layout.bucket_count());
    sizes[s] =
        std::max(format::round_up(bytes, format::kSlotGranularity), format::kSlotGranularity);
  }
  return sizes;
}

void fill(const detail::Segment& segment, const Layout& layout, const SlotMemory& memory) {
  for (std::size_t i = 0; i < format::kPlaces; ++i)
    segment.place(i).cursor.store(format::kIdle, std::memory_order_relaxed);
  for (std::uint64_t s = 0; s < segment.facts().slots; ++s) {
    segment.raw_slot(s) = memory.describe(s);
    detail::per_process<detail::SlotTable>().add(segment.facts().instance, segment.raw_slot(s),
                                                 {memory.pointer(s), memory.device()});
  }
  std::memcpy(segment.raw_layout(), layout.bytes().first, layout.bytes().second);
}

}  // namespace

std::unique_ptr<LogWriter> create_segment(const SegmentRequest& request, SlotMemory& memory,
                                          const Progress& progress,
                                          std::vector<std::string>& notes) {
  check_name(request.name);
  check_label(request.label);
  const Uid owner = ::geteuid();
  auto [object, claim] =
      claim_name(detail::publication_object(owner, request.name), request.deadline, notes);
  const std::string name = object.name();
  try {
    const std::uint64_t entries =
        request.mode == Mode::streaming ? request.slots : 2 * request.layout.bucket_count();
    const std::uint64_t sets = request.slots / request.layout.bucket_count();
    const format::Sections at(
        request.slots, entries, request.layout.bytes().second,
        request.checksums ? sets * request.layout.size() * sizeof(std::uint64_t) : 0);
    const std::uint64_t statistics = format::round_up(at.end, 4096);  // no page shared with words
    const std::uint64_t bytes = statistics + format::kStatisticsBytes;
    allocate_object(object, bytes);
    crash_point(CrashPoint::create_sized);
    object.map(bytes);
    auto& header = *reinterpret_cast<format::Header*>(object.data());
    sign(header);
    crash_point(CrashPoint::create_signed);
    describe(header, request, memory.identity(), at, statistics);
    crash_point(CrashPoint::create_described);
    detail::Facts facts = detail::read_facts(header, bytes, owner);
    memory.allocate(facts, slot_sizes(request), progress);
    crash_point(CrashPoint::create_slots);
    detail::Segment segment(std::move(object), std::move(facts));
    fill(segment, request.layout, memory);
    crash_point(CrashPoint::create_filled);
    // release: whoever reads `ready` sees all of the above. The mode follows, for those it hid this
    // from.
    header.state.store(static_cast<std::uint32_t>(format::State::ready), std::memory_order_release);
    crash_point(CrashPoint::create_ready);
    if (::fchmod(segment.object().fd(), static_cast<mode_t>(request.permissions)) != 0) {
      throw SystemError(errno, "making /dev/shm/" + name + " readable");
    }
    crash_point(CrashPoint::create_visible);
    return std::make_unique<LogWriter>(std::move(segment), std::move(claim));
  } catch (...) {
    memory.withdraw();
    detail::SharedObject::unlink(
        name);  // still ours: the lock is held, so no cleaner touched the name
    throw;
  }
}

}  // namespace tenon::ipc
