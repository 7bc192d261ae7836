// A segment from outside: the header, the slots and the log are judged before they are used.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ostream>
#include <string>
#include <support/support.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "layout_block.hpp"
#include "scratch.hpp"

namespace tenon {
namespace {

using detail::Found;
using detail::judge;
using detail::Segment;
using detail::SharedObject;
using format::Header;

struct Counts {
  Mode mode = Mode::double_buffered;
  std::uint64_t slots = 6;
  std::uint64_t log_entries = 6;
  std::uint64_t buckets = 3;
};

// A ready segment of the sample layout (three buckets), in an object of its own, to be damaged.
class Image {
 public:
  explicit Image(const Counts& shape = {})
      : layout_(test::sample_layout()),
        at_(shape.slots, shape.log_entries, layout_.bytes().second),
        scratch_(at_.end),
        object_(scratch_.open()) {
    if (::posix_fallocate(object_.fd(), 0, static_cast<off_t>(at_.end)) != 0) std::abort();
    object_.map(at_.end);
    Header& h = header();
    h.major = format::kMajor;
    h.struct_hash = format::struct_hash();
    h.total_bytes = at_.end;
    h.memory_kind = 1;
    h.mode = static_cast<std::uint32_t>(shape.mode);
    h.bucket_count = shape.buckets;
    h.slot_count = shape.slots;
    h.log_entries = shape.log_entries;
    h.layout_bytes = layout_.bytes().second;
    h.layout_hash = layout_.hash();
    for (std::uint64_t s = 0; s < shape.slots; ++s) {
      slot(s).handle_kind = 1;
      slot(s).bytes = slot(s).mapped_bytes = format::kSlotGranularity;
    }
    std::memcpy(object_.data() + at_.layout, layout_.bytes().first, layout_.bytes().second);
    h.state = 1;
    h.magic = format::kMagic;
  }

  [[nodiscard]] int fd() const { return object_.fd(); }
  [[nodiscard]] Header& header() const { return *reinterpret_cast<Header*>(object_.data()); }
  [[nodiscard]] format::Slot& slot(std::uint64_t i) const {
    return reinterpret_cast<format::Slot*>(object_.data() + at_.slots)[i];
  }
  [[nodiscard]] format::Entry& entry(std::uint64_t i) const {
    return reinterpret_cast<format::Entry*>(object_.data() + at_.log)[i];
  }
  void write_record(std::uint64_t n, std::uint32_t bucket, std::uint32_t slot) const {
    format::Entry& e = entry(n % header().log_entries);
    e.number = n;
    e.version = format::version_of(n, 3);
    e.bucket = bucket;
    e.slot = slot;
    e.written_in = 1;
  }
  [[nodiscard]] const SharedObject& object() const { return object_; }
  [[nodiscard]] detail::Facts facts() const {
    return detail::read_facts(header(), at_.end, ::geteuid());
  }
  [[nodiscard]] Segment segment() const {
    SharedObject object = scratch_.open();
    object.map(at_.end);
    return {std::move(object), facts()};
  }
  [[nodiscard]] Found found() const { return judge(scratch_.open(), ::geteuid()); }

 private:
  Layout layout_;
  format::Sections at_;
  test::ScratchObject scratch_;
  SharedObject object_;
};

constexpr std::uint64_t kHuge = ~std::uint64_t{0};

TEST(ReadFacts, TakesEveryMode) {
  EXPECT_EQ(Image({Mode::in_place, 3, 6}).facts().mode, Mode::in_place);
  EXPECT_EQ(Image({Mode::double_buffered, 6, 6}).facts().slots, 6u);
  EXPECT_EQ(Image({Mode::streaming, 2, 2}).facts().log_entries, 2u);
}

TEST(ReadFacts, AnswersWithTheNumberOfSlotsOfTheMode) {
  const auto refuses = [](const std::string& why, const Counts& shape) {
    const Image image(shape);
    EXPECT_THROWS(BadFormat, why, (void)image.facts());
  };
  refuses("slot_count is 6", {Mode::in_place, 6, 6});
  refuses("slot_count is 3", {Mode::double_buffered, 3, 6});
  refuses("slot_count is 1", {Mode::streaming, 1, 1});
  refuses("slot_count is 3", {Mode::streaming, 3, 3});
  refuses("log_entries is 3", {Mode::in_place, 3, 3});
  refuses("log_entries is 6", {Mode::streaming, 2, 6});
}

struct Damage {
  const char* what;
  const char* field;  ///< as the message names it
  std::function<void(Header&)> inflict;
};
std::ostream& operator<<(std::ostream& out, const Damage& d) { return out << d.what; }

class DamagedHeader : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedHeader, IsRefusedByTheNameOfTheField) {
  const Image image;
  GetParam().inflict(image.header());
  EXPECT_THROWS(BadFormat, std::string("publication's ") + GetParam().field, (void)image.found());
}

const Damage kDamage[] = {
    {"MagicOther", "magic is", [](Header& h) { h.magic = format::kMagic + 1; }},
    {"MagicHuge", "magic is", [](Header& h) { h.magic = kHuge; }},
    {"StateUnknown", "state is 3", [](Header& h) { h.state = 3; }},
    {"StateHuge", "state is", [](Header& h) { h.state = ~0U; }},
    {"MemoryKindZero", "memory_kind is 0", [](Header& h) { h.memory_kind = 0; }},
    {"MemoryKindUnknown", "memory_kind is 3", [](Header& h) { h.memory_kind = 3; }},
    {"ModeZero", "mode is 0", [](Header& h) { h.mode = 0; }},
    {"ModeUnknown", "mode is 4", [](Header& h) { h.mode = 4; }},
    {"ModeInPlace", "slot_count is 6", [](Header& h) { h.mode = 1; }},
    {"ModeStreaming", "slot_count is 6", [](Header& h) { h.mode = 3; }},
    {"NoBuckets", "bucket_count is 0", [](Header& h) { h.bucket_count = 0; }},
    {"OneBucketMore", "slot_count is 6", [](Header& h) { h.bucket_count = 4; }},
    {"TooManyBuckets", "bucket_count", [](Header& h) { h.bucket_count = (1U << 20U) + 1; }},
    {"BucketsThatWrap", "bucket_count", [](Header& h) { h.bucket_count = (1ULL << 63U) + 3; }},
    {"OneSlotLess", "slot_count is 5", [](Header& h) { h.slot_count = 5; }},
    {"SlotsHuge", "slot_count", [](Header& h) { h.slot_count = kHuge; }},
    {"OneEntryMore", "log_entries is 7", [](Header& h) { h.log_entries = 7; }},
    {"NoEntries", "log_entries is 0", [](Header& h) { h.log_entries = 0; }},
    {"EntriesHuge", "log_entries", [](Header& h) { h.log_entries = kHuge; }},
    {"LayoutTooShort", "layout_bytes is 127", [](Header& h) { h.layout_bytes = 127; }},
    {"LayoutBeyondTheObject", "layout_bytes",
     [](Header& h) { h.layout_bytes = h.total_bytes + 1; }},
    {"LayoutHuge", "layout_bytes", [](Header& h) { h.layout_bytes = kHuge - 7; }},
    {"LayoutLonger", "total_bytes", [](Header& h) { h.layout_bytes += 8; }},
    {"TotalShort", "total_bytes", [](Header& h) { h.total_bytes -= 1; }},
    {"TotalLong", "total_bytes", [](Header& h) { h.total_bytes += 1; }},
    {"TotalBeyondTheObject", "total_bytes",
     [](Header& h) {
       h.layout_bytes += 8;
       h.total_bytes += 8;
     }},
    {"TotalHuge", "total_bytes", [](Header& h) { h.total_bytes = kHuge; }},
};
INSTANTIATE_TEST_SUITE_P(Fields, DamagedHeader, ::testing::ValuesIn(kDamage),
                         [](const auto& test) { return std::string(test.param.what); });

TEST(ReadFacts, ShowsLabelsAsPlainText) {
  const Image image;
  std::memcpy(image.header().label, "a\n\x1b[1m\xC3\xA9", 9);
  EXPECT_EQ(image.facts().label, "a??[1m??");
  std::memset(image.header().label, 'x', format::kLabelBytes);  // no NUL
  EXPECT_EQ(image.facts().label, std::string(64, 'x'));
}

// Behind the last number came record 0, of another bucket: a view could leave its slot.
TEST(Current, IsTheStartOfAVersionWhoseRecordsAreAllNumbers) {
  const Image image;  // three buckets
  const Segment segment = image.segment();
  for (const std::uint64_t good : {0ULL, 1ULL, 4ULL, 3ULL << 40U | 1U}) {
    image.header().current = good;
    EXPECT_EQ(segment.current(), good);
  }
  for (const std::uint64_t bad : {2ULL, 3ULL, (1ULL << 62U) + 3, ~0ULL - 2, ~0ULL}) {
    image.header().current = bad;
    EXPECT_THROWS(BadFormat, "publication's current is", (void)segment.current());
  }
}

TEST(Judge, FindsAPublicationReadyWhileItsPublisherHoldsTheLock) {
  const Image image;
  ASSERT_TRUE(detail::try_lock_byte(image.object().fd(), format::kPublisherByte));
  EXPECT_EQ(image.found().state, Attach::ready);
  detail::unlock_byte(image.object().fd(), format::kPublisherByte);
  EXPECT_EQ(image.found().state, Attach::stale);  // the recorded publisher is process 0
}

TEST(Judge, FindsAPublicationReadyWhileItsPublisherRunsWithoutTheLock) {
  const Image image;
  image.header().publisher = detail::this_process();
  {
    const detail::Owned owned(image.fd(), format::kPublisherByte);
    EXPECT_EQ(image.found().state, Attach::ready);
  }
  EXPECT_EQ(image.found().state, Attach::stale) << "whoever wrote that was here before an exec";
}

TEST(Judge, RefusesOtherMajorVersionsAndStructsButNotMinorOnes) {
  const Image image;
  image.header().major = 2;
  EXPECT_EQ(image.found().state, Attach::wrong_version);
  EXPECT_NE(image.found().why.find("has format 2.0"), std::string::npos) << image.found().why;
  image.header().major = 1;
  image.header().struct_hash ^= 1U;
  EXPECT_EQ(image.found().state, Attach::wrong_version);
  image.header().struct_hash ^= 1U;
  image.header().minor = 99;
  EXPECT_EQ(image.found().state, Attach::stale);
  EXPECT_TRUE(image.found().segment);
}

TEST(Judge, HalfCreatedIsStartingOnlyWhileSomebodyHoldsTheLock) {
  for (const bool without_magic : {true, false}) {
    const Image image;
    (without_magic ? image.header().magic.store(0) : image.header().state.store(0));
    EXPECT_EQ(image.found().state, Attach::stale);
    EXPECT_NE(image.found().why.find("half created"), std::string::npos) << image.found().why;
    ASSERT_TRUE(detail::try_lock_byte(image.object().fd(), format::kPublisherByte));
    EXPECT_EQ(image.found().state, Attach::starting);
    EXPECT_FALSE(image.found().segment);
  }
}

TEST(Judge, AShortObjectIsStartingOnlyWhileSomebodyHoldsTheLock) {
  for (const std::uint64_t bytes : {0U, 1U, 1023U}) {
    const test::ScratchObject scratch(bytes);
    const Found found = judge(scratch.open(), ::geteuid());
    EXPECT_EQ(found.state, Attach::stale);
    EXPECT_NE(found.why.find("shorter than a header"), std::string::npos) << found.why;
    const SharedObject creator = scratch.open();
    ASSERT_TRUE(detail::try_lock_byte(creator.fd(), format::kPublisherByte));
    EXPECT_EQ(judge(scratch.open(), ::geteuid()).state, Attach::starting);
  }
}

TEST(Judge, AClosedPublicationIsStaleThoughItsPublisherLives) {
  const Image image;
  ASSERT_TRUE(detail::try_lock_byte(image.object().fd(), format::kPublisherByte));
  image.header().state = 2;
  EXPECT_EQ(image.found().state, Attach::stale);
  EXPECT_NE(image.found().why.find("was closed by its publisher"), std::string::npos);
}

TEST(Judge, AnObjectCutShortIsRefused) {
  const Image image;
  const std::uint64_t whole = image.header().total_bytes;
  for (const std::uint64_t bytes : {std::uint64_t{1024}, whole / 2, whole - 1}) {
    ASSERT_EQ(::ftruncate(image.object().fd(), static_cast<off_t>(bytes)), 0);
    EXPECT_THROWS(BadFormat, "_bytes is", (void)image.found());
  }
}

TEST(Judge, AnotherUsersIsNotOurs) {
  const test::ScratchObject scratch(4096);
  const Found found = judge(scratch.open(), ::geteuid() + 1);
  EXPECT_EQ(found.state, Attach::not_yours);
  EXPECT_NE(found.why.find("belongs to uid"), std::string::npos) << found.why;
}

// Whoever can write to /dev/shm can put this there; looking must not block.
TEST(Judge, APipeUnderTheNameIsNeverWaitedFor) {
  const std::string name = test::unique_name("pipe");
  const std::string path = "/dev/shm/" + detail::publication_object(::geteuid(), name);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  for (const auto access : {SharedObject::Access::read_write, SharedObject::Access::read_only}) {
    test::Child looker([&] {
      return detail::find_publication(name, ::geteuid(), access).state == Attach::not_yours ? 0 : 1;
    });
    EXPECT_EQ(looker.wait(std::chrono::seconds(5)), 0)
        << "opened for writing too: " << (access == SharedObject::Access::read_write);
  }
  ::unlink(path.c_str());
}

TEST(Judge, ADirectoryUnderTheNameIsNotOurs) {
  const std::string name = test::unique_name("directory");
  const std::string path = "/dev/shm/" + detail::publication_object(::geteuid(), name);
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  for (const auto access : {SharedObject::Access::read_write, SharedObject::Access::read_only}) {
    EXPECT_EQ(detail::find_publication(name, ::geteuid(), access).state, Attach::not_yours);
  }
  ::rmdir(path.c_str());
}

TEST(SegmentSlot, IsRefusedByTheNameOfTheField) {
  const auto refuses = [](const std::string& why,
                          const std::function<void(format::Slot&)>& damage) {
    const Image image;
    damage(image.slot(2));
    const Segment segment = image.segment();
    EXPECT_NO_THROW((void)segment.slot(1, 600));
    EXPECT_THROWS(BadFormat, why, (void)segment.slot(2, 600));
  };
  refuses("slot.handle_kind is 0", [](format::Slot& s) { s.handle_kind = 0; });
  refuses("slot.handle_kind is 2", [](format::Slot& s) { s.handle_kind = 2; });  // cuda, in host
  refuses("slot.bytes is 599", [](format::Slot& s) { s.bytes = 599; });
  refuses("slot.bytes", [](format::Slot& s) { s.bytes = kHuge; });
  refuses("slot.bytes", [](format::Slot& s) { s.bytes = s.mapped_bytes = (1ULL << 47U) + 1; });
  refuses("slot.offset is 1", [](format::Slot& s) { s.offset = 1; });
  refuses("slot.offset", [](format::Slot& s) { s.offset = kHuge; });
  refuses("slot.offset", [](format::Slot& s) { s.offset = kHuge - s.bytes + 1; });  // wraps to 0
  refuses("slot.offset", [](format::Slot& s) { s.mapped_bytes = s.bytes - 1; });
  refuses("slot.offset", [](format::Slot& s) { s.mapped_bytes = 0; });
}

TEST(SegmentSlot, BeginsWhereParametersAreAligned) {
  const Image image;
  image.slot(0).offset = 1;
  image.slot(0).bytes -= format::kSlotGranularity / 2;  // still inside what the handle opens
  EXPECT_THROWS(BadFormat, "slot.offset is 1", (void)image.segment().slot(0, 600));
}

TEST(SegmentSlot, IsACopy) {
  const Image image;
  const Segment segment = image.segment();
  const format::Slot slot = segment.slot(0, 0);
  image.slot(0).offset = 77;
  EXPECT_EQ(slot.offset, 0u);
}

TEST(SegmentRecord, IsReadBack) {
  const Image image;
  image.write_record(5, 1, 4);
  const detail::Record r = image.segment().record(5);
  EXPECT_EQ(r.version, 2u);
  EXPECT_EQ(r.bucket, 1u);
  EXPECT_EQ(r.slot, 4u);
  EXPECT_EQ(r.written_in, 1u);
}

TEST(SegmentRecord, IsRefusedByTheNameOfTheField) {
  const auto refuses = [](const std::string& why,
                          const std::function<void(format::Entry&)>& damage) {
    const Image image;
    image.write_record(5, 1, 4);
    damage(image.entry(5));
    EXPECT_THROWS(BadFormat, why, (void)image.segment().record(5));
  };
  refuses("log entry.number is 0", [](format::Entry& e) { e.number = 0; });
  refuses("log entry.number is 11", [](format::Entry& e) { e.number = 11; });  // a lap later
  refuses("log entry.version is 1", [](format::Entry& e) { e.version = 1; });
  refuses("log entry.version", [](format::Entry& e) { e.version = kHuge; });
  refuses("log entry.bucket is 2", [](format::Entry& e) { e.bucket = 2; });
  refuses("log entry.bucket", [](format::Entry& e) { e.bucket = ~0U; });
  refuses("log entry.slot is 3", [](format::Entry& e) { e.slot = 3; });  // bucket 0's
  refuses("log entry.slot is 7", [](format::Entry& e) { e.slot = 7; });  // 7 mod 3 is 1, but none
  refuses("log entry.slot", [](format::Entry& e) { e.slot = ~0U; });
}

TEST(SegmentRecord, OfAStreamIsInTheSlotOfItsNumber) {
  const Image image({Mode::streaming, 2, 2});
  image.write_record(5, 1, 1);
  EXPECT_EQ(image.segment().record(5).slot, 1u);
  image.write_record(5, 1, 0);
  EXPECT_THROWS(BadFormat, "log entry.slot is 0", (void)image.segment().record(5));
}

TEST(SegmentLayout, IsRefusedWhenItIsNotTheOneOfTheHeader) {
  const Image image;
  EXPECT_EQ(image.segment().layout().size(), 6u);
  image.header().layout_hash ^= 1U;
  EXPECT_THROWS(BadFormat, "publication's layout_hash is", (void)image.segment().layout());
}

TEST(SegmentLayout, IsRefusedWhenItHasAnotherNumberOfBuckets) {
  const Image image({Mode::double_buffered, 8, 8, 4});
  for (int turn = 0; turn < 2; ++turn) {  // the second time it comes from the cache
    EXPECT_THROWS(BadFormat, "publication's bucket_count is 4", (void)image.segment().layout());
    (void)Image().segment().layout();
  }
}

TEST(SegmentLayout, IsParsedOnceByAProcess) {
  const Image one;
  const Image other;
  EXPECT_EQ(one.segment().layout().bytes().first, other.segment().layout().bytes().first);
}

TEST(PerProcess, IsOneForAllThreadsAndAnotherForAForkedChild) {
  struct Box {
    std::atomic<int> value{0};
  };
  std::atomic<Box*> seen{nullptr};
  std::atomic<int> different{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        Box* mine = &detail::per_process<Box>();
        Box* first = nullptr;
        if (!seen.compare_exchange_strong(first, mine) && first != mine) ++different;
      });
    }
  }
  EXPECT_EQ(different, 0);
  detail::per_process<Box>().value = 7;
  test::Child child([] { return detail::per_process<Box>().value.load(); });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(detail::per_process<Box>().value, 7);
}

// This program includes no CUDA header, and nothing it links does.
TEST(MemoryKinds, ThatThisProgramCannotReadAreNamedWithTheHeaderToInclude) {
  EXPECT_THROWS(NoMemoryKind, "include <tenon/cuda.hpp>", (void)detail::ops_for(MemoryKind::cuda));
  EXPECT_THROWS(NoMemoryKind, "<tenon/cuda.hpp>", (void)detail::require_stream_ops());
  EXPECT_NO_THROW((void)detail::ops_for(MemoryKind::host));
}

}  // namespace
}  // namespace tenon
