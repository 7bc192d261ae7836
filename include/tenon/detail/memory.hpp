// Slots in the reader's address space, whatever memory they are in.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tenon/detail/segment.hpp>
#include <utility>
#include <vector>

namespace tenon::detail {

/// First byte of a slot or of an allocation, mapped into this process; the last owner unmaps it.
using SlotPointer = std::shared_ptr<const std::byte>;

/// Contiguous copies out of one bucket.
struct CopyBatch {
  std::vector<void*> to;
  std::vector<std::uint64_t> offset;  ///< in the bucket
  std::vector<std::size_t> bytes;     ///< none of them 0
  std::vector<const void*> from;      ///< room for offset + where the bucket is
  bool one_by_one = false;            ///< GPU memory: some go to pageable host memory
};

/// What a memory kind can do for a subscriber.
struct MemoryOps {
  /// Maps the allocation that a slot lies in, read-only where the kind allows. Empty when the
  /// publisher has removed it.
  SlotPointer (*open)(const Facts& facts, const format::Slot& slot);
  /// Copies out of a slot into the engine's own memory of the same kind. Host memory: done on
  /// return; else enqueued on `stream`.
  void (*copy)(CopyBatch& batch, const std::byte* bucket, Stream stream);
  /// A stream for loads that come without one; null for host memory, which needs none.
  Stream (*own_stream)(const Facts& facts);
};

/// What tenon/cuda.hpp adds for work that ends in stream order, whatever the memory kind.
struct StreamOps {
  /// Throws Error(Capturing) when `stream` is being captured.
  void (*check_not_capturing)(Stream stream);
  /// Calls function(argument), which must call nothing of CUDA, behind what is enqueued so far.
  void (*after)(Stream stream, void (*function)(void*), void* argument);
  /// The error after which nothing enqueued by this process will run; null while all is well.
  const char* (*broken)();
};
inline std::atomic<const StreamOps*> stream_ops{nullptr};

[[nodiscard]] inline const StreamOps& require_stream_ops() {
  const StreamOps* ops = stream_ops.load(std::memory_order_acquire);
  if (ops == nullptr) {
    throw Error(Errc::NoMemoryKind,
                "CUDA streams need <tenon/cuda.hpp> included in one of the program's sources");
  }
  return *ops;
}

[[nodiscard]] inline SlotPointer open_host_slots(const Facts& facts, const format::Slot& slot) {
  std::uint8_t instance[16];
  std::memcpy(instance, facts.instance.data(), sizeof(instance));
  auto object = SharedObject::open(slot_object(facts.owner, instance, slot.allocation),
                                   SharedObject::Access::read_only);
  if (!object) return nullptr;
  const struct ::stat st = object->status();
  check_field(S_ISREG(st.st_mode) && st.st_uid == facts.owner, "slot owner", st.st_uid,
              "the publication's owner");
  if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    throw Error(Errc::NotYours, "/dev/shm/" + object->name() + " has mode " +
                                    mode_text(st.st_mode) +
                                    ": others than the publisher can write these slots");
  }
  check_field(st.st_size >= 0 && static_cast<std::uint64_t>(st.st_size) >= slot.mapped_bytes,
              "slot.mapped_bytes", slot.mapped_bytes, "at most the slot object's size");
  object->map(slot.mapped_bytes);
  auto owner = std::make_shared<SharedObject>(std::move(*object));
  const std::byte* first = owner->data();
  return {std::move(owner), first};
}

inline constexpr MemoryOps kHostOps{open_host_slots,
                                    [](CopyBatch& batch, const std::byte* bucket, Stream) {
                                      for (std::size_t i = 0; i < batch.to.size(); ++i)
                                        std::memcpy(batch.to[i], bucket + batch.offset[i],
                                                    batch.bytes[i]);
                                    },
                                    [](const Facts&) { return Stream(nullptr); }};

/// The kinds this program can read. `host` is always there; tenon/cuda.hpp adds `cuda`.
inline std::array<std::atomic<const MemoryOps*>, 3> memory_ops{nullptr, &kHostOps, nullptr};

[[nodiscard]] inline const MemoryOps& ops_for(MemoryKind kind) {
  const MemoryOps* ops = memory_ops[static_cast<std::size_t>(kind)].load(std::memory_order_acquire);
  if (ops == nullptr) {
    throw Error(Errc::NoMemoryKind, std::string("the publication is in ") + name_of(kind) +
                                        " memory, which this program cannot read: include <tenon/" +
                                        name_of(kind) + ".hpp> in one of its sources");
  }
  return *ops;
}

/// Every allocation this process has mapped, by (instance, allocation): slots and subscribers share
/// one mapping, and a subscriber to a publication of its own process gets the publisher's pointer.
/// Never keyed by handle bytes: drivers have been seen to give the same ones to different
/// allocations.
class SlotTable {
 public:
  using Instance = std::array<std::uint8_t, 16>;

  /// Makes a publisher's own slot known.
  void add(const Instance& instance, const format::Slot& slot, const SlotPointer& pointer) {
    const std::lock_guard lock(mutex_);
    known_[{instance, slot.allocation}] = {SlotPointer(pointer, pointer.get() - slot.offset),
                                           slot.mapped_bytes};
  }

  /// First byte of the slot. Empty when the publisher has removed it.
  SlotPointer open(const Facts& facts, const format::Slot& slot) {
    const std::lock_guard lock(mutex_);
    Known& known = known_[{facts.instance, slot.allocation}];
    SlotPointer base = known.base.lock();
    if (!base) {
      base = ops_for(facts.memory).open(facts, slot);
      known = {base, slot.mapped_bytes};
      forget_unmapped();
      if (!base) return nullptr;
    }
    // Slots never change: a segment that says otherwise took another one's instance id.
    check_field(slot.mapped_bytes == known.mapped_bytes, "slot.mapped_bytes", slot.mapped_bytes,
                "what is mapped of this instance");
    return {base, base.get() + slot.offset};
  }

 private:
  struct Known {
    std::weak_ptr<const std::byte> base;
    std::uint64_t mapped_bytes = 0;
  };
  void forget_unmapped() {
    for (auto it = known_.begin(); it != known_.end();) {
      it = it->second.base.expired() ? known_.erase(it) : std::next(it);
    }
  }

  std::mutex mutex_;
  std::map<std::pair<Instance, std::uint32_t>, Known> known_;
};

}  // namespace tenon::detail
