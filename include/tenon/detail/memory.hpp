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
  /// The GPU (its ordinal here) under which slots are to be opened; 0 for host memory.
  int (*device_for)(const Facts& facts);
  /// Maps the allocation that a slot lies in, read-only where the kind allows. Empty when the
  /// publisher has removed it.
  SlotPointer (*open)(const Facts& facts, const format::Slot& slot, int device);
  /// Copies out of a slot into the engine's own memory of the same kind. Host memory: done on
  /// return; else enqueued on `stream`.
  void (*copy)(CopyBatch& batch, const std::byte* bucket, Stream stream, int device);
  /// A stream for loads that come without one; null for host memory, which needs none.
  Stream (*own_stream)(int device);
  /// Throws when nothing can be loaded in the order of `stream`.
  void (*check_stream)(Stream stream, int device);
};

/// What tenon/cuda.hpp adds for work that ends in stream order, whatever the memory kind.
struct StreamOps {
  /// The ordinal here of a stream's GPU.
  int (*device_of)(Stream stream);
  /// Throws Error(Capturing) when `stream`, of that device, is being captured.
  void (*check_not_capturing)(Stream stream, int device);
  /// Calls function(argument), which must call nothing of CUDA, behind what is enqueued so far.
  void (*after)(Stream stream, int device, void (*function)(void*), void* argument);
  /// The error after which nothing that this process enqueued on that device will run; null while
  /// all is well.
  const char* (*broken)(int device);
};
inline std::atomic<const StreamOps*> stream_ops{nullptr};

[[nodiscard]] inline const StreamOps& require_stream_ops() {
  // acquire here and in ops_for(): pairs with the registration; behind the pointer lies its table.
  const StreamOps* ops = stream_ops.load(std::memory_order_acquire);
  if (ops == nullptr) {
    throw Error(Errc::NoMemoryKind,
                "CUDA streams need <tenon/cuda.hpp> included in one of the program's sources");
  }
  return *ops;
}

[[nodiscard]] inline SlotPointer open_host_slots(const Facts& facts, const format::Slot& slot,
                                                 int) {
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

inline void copy_host(CopyBatch& batch, const std::byte* bucket, Stream, int) {
  for (std::size_t i = 0; i < batch.to.size(); ++i)
    std::memcpy(batch.to[i], bucket + batch.offset[i], batch.bytes[i]);
}

inline constexpr MemoryOps kHostOps{[](const Facts&) { return 0; }, open_host_slots, copy_host,
                                    [](int) { return Stream(nullptr); }, [](Stream, int) {}};

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

  /// A slot as it can be used here.
  struct Mapped {
    SlotPointer memory;  ///< its first byte; empty when the publisher has removed it
    int device = 0;      ///< the ordinal here of the GPU under which all slots are used
  };

  /// Makes a publisher's own slot known.
  void add(const Instance& instance, const format::Slot& slot, const Mapped& own) {
    const std::lock_guard lock(mutex_);
    known_[{instance, slot.allocation}] = {SlotPointer(own.memory, own.memory.get() - slot.offset),
                                           own.device, slot.mapped_bytes};
  }

  Mapped open(const Facts& facts, const format::Slot& slot) {
    const std::lock_guard lock(mutex_);
    Known& known = known_[{facts.instance, slot.allocation}];
    SlotPointer base = known.base.lock();
    if (!base) {
      const int device = device_for(facts);
      base = ops_for(facts.memory).open(facts, slot, device);
      known = {base, device, slot.mapped_bytes};
    }
    const Known found = known;
    forget_unmapped();
    if (!base) return {};
    // Slots never change: a segment that says otherwise took another one's instance id.
    check_field(slot.mapped_bytes == found.mapped_bytes, "slot.mapped_bytes", slot.mapped_bytes,
                "what is mapped of this instance");
    return {{base, base.get() + slot.offset}, found.device};
  }

 private:
  struct Known {
    std::weak_ptr<const std::byte> base;
    int device = 0;
    std::uint64_t mapped_bytes = 0;
  };
  /// One for all slots of an instance, whatever threads attach with another device current.
  [[nodiscard]] int device_for(const Facts& facts) const {
    for (auto it = known_.lower_bound({facts.instance, 0});
         it != known_.end() && it->first.first == facts.instance; ++it)
      if (!it->second.base.expired()) return it->second.device;
    return ops_for(facts.memory).device_for(facts);
  }
  void forget_unmapped() {
    for (auto it = known_.begin(); it != known_.end();) {
      it = it->second.base.expired() ? known_.erase(it) : std::next(it);
    }
  }

  std::mutex mutex_;
  std::map<std::pair<Instance, std::uint32_t>, Known> known_;
};

}  // namespace tenon::detail
