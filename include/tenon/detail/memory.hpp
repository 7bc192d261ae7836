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

/// First byte of a slot, mapped into this process; the last owner unmaps it.
using SlotPointer = std::shared_ptr<const std::byte>;

/// What a memory kind can do for a subscriber.
struct MemoryOps {
  /// Maps slot `index`, read-only where the kind allows. Empty when the publisher has removed it.
  SlotPointer (*open)(const Facts& facts, std::uint64_t index, const format::Slot& slot);
  /// Copies out of a slot into the engine's own memory of the same kind.
  void (*copy)(void* to, const std::byte* from, std::uint64_t bytes);
};

[[nodiscard]] inline SlotPointer open_host_slot(const Facts& facts, std::uint64_t index,
                                                const format::Slot& slot) {
  std::uint8_t instance[16];
  std::memcpy(instance, facts.instance.data(), sizeof(instance));
  auto object = SharedObject::open(slot_object(facts.owner, instance, index),
                                   SharedObject::Access::read_only);
  if (!object) return nullptr;
  const struct ::stat st = object->status();
  check_field(S_ISREG(st.st_mode) && st.st_uid == facts.owner, "slot owner", st.st_uid,
              "the publication's owner");
  check_field(st.st_size >= 0 && static_cast<std::uint64_t>(st.st_size) >= slot.mapped_bytes,
              "slot.mapped_bytes", slot.mapped_bytes, "at most the slot object's size");
  object->map(slot.mapped_bytes);
  auto owner = std::make_shared<SharedObject>(std::move(*object));
  const std::byte* first = owner->data() + slot.offset;
  return {std::move(owner), first};
}

inline constexpr MemoryOps kHostOps{
    open_host_slot,
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

/// Every slot this process has mapped, by (instance, slot): two subscribers share one mapping, and
/// a subscriber to a publication of its own process gets the publisher's pointer. Never keyed by
/// handle bytes: drivers have been seen to give the same ones to different allocations.
class SlotTable {
 public:
  using Instance = std::array<std::uint8_t, 16>;

  void add(const Instance& instance, std::uint64_t index, const SlotPointer& pointer,
           const format::Slot& slot) {
    const std::lock_guard lock(mutex_);
    slots_[{instance, index}] = {pointer, slot.offset, slot.mapped_bytes};
  }

  SlotPointer open(const Facts& facts, std::uint64_t index, const format::Slot& slot) {
    const std::lock_guard lock(mutex_);
    for (auto it = slots_.begin(); it != slots_.end();) {
      it = it->second.pointer.expired() ? slots_.erase(it) : std::next(it);
    }
    Known& known = slots_[{facts.instance, index}];
    if (SlotPointer pointer = known.pointer.lock()) {
      // Slots never change: a segment that says otherwise took another one's instance id.
      check_field(slot.offset == known.offset && slot.mapped_bytes == known.mapped_bytes,
                  "slot.mapped_bytes", slot.mapped_bytes, "what is mapped of this instance");
      return pointer;
    }
    SlotPointer pointer = ops_for(facts.memory).open(facts, index, slot);
    known = {pointer, slot.offset, slot.mapped_bytes};
    return pointer;
  }

 private:
  struct Known {
    std::weak_ptr<const std::byte> pointer;
    std::uint64_t offset = 0;
    std::uint64_t mapped_bytes = 0;
  };
  std::mutex mutex_;
  std::map<std::pair<Instance, std::uint64_t>, Known> slots_;
};

}  // namespace tenon::detail
