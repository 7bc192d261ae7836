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

namespace tenon::detail {

/// First byte of a slot or of an allocation, mapped into this process; the last owner unmaps it.
using SlotPointer = std::shared_ptr<const std::byte>;

/// What a memory kind can do for a subscriber.
struct MemoryOps {
  /// Maps the allocation that a slot lies in, read-only where the kind allows. Empty when the
  /// publisher has removed it.
  SlotPointer (*open)(const Facts& facts, const format::Slot& slot);
  /// Copies out of a slot into the engine's own memory of the same kind.
  void (*copy)(void* to, const std::byte* from, std::uint64_t bytes);
};

[[nodiscard]] inline SlotPointer open_host_slots(const Facts& facts, const format::Slot& slot) {
  std::uint8_t instance[16];
  std::memcpy(instance, facts.instance.data(), sizeof(instance));
  auto object = SharedObject::open(slot_object(facts.owner, instance, slot.allocation),
                                   SharedObject::Access::read_only);
  if (!object) return nullptr;
  const struct ::stat st = object->status();
  check_field(S_ISREG(st.st_mode) && st.st_uid == facts.owner, "slot owner", st.st_uid,
              "the publication's owner");
  check_field(st.st_size >= 0 && static_cast<std::uint64_t>(st.st_size) >= slot.mapped_bytes,
              "slot.mapped_bytes", slot.mapped_bytes, "at most the slot object's size");
  object->map(slot.mapped_bytes);
  auto owner = std::make_shared<SharedObject>(std::move(*object));
  const std::byte* first = owner->data();
  return {std::move(owner), first};
}

inline constexpr MemoryOps kHostOps{
    open_host_slots,
    [](void* to, const std::byte* from, std::uint64_t bytes) { std::memcpy(to, from, bytes); }};

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
