// Slots in POSIX shared memory, all in one object, pre-faulted once.
//
// One object: a subscriber maps them with one call, however many buckets there are (one object each
// took 8 us per slot, measured).
//
// First touch of shared memory is slow (0.5 to 3 GB/s; on virtual machines the hypervisor faults
// too), so it is paid here, in parallel, and never again: slots live as long as the publication.
// MADV_POPULATE_WRITE reports a full /dev/shm as an error where a plain touch would raise SIGBUS.
#include <sys/mman.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <tenon/detail/crash_point.hpp>
#include <thread>
#include <utility>

#include "slot_memory.hpp"

namespace tenon::ipc {
namespace {

constexpr std::uint64_t kChunk = 64ULL << 20U;
constexpr std::uint64_t kAll = ~std::uint64_t{0};

std::string mib(std::uint64_t bytes) {
  return std::to_string((bytes >> 20U) + (bytes % (1U << 20U) == 0 ? 0 : 1)) + " MiB";
}

[[noreturn]] void throw_out_of_space(std::uint64_t needed, std::uint64_t available) {
  throw Error(
      Errc::OutOfSpace,
      "allocating slots: " + mib(needed) + " of shared memory are needed and /dev/shm has " +
          mib(available) +
          "; free some ('tenon gc' removes leftovers), or enlarge it: 'mount -o remount,size=…' "
          "(in containers --shm-size), or publish with fewer slots");
}

void check_space(std::uint64_t needed) {
  struct ::statvfs fs {};
  if (::statvfs("/dev/shm", &fs) != 0) throw SystemError(errno, "looking at /dev/shm");
  if (fs.f_blocks == 0) return;  // mounted without a limit
  const std::uint64_t available = static_cast<std::uint64_t>(fs.f_bavail) * fs.f_frsize;
  if (needed > available) throw_out_of_space(needed, available);
}

// Makes [at, at + bytes) resident. Falls back to fallocate where the kernel (before 5.14) lacks the
// advice.
void populate(int fd, std::byte* base, std::uint64_t at, std::uint64_t bytes) {
  if (::madvise(base + at, bytes, detail::kPopulateWrite) == 0) return;
  int error = errno;
  if (error == EINVAL)
    error = ::posix_fallocate(fd, static_cast<off_t>(at), static_cast<off_t>(bytes));
  if (error == 0) return;
  if (error == EFAULT || error == ENOSPC || error == ENOMEM) throw_out_of_space(bytes, 0);
  throw SystemError(error, "pre-faulting a slot");
}

class HostSlots final : public SlotMemory {
 public:
  explicit HostSlots(const HostSlotOptions& options) : options_(options) {}
  HostSlots(const HostSlots&) = delete;
  HostSlots& operator=(const HostSlots&) = delete;
  ~HostSlots() override { withdraw(); }

  void allocate(const detail::Facts& facts, std::span<const std::uint64_t> sizes,
                const Progress& progress) override {
    std::uint64_t total = 0;
    for (const std::uint64_t size : sizes) {
      total = size > kAll - total ? kAll : total + size;  // no machine has as much as this says
    }
    check_space(total);
    try {
      std::uint8_t instance[16];
      std::copy(facts.instance.begin(), facts.instance.end(), instance);
      object_ = create(detail::slot_object(facts.owner, instance, 0));
      detail::crash_point(detail::CrashPoint::create_slot_object);
      map(total);
      for (const std::uint64_t size : sizes) {
        slots_.push_back({slots_.empty() ? 0 : slots_.back().offset + slots_.back().bytes, size});
      }
      prefault(progress);
      detail::crash_point(detail::CrashPoint::create_slot);
    } catch (...) {
      withdraw();
      throw;
    }
  }

  [[nodiscard]] format::Slot describe(std::size_t i) const override {
    format::Slot slot{};
    slot.handle_kind = static_cast<std::uint32_t>(format::HandleKind::shm_object);
    slot.offset = slots_[i].offset;
    slot.bytes = slots_[i].bytes;
    slot.mapped_bytes = object_->mapped_bytes();
    return slot;
  }
  [[nodiscard]] std::byte* data(std::size_t i) const override {
    return object_->data() + slots_[i].offset;
  }
  [[nodiscard]] detail::SlotPointer pointer(std::size_t i) const override {
    return {object_, data(i)};
  }

  void withdraw() noexcept override {
    if (object_ && !std::exchange(withdrawn_, true)) detail::SharedObject::unlink(object_->name());
  }

 private:
  [[nodiscard]] std::shared_ptr<detail::SharedObject> create(const std::string& name) const {
    auto object = detail::SharedObject::create(name, options_.permissions);
    if (!object)
      throw Error(Errc::NameInUse, "/dev/shm/" + name + " exists although its name is random");
    return std::make_shared<detail::SharedObject>(std::move(*object));
  }

  void map(std::uint64_t bytes) {
    if (::ftruncate(object_->fd(), static_cast<off_t>(bytes)) != 0) {
      throw SystemError(errno, "sizing /dev/shm/" + object_->name());
    }
    object_->map(bytes);
    // Helps where /dev/shm is mounted huge=advise.
    (void)::madvise(object_->data(), bytes, MADV_HUGEPAGE);
  }

  // Chunks are handed out in order to all threads; the first failure stops them.
  void prefault(const Progress& progress) {
    const std::uint64_t total = object_->mapped_bytes();
    const std::uint64_t chunks = (total + kChunk - 1) / kChunk;
    std::atomic<std::uint64_t> next{0};
    std::mutex mutex;  // guards done, failure and the caller's progress function
    std::uint64_t done = 0;
    std::exception_ptr failure;
    const auto work = [&] {
      for (std::uint64_t c = next++; c < chunks; c = next++) {
        const std::uint64_t at = c * kChunk;
        const std::uint64_t bytes = std::min(kChunk, total - at);
        try {
          populate(object_->fd(), object_->data(), at, bytes);
          const std::lock_guard lock(mutex);
          done += bytes;
          if (progress) progress(done, total);
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
          next = chunks;
        }
      }
    };
    std::vector<std::jthread> helpers;
    const std::size_t count = std::min<std::uint64_t>(options_.threads, chunks);
    for (std::size_t i = 1; i < count; ++i) helpers.emplace_back(work);
    work();
    helpers.clear();
    if (failure) std::rethrow_exception(failure);
  }

  struct Extent {
    std::uint64_t offset, bytes;
  };

  HostSlotOptions options_;
  std::shared_ptr<detail::SharedObject> object_;
  std::vector<Extent> slots_;
  bool withdrawn_ = false;
};

}  // namespace

std::unique_ptr<SlotMemory> make_host_slots(const HostSlotOptions& options) {
  return std::make_unique<HostSlots>(options);
}

}  // namespace tenon::ipc
