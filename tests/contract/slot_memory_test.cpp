// What every memory kind promises: slots that another process can map, read and watch, but not
// write; that can be withdrawn without pulling the ground from under those who have them; and of
// which nothing is left when they could not be had.
//
// A new kind is one more line in kKinds.
#include <gtest/gtest.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <optional>
#include <ostream>
#include <slot_memory.hpp>
#include <string>
#include <support/support.hpp>
#include <unit/scratch.hpp>
#include <utility>
#include <vector>

namespace tenon {
namespace {

using detail::SlotPointer;
using test::Child;
using test::Pipe;

constexpr std::uint64_t kMiB = 1U << 20U;
constexpr std::uint64_t kSlot = format::kSlotGranularity;

struct Kind {
  const char* name;
  MemoryKind memory;
  std::unique_ptr<ipc::SlotMemory> (*make)(unsigned threads);
};
std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

const Kind kKinds[] = {
    {"host", MemoryKind::host, [](unsigned threads) { return ipc::make_host_slots({threads}); }},
#if TENON_TEST_CUDA
    {"cuda", MemoryKind::cuda, [](unsigned) { return ipc::make_cuda_slots(0); }},
#endif
};

// An instance that exists as far as cleaners are concerned: a locked header that names it. Without
// it a `gc` beside this test would take its slots for leftovers.
class Instance {
 public:
  explicit Instance(MemoryKind kind) {
    object_.map(sizeof(format::Header));
    auto& header = *reinterpret_cast<format::Header*>(object_.data());
    if (::getrandom(header.instance, sizeof(header.instance), 0) < 0)
      throw SystemError(errno, "drawing an instance id");
    header.major = format::kMajor;
    header.struct_hash = format::struct_hash();
    header.publisher = detail::this_process();
    header.magic = format::kMagic;
    EXPECT_TRUE(detail::try_lock_byte(object_.fd(), format::kPublisherByte));
    std::copy(std::begin(header.instance), std::end(header.instance), facts.instance.begin());
    facts.memory = kind;
    facts.publisher = header.publisher;
    facts.owner = ::geteuid();
  }
  [[nodiscard]] std::string slot_name(std::uint64_t slot) const {
    const auto& header = *reinterpret_cast<const format::Header*>(object_.data());
    return detail::slot_object(facts.owner, header.instance, slot);
  }
  /// How many objects of this instance are in /dev/shm.
  [[nodiscard]] std::size_t objects() const {
    const std::string name = slot_name(0);
    return test::shm_objects(name.substr(0, name.size() - 1)).size();
  }

  detail::Facts facts;

 private:
  test::ScratchObject scratch_{sizeof(format::Header),
                               detail::publication_object(::geteuid(), test::unique_name("slots"))};
  detail::SharedObject object_ = scratch_.open();
};

class SlotMemory : public ::testing::TestWithParam<Kind> {
 protected:
  void TearDown() override {
    memory_.reset();
    EXPECT_EQ(instance_.objects(), 0u) << "something is left in /dev/shm";
  }
  void allocate(const std::vector<std::uint64_t>& sizes, const ipc::Progress& progress = {}) {
    memory().allocate(instance_.facts, sizes, progress);
  }
  /// As a subscriber does it.
  [[nodiscard]] SlotPointer open(const format::Slot& slot) const {
    detail::Facts facts = instance_.facts;
#if TENON_TEST_CUDA
    if (facts.memory == MemoryKind::cuda) facts.device_uuid = detail::cuda::uuid_of(0);
#endif
    return detail::per_process<detail::SlotTable>().open(facts, slot).memory;
  }
  /// How many of the bytes at the ends of every 4 KiB are not `value`.
  [[nodiscard]] std::uint64_t wrong(const std::byte* slot, int value, std::uint64_t bytes) const {
    const auto expected = static_cast<std::byte>(value);
    const auto all = test::Bytes::get(GetParam().memory, slot, bytes);
    std::uint64_t count = 0;
    for (std::uint64_t page = 0; page < bytes; page += 4096) {
      count += all[page] != expected ? 1U : 0U;
      count += all[page + 4095] != expected ? 1U : 0U;
    }
    return count;
  }
  void fill(std::size_t slot, int value, std::uint64_t bytes) {
    test::Bytes::put(GetParam().memory, memory_->data(slot),
                     std::vector<std::byte>(bytes, static_cast<std::byte>(value)));
  }

  /// Made at first use: a process that has used a GPU must not fork.
  ipc::SlotMemory& memory() {
    if (!memory_) memory_ = GetParam().make(2);
    return *memory_;
  }

  test::Node node_;
  Instance instance_{GetParam().memory};
  std::unique_ptr<ipc::SlotMemory> memory_;
};

TEST_P(SlotMemory, SlotsHaveTheSizesAskedForAndAreZeroed) {
  const std::vector<std::uint64_t> sizes = {kSlot, 3 * kSlot, kSlot};
  allocate(sizes);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const format::Slot slot = memory_->describe(i);
    EXPECT_EQ(slot.bytes, sizes[i]);
    EXPECT_GE(slot.mapped_bytes, slot.offset + slot.bytes);
    EXPECT_EQ(slot.offset % format::kAlignment, 0u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory_->data(i)) % format::kAlignment, 0u);
    EXPECT_EQ(wrong(memory_->data(i), 0, sizes[i]), 0u);
  }
}

TEST_P(SlotMemory, SlotsAreWritableAndApart) {
  allocate({kSlot, kSlot, 2 * kSlot});
  for (std::size_t i = 0; i < 3; ++i) fill(i, static_cast<int>(i) + 1, memory_->describe(i).bytes);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(wrong(memory_->data(i), static_cast<int>(i) + 1, memory_->describe(i).bytes), 0u);
  }
}

TEST_P(SlotMemory, APointerKeepsItsSlotAlive) {
  allocate({kSlot, kSlot});
  fill(1, 7, kSlot);
  SlotPointer kept = memory_->pointer(1);
  EXPECT_EQ(kept.get(), memory_->data(1));
  memory_.reset();
  EXPECT_EQ(instance_.objects(), 0u);
  EXPECT_EQ(wrong(kept.get(), 7, kSlot), 0u);
}

TEST_P(SlotMemory, ASubscriberOfTheSameProcessGetsThePublishersPointer) {
  allocate({kSlot, kSlot});
  for (std::size_t i = 0; i < 2; ++i)
    detail::per_process<detail::SlotTable>().add(instance_.facts.instance, memory_->describe(i),
                                                 {memory_->pointer(i), memory_->device()});
  EXPECT_EQ(open(memory_->describe(1)).get(), memory_->data(1));
}

TEST_P(SlotMemory, AnotherProcessSeesWhatWasWrittenAndWhatIsWrittenLater) {
  const Pipe slots, orders, answers;
  Child reader([&] {  // forked first: a process that has used a GPU must not be
    const auto slot = slots.take<format::Slot>();
    const SlotPointer mapped = open(slot);
    if (!mapped) return 1;
    for (int value = orders.take<int>(); value >= 0; value = orders.take<int>())
      answers.put(wrong(mapped.get(), value, slot.bytes));
    return 0;
  });
  allocate({kSlot, 2 * kSlot});
  fill(1, 5, 2 * kSlot);
  slots.put(memory_->describe(1));
  orders.put(5);
  EXPECT_EQ(answers.take<std::uint64_t>(), 0u);
  fill(1, 6, 2 * kSlot);
  orders.put(6);
  EXPECT_EQ(answers.take<std::uint64_t>(), 0u);
  orders.put(-1);
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(SlotMemory, TwoSubscribersOfAProcessShareOneMapping) {
  const Pipe slots;
  Child reader([&] {
    const auto slot = slots.take<format::Slot>();
    const SlotPointer one = open(slot);
    const SlotPointer two = open(slot);
    return one && one == two && one.use_count() == 2 ? 0 : 1;
  });
  allocate({kSlot});
  slots.put(memory_->describe(0));
  EXPECT_EQ(reader.wait(), 0);
}

// Slots never change within an instance: a segment that describes a mapped one otherwise has taken
// another one's instance id.
TEST_P(SlotMemory, AMappedSlotThatIsDescribedOtherwiseIsRefused) {
  const Pipe slots;
  Child reader([&] {
    auto slot = slots.take<format::Slot>();
    const SlotPointer mapped = open(slot);
    slot.mapped_bytes -= format::kAlignment;
    EXPECT_THROWS(BadFormat, "slot.mapped_bytes", (void)open(slot));
    return mapped ? 0 : 1;
  });
  allocate({kSlot});
  slots.put(memory_->describe(0));
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(SlotMemory, AnotherProcessCannotWrite) {
  if (GetParam().memory != MemoryKind::host) GTEST_SKIP() << "this kind maps for writing too";
  const Pipe slots;
  Child writer([&] {
    const SlotPointer mapped = open(slots.take<format::Slot>());
    if (!mapped) return 1;
    (void)std::signal(SIGSEGV, SIG_DFL);  // not a sanitizer's report: the signal
    *const_cast<std::byte*>(mapped.get()) = std::byte{1};
    return 2;
  });
  allocate({kSlot});
  slots.put(memory_->describe(0));
  EXPECT_EQ(writer.wait(), 1000 + SIGSEGV);
  EXPECT_EQ(wrong(memory_->data(0), 0, kSlot), 0u);
}

TEST_P(SlotMemory, WithdrawnSlotsOpenAsNothingAndStayMappedWhereTheyAre) {
  if (GetParam().memory != MemoryKind::host) GTEST_SKIP() << "device memory has no names to remove";
  const Pipe to_reader, to_latecomer, values, answers;
  Child reader([&] {
    const auto slot = to_reader.take<format::Slot>();
    const SlotPointer mapped = open(slot);
    if (!mapped) return 1;
    answers.put(true);
    return wrong(mapped.get(), values.take<int>(), slot.bytes) == 0 ? 0 : 2;
  });
  Child latecomer([&] { return open(to_latecomer.take<format::Slot>()) ? 1 : 0; });
  allocate({kSlot});
  to_reader.put(memory_->describe(0));
  ASSERT_TRUE(answers.take<bool>());
  memory_->withdraw();
  memory_->withdraw();  // again: nothing
  EXPECT_EQ(instance_.objects(), 0u);
  fill(0, 9, kSlot);
  values.put(9);
  EXPECT_EQ(reader.wait(), 0);
  to_latecomer.put(memory_->describe(0));
  EXPECT_EQ(latecomer.wait(), 0);
}

TEST_P(SlotMemory, ProgressGrowsToTheWhole) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> calls;
  allocate({kSlot, 140 * kMiB, kSlot}, [&](std::uint64_t done, std::uint64_t total) {
    calls.emplace_back(done, total);  // one call at a time, whatever the number of threads
  });
  ASSERT_GE(calls.size(), 3u);
  std::uint64_t before = 0;
  for (const auto& [done, total] : calls) {
    EXPECT_GT(done, before);
    EXPECT_EQ(total, 144 * kMiB);
    before = done;
  }
  EXPECT_EQ(before, 144 * kMiB);
}

TEST_P(SlotMemory, AnyNumberOfThreadsAllocates) {
  for (const unsigned threads : {0U, 1U, 3U, 16U}) {
    const Instance instance(GetParam().memory);
    const auto memory = GetParam().make(threads);
    memory->allocate(instance.facts, std::vector<std::uint64_t>(5, kSlot), {});
    EXPECT_EQ(wrong(memory->data(4), 0, kSlot), 0u);
  }
}

TEST_P(SlotMemory, AProgressFunctionThatThrowsEndsTheAllocation) {
  const auto give_up = [](std::uint64_t, std::uint64_t) { throw Error(Errc::Closed, "enough"); };
  EXPECT_THROWS(Closed, "enough", allocate({kSlot, kSlot, kSlot}, give_up));
  EXPECT_EQ(instance_.objects(), 0u);
}

TEST_P(SlotMemory, MoreThanThereIsSaysHowMuchIsNeededAndLeavesNothing) {
  if (GetParam().memory != MemoryKind::host) GTEST_SKIP() << "/dev/shm is where host slots are";
  struct ::statvfs fs {};
  ASSERT_EQ(::statvfs("/dev/shm", &fs), 0);
  // Than there could be: what is free now may be more when it is asked for.
  const std::uint64_t all = fs.f_blocks * fs.f_frsize;
  const std::uint64_t more = format::round_up(all + (64U << 20U), kSlot);
  EXPECT_THROWS(OutOfSpace, "allocating slots: " + std::to_string((more + kSlot) >> 20U) + " MiB",
                allocate({kSlot, more}));
  EXPECT_EQ(instance_.objects(), 0u);
  memory_ = GetParam().make(1);
  EXPECT_THROWS(OutOfSpace, "and /dev/shm has ", allocate({more}));
}

TEST_P(SlotMemory, SizesThatAddUpToMoreThanSixtyFourBitsAreTooMuch) {
  const std::uint64_t half = 1ULL << 63U;
  EXPECT_THROWS(OutOfSpace, "allocating slots", allocate({half, half, kSlot}));
  EXPECT_EQ(instance_.objects(), 0u);
}

// Host memory is limited by the address space, so that mapping fails after the object was made.
TEST_P(SlotMemory, ASlotThatCannotBeMappedLeavesNothing) {
  if (GetParam().memory != MemoryKind::host) GTEST_SKIP() << "needs a kind that maps files";
  Child limited([&] {
    std::uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const std::uint64_t used = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const struct ::rlimit limit { used + 8 * kMiB, used + 8 * kMiB };
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    EXPECT_THROWS(System, "mapping 18874368 bytes", allocate({kSlot, 16 * kMiB}));
    return 0;
  });
  EXPECT_EQ(limited.wait(), 0);
  EXPECT_EQ(instance_.objects(), 0u);
  for (std::uint64_t s = 0; s < 2; ++s) detail::SharedObject::unlink(instance_.slot_name(s));
}

TEST_P(SlotMemory, ANameThatIsTakenIsNotTouched) {
  if (GetParam().memory != MemoryKind::host) GTEST_SKIP() << "only host slots have names";
  const test::ScratchObject taken(1, instance_.slot_name(0));
  EXPECT_THROWS(NameInUse, taken.name() + " exists", allocate({kSlot, kSlot, kSlot}));
  EXPECT_EQ(instance_.objects(), 1u);
  EXPECT_EQ(taken.open().status().st_size, 1);
}

TEST_P(SlotMemory, ASlotDescribedLargerThanItsObjectIsRefused) {
  const Pipe slots;
  Child reader([&] {
    auto slot = slots.take<format::Slot>();
    slot.mapped_bytes += kSlot;
    EXPECT_THROWS(BadFormat, "slot.mapped_bytes is 4194304", (void)open(slot));
    slot.mapped_bytes = ~std::uint64_t{0};
    EXPECT_THROWS(BadFormat, "slot.mapped_bytes", (void)open(slot));
    return 0;
  });
  allocate({kSlot});
  slots.put(memory_->describe(0));
  EXPECT_EQ(reader.wait(), 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SlotMemory, ::testing::ValuesIn(kKinds),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(MemoryKinds, HostMemoryIsCopiedAsItIs) {
  const std::vector<std::byte> from(1000, std::byte{3});
  std::vector<std::byte> to(1000);
  detail::CopyBatch batch{{to.data(), to.data() + 500}, {0, 500}, {500, 500}, {}};
  detail::ops_for(MemoryKind::host).copy(batch, from.data(), nullptr, 0);
  EXPECT_EQ(to, from);
}

}  // namespace
}  // namespace tenon
