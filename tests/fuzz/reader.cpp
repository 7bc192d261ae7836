#include "reader.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cli/metadata.hpp>
#include <cstdio>
#include <cstring>
#include <string>
#include <tenon/inspect.hpp>
#include <tenon/subscriber.hpp>

namespace tenon::fuzz {
namespace {

/// Memory for slots: nothing before it and nothing behind it can be touched.
class Arena {
 public:
  explicit Arena(std::size_t bytes) : bytes_(bytes) {
    constexpr std::size_t kGuard = 64 << 10;
    void* all = ::mmap(nullptr, bytes + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(all != MAP_FAILED, "there is memory for slots");
    auto* first = static_cast<std::byte*>(all) + kGuard;
    require(::mprotect(first, bytes, PROT_READ | PROT_WRITE) == 0, "slots can be read");
    first_ = {first, [](const std::byte*) {}};
  }
  [[nodiscard]] const detail::SlotPointer& first() const { return first_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] bool has(const std::byte* at, std::uint64_t bytes) const {
    return at >= first_.get() && at <= first_.get() + bytes_ &&
           bytes <= static_cast<std::uint64_t>(first_.get() + bytes_ - at);
  }

 private:
  std::uint64_t bytes_;
  detail::SlotPointer first_;
};

/// Allocations 0 and 1 are this process's own, as a publisher's are that subscribes to itself; 2
/// and 3 are what a handle of GPU memory opens, which here is host memory.
const Arena& arena(std::size_t allocation) {
  static const Arena all[2] = {Arena(64 << 10), Arena(8 << 10)};
  return all[allocation % 2];
}

// Behind Segment::slot() and the slot table, before the first call of CUDA.
detail::SlotPointer open_device_slot(const detail::Facts& facts, const format::Slot& slot, int) {
  require(facts.memory == MemoryKind::cuda, "the kind of memory is what its slots are opened as");
  require(slot.handle_kind == 2, "only a handle of GPU memory is opened as one");
  if (slot.allocation != 2 && slot.allocation != 3) throw Error(Errc::Cuda, "no such handle");
  detail::check_field(slot.mapped_bytes <= arena(slot.allocation).bytes(), "slot.mapped_bytes",
                      slot.mapped_bytes, "at most the size of what its handle opens");
  return arena(slot.allocation).first();
}

constexpr detail::MemoryOps kDeviceOps{[](const detail::Facts&) { return 0; }, open_device_slot,
                                       detail::copy_host, [](int) { return Stream(nullptr); },
                                       [](Stream, int) {}};
constexpr detail::StreamOps kDeviceStreams{
    [](Stream) { return 0; }, [](Stream, int) {},
    [](Stream, int, void (*function)(void*), void* argument) { function(argument); },
    [](int) -> const char* { return nullptr; }};

void make_memory_known() {
  static const bool once = [] {
    detail::SlotTable::Instance instance;
    instance.fill(kInstance);
    for (std::uint32_t a = 0; a < 2; ++a) {
      format::Slot slot{};
      slot.allocation = a;
      slot.mapped_bytes = arena(a).bytes();
      detail::per_process<detail::SlotTable>().add(instance, slot, {arena(a).first(), 0});
    }
    detail::memory_ops[static_cast<std::size_t>(MemoryKind::cuda)].store(&kDeviceOps);
    detail::stream_ops.store(&kDeviceStreams);
    return true;
  }();
  (void)once;
}

/// Reads bytes that must be there: the ends of a range.
void touch(const void* first, std::uint64_t bytes) {
  if (bytes == 0) return;
  const auto* at = static_cast<const volatile unsigned char*>(first);
  (void)at[0];
  (void)at[bytes - 1];
}

void use(const Layout& layout) {
  touch(layout.metadata().data(), layout.metadata().size());
  if (const auto metadata = cli::metadata_json(layout)) (void)metadata->dump();
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement p = layout[i];
    touch(p.name.data(), p.name.size());
    require(p.shape.rank() <= kMaxRank && byte_size(p.dtype, p.shape) == p.bytes,
            "a parameter has the bytes of its shape");
    require(p.bucket < layout.bucket_count() && p.bytes <= layout.bucket_bytes(p.bucket) &&
                p.offset <= layout.bucket_bytes(p.bucket) - p.bytes,
            "a parameter lies in its bucket");
    require(p.offset % info(p.dtype).bytes == 0, "a parameter is aligned to its elements");
    require(layout.find(p.name) == i, "a parameter is found under its name");
    if (const auto original = layout.tied_to(i)) {
      require(*original < i && layout[*original].offset == p.offset, "tied means the same place");
    }
    if (const auto box = layout.box(i)) {
      for (std::size_t d = 0; d < p.shape.rank(); ++d)
        require(p.shape[d] <= box->global_shape[d] - box->offset[d], "a box is in its tensor");
    }
  }
  require(!layout.find("no such parameter, surely").has_value() || layout.size() > 0, "find()");
}

// As Attachment::open_slots().
std::vector<format::Slot> slots_of(const detail::SegmentBytes& segment, const Layout& layout) {
  const detail::Facts& facts = segment.facts();
  std::uint64_t largest = 0;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b)
    largest = std::max(largest, layout.bucket_bytes(b));
  std::vector<format::Slot> slots;
  for (std::uint64_t i = 0; i < facts.slots; ++i) {
    const bool streaming = facts.mode == Mode::streaming;
    slots.push_back(segment.slot(i, streaming ? largest : layout.bucket_bytes(i % facts.buckets)));
    const format::Slot& s = slots.back();
    require(s.offset <= s.mapped_bytes && s.bytes <= s.mapped_bytes - s.offset,
            "a slot lies in what its handle opens");
    const detail::SlotPointer first =
        detail::per_process<detail::SlotTable>().open(facts, s).memory;
    if (!first) throw Error(Errc::PublisherGone, "no such allocation");
    require(arena(s.allocation).has(first.get(), s.bytes), "a slot lies in mapped memory");
  }
  return slots;
}

// Every parameter of the current version lies in the slot that the log has its bucket in.
void check_version(const detail::SegmentBytes& segment, const Layout& layout,
                   const std::vector<format::Slot>& slots) {
  const detail::Facts& facts = segment.facts();
  const std::uint64_t current = segment.current();
  if (current == 0) return;
  std::vector<detail::Record> records;
  for (std::uint64_t b = 0; b < facts.buckets; ++b) records.push_back(segment.record(current + b));
  for (std::size_t i = 0; i < layout.size(); ++i) {
    const Placement p = layout[i];
    const detail::Record& r = records[p.bucket];
    require(r.slot < slots.size(), "a record names a slot");
    require(p.bytes <= slots[r.slot].bytes && p.offset <= slots[r.slot].bytes - p.bytes,
            "a parameter lies in the slot its record names");
    if (facts.checksum_bytes == 0) continue;
    touch(&segment.checksum(format::checksum_index(r.slot, facts.buckets, layout.size(), i)), 8);
  }
}

void check_view(const View& view, MemoryKind) {
  require(arena(0).has(view.data(), view.bytes()) || arena(1).has(view.data(), view.bytes()),
          "a view lies in mapped memory");
  touch(view.data(), view.bytes());
}

void use(const Lease& lease, MemoryKind memory) {
  for (const View& view : lease) {
    check_view(view, memory);
    check_view(lease[view.name()], memory);
  }
  (void)lease.version();
  (void)lease.wanted();
  (void)lease.publisher();
  if (memory == MemoryKind::host) (void)lease.verify();
}

void load(Subscriber& subscriber) {
  const Layout& layout = subscriber.layout();
  std::vector<std::vector<std::byte>> room(layout.size());
  LoadPlan plan(layout);
  for (std::size_t i = 0; i < layout.size(); ++i) {
    room[i].resize(layout[i].bytes + 1);
    plan.into(layout[i].name, room[i].data());
  }
  const std::uint64_t version = subscriber.load(plan, Duration::zero(), AfterLoad::leave);
  for (std::size_t i = 0; i < layout.size(); ++i)
    require(version != 0 && plan.arrived(layout[i].name) == version, "what was loaded arrived");
}

/// Refusing is right, in words; anything else that is thrown ends the process.
template <class Step>
void attempt(Step step) {
  between_steps();
  try {
    step();
  } catch (const Error& error) {
    require(error.what()[0] != '\0', "an error says why");
  }
}

std::string name() { return "fuzz-" + std::to_string(::getpid()); }

}  // namespace

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "this does not hold: %s\n", what);
  std::abort();
}

void read_bytes(const Image& image) {
  make_memory_known();
  attempt([&] {
    const auto verdict = detail::judge_header(image.header());
    if (verdict != detail::Verdict::ready && verdict != detail::Verdict::closed) return;
    between_steps();
    const detail::SegmentBytes segment(image.bytes.get(),
                                       detail::read_facts(image.header(), image.size, 0));
    require(segment.facts().sections.end <= image.size, "sections lie in the object");
    between_steps();
    const Layout layout = segment.parse_layout();
    use(layout);
    between_steps();
    const std::vector<format::Slot> slots = slots_of(segment, layout);
    between_steps();
    check_version(segment, layout, slots);
  });
}

Published::Published()
    : object_([] {
        const std::string object = detail::publication_object(::geteuid(), name());
        detail::SharedObject::unlink(object);
        auto created = detail::SharedObject::create(object, 0600);
        require(created.has_value(), "the publication can be created");
        return std::move(*created);
      }()) {
  constexpr std::size_t kMax = kMaxInput + kLeftOut;
  require(::ftruncate(object_.fd(), kMax) == 0, "there is shared memory");
  object_.map(kMax);
  // Whoever looks finds the publisher alive.
  require(detail::try_lock_byte(object_.fd(), format::kPublisherByte), "the lock is free");
}

Published::~Published() { detail::SharedObject::unlink(object_.name()); }

void Published::put(const Image& image) {
  make_memory_known();
  require(::ftruncate(object_.fd(), static_cast<off_t>(image.size)) == 0, "it can be shortened");
  std::memcpy(object_.data(), image.bytes.get(), image.size);
  auto& cache = detail::per_process<detail::LayoutCache>();  // or few layouts would be read at all
  const std::lock_guard lock(cache.mutex);
  cache.recent.clear();
}

void Published::read() const {
  attempt([] {
    const PublicationInfo info = inspect(name());
    if (info.layout) use(*info.layout);
  });
  attempt([] {
    auto subscriber = Subscriber::attach(name(), {Duration::zero(), "fuzz", Duration::zero(), {}});
    (void)subscriber.current_version();
    attempt([&] {
      if (const auto lease = subscriber.try_acquire()) {
        between_steps();
        use(*lease, subscriber.memory());
      }
    });
    attempt([&] { load(subscriber); });
    attempt([&] { (void)subscriber.join(); });
    attempt([&] { subscriber.pause(); });
  });
}

}  // namespace tenon::fuzz
