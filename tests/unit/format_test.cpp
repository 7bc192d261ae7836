// The byte format: record arithmetic, and one kept publication of every released version of it.
//
// tests/data/format-<major>.<minor>.bin is the segment of a small double-buffered publication with
// two versions. When the format gets a new number, write its file once, add it to kReleased, and
// never change it again:
//
//   TENON_WRITE_GOLDEN=1 format_test --gtest_filter='*Golden*'
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <support/support.hpp>
#include <tenon/publisher.hpp>
#include <tenon/stages.hpp>
#include <vector>

#include "layout_block.hpp"
#include "scratch.hpp"

namespace tenon {
namespace {

using format::next_start;
using format::start_of;
using format::version_of;
using test::sample_layout;

TEST(Records, AVersionOwnsOneOfEachBucket) {
  EXPECT_EQ(start_of(1, 3), 1u);
  EXPECT_EQ(start_of(2, 3), 4u);
  EXPECT_EQ(start_of(1000, 1), 1000u);
  EXPECT_EQ(version_of(0, 3), 0u);
  EXPECT_EQ(version_of(3, 3), 1u);
  EXPECT_EQ(version_of(4, 3), 2u);
}

TEST(Records, VersionAndStartAreInverse) {
  for (std::uint64_t buckets = 1; buckets <= 7; ++buckets) {
    for (std::uint64_t version = 1; version <= 50; ++version) {
      const std::uint64_t start = start_of(version, buckets);
      EXPECT_EQ(version_of(start, buckets), version);
      EXPECT_EQ(version_of(start + buckets - 1, buckets), version);
      EXPECT_EQ(version_of(start + buckets, buckets), version + 1);
    }
  }
}

TEST(Records, NextStartIsTheFirstOneNotBelow) {
  EXPECT_EQ(next_start(0, 3), 1u);
  for (std::uint64_t buckets = 1; buckets <= 7; ++buckets) {
    for (std::uint64_t n = 1; n <= 100; ++n) {
      std::uint64_t expected = n;
      while ((expected - 1) % buckets != 0) ++expected;
      EXPECT_EQ(next_start(n, buckets), expected) << n << " of " << buckets;
    }
  }
}

TEST(Records, OfALongRunStillHaveTheirVersion) {
  const std::uint64_t version = 1ULL << 40U;
  EXPECT_EQ(version_of(start_of(version, 1U << 20U), 1U << 20U), version);
  EXPECT_EQ(version_of(format::kIdle, 3), (format::kIdle - 1) / 3 + 1);  // shown, never followed
}

TEST(Format, StructsAreTheReleasedOnes) {
  EXPECT_EQ(format::struct_hash(), 0x44919BDE10D66F31U)
      << "another layout of the structs is another major version";
  EXPECT_EQ(format::kMajor, 1u);
  const char magic[8] = {0x1D, 'T', 'E', 'N', 'O', 'N', 0x00, 0x01};
  EXPECT_EQ(std::memcmp(&format::kMagic, magic, 8), 0);
}

TEST(Format, FieldsAreWhereTheDocumentSaysTheyAre) {
  EXPECT_EQ(offsetof(format::Header, major), 8u);
  EXPECT_EQ(offsetof(format::Header, total_bytes), 24u);
  EXPECT_EQ(offsetof(format::Header, instance), 32u);
  EXPECT_EQ(offsetof(format::Header, boot_id), 72u);
  EXPECT_EQ(offsetof(format::Header, memory_kind), 88u);
  EXPECT_EQ(offsetof(format::Header, device_uuid), 96u);
  EXPECT_EQ(offsetof(format::Header, driver_version), 112u);
  EXPECT_EQ(offsetof(format::Header, layout_bytes), 144u);
  EXPECT_EQ(offsetof(format::Header, label), 160u);
  EXPECT_EQ(offsetof(format::Header, created_at), 224u);
  EXPECT_EQ(offsetof(format::Header, statistics_at), 240u);
  EXPECT_EQ(offsetof(format::Header, completed), 584u);
  EXPECT_EQ(offsetof(format::Header, oldest), 592u);
  EXPECT_EQ(offsetof(format::Place, state), 8u);
  EXPECT_EQ(offsetof(format::Place, label), 88u);
  EXPECT_EQ(offsetof(format::Slot, offset), 72u);
  EXPECT_EQ(offsetof(format::Entry, written_in), 24u);
  EXPECT_EQ(offsetof(format::StageBlock, sums), 64u);
  EXPECT_EQ(offsetof(format::StageBlock, ring), 704u);
  EXPECT_EQ(sizeof(format::StageSum), 40u);
  EXPECT_EQ(sizeof(format::StageEvent), 48u);
}

TEST(Format, SectionsFollowEachOther) {
  const format::Sections at(6, 8, 1000);
  EXPECT_EQ(at.places, 1024u);
  EXPECT_EQ(at.slots, 17408u);
  EXPECT_EQ(at.log, at.slots + 6 * 128);
  EXPECT_EQ(at.layout, at.log + 8 * 64);
  EXPECT_EQ(at.end, at.layout + 1000);
}

TEST(Format, TheHashOfBytesNeverChanges) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i * 7);
  EXPECT_EQ(detail::hash64("", 0), 0xE821A9CC1F06A6E9U);
  EXPECT_EQ(detail::hash64("model.norm.weight", 17), 0x81C7C09F6F75C5B4U);
  EXPECT_EQ(detail::hash64(text.data(), text.size()), 0x80AEB82795C49633U);
}

TEST(Format, EveryByteCountsInTheHash) {
  std::vector<unsigned char> bytes(77, 0);
  const std::uint64_t zero = detail::hash64(bytes.data(), bytes.size());
  for (unsigned char& b : bytes) {
    b = 1;
    EXPECT_NE(detail::hash64(bytes.data(), bytes.size()), zero) << &b - bytes.data();
    b = 0;
  }
  EXPECT_NE(detail::hash64(bytes.data(), 76), zero);
}

const std::vector<std::string> kReleased = {"1.0", "1.1", "1.2"};

std::string golden_path(const std::string& version) {
  return TENON_TEST_DATA "/format-" + version + ".bin";
}
std::string this_version() {
  return std::to_string(format::kMajor) + "." + std::to_string(format::kMinor);
}
std::vector<char> read_golden(const std::string& version) {
  std::ifstream file(golden_path(version), std::ios::binary);
  EXPECT_TRUE(file) << golden_path(version);
  return {std::istreambuf_iterator<char>(file), {}};
}

void take_times_out(format::StageBlock& block) {
  block.since = 0;
  for (format::StageSum& sum : block.sums) sum.nanoseconds = sum.longest = sum.last = 0;
  for (format::StageEvent& event : block.ring) event.start = event.nanoseconds = 0;
}

// A real publication with two versions, the second of which does not change bucket 1. What tells
// the machine, the moment or the number of wakes is taken out.
std::vector<char> publish_golden() {
  const std::string name = test::unique_name("golden");
  const Layout layout = sample_layout();
  std::vector<std::byte> weights(1000, std::byte{7});
  std::vector<Source> sources(layout.size(), Source{weights.data()});
  Publisher publisher = Publisher::create(
      name, layout, {.mode = Mode::double_buffered, .label = "golden", .threads = 1});
  publisher.publish(sources);
  const auto [first, last] = layout.bucket_parameters(1);
  for (std::size_t i = first; i < last; ++i) sources[i].unchanged = true;
  publisher.publish(sources);
  auto object = detail::SharedObject::open(detail::publication_object(::geteuid(), name),
                                           detail::SharedObject::Access::read_only);
  if (!object) throw Error(Errc::NotFound, name);
  object->map(static_cast<std::uint64_t>(object->status().st_size));
  const auto* bytes = reinterpret_cast<const char*>(object->data());
  std::vector<char> golden(bytes, bytes + object->mapped_bytes());

  format::Header header{};
  std::memcpy(static_cast<void*>(&header), golden.data(), sizeof(header));
  for (std::uint8_t i = 0; i < 16; ++i) header.instance[i] = i;
  header.publisher = {};
  std::memset(header.boot_id, 0, sizeof(header.boot_id));
  header.created_at = 0;
  header.published_at = 0;
  for (format::WakeWord* w : {&header.wake, &header.release}) w->word = w->waiters = 0;
  std::memcpy(golden.data(), static_cast<const void*>(&header), sizeof(header));
  auto& block = *reinterpret_cast<format::StageBlock*>(
      golden.data() + header.statistics_at + format::kPublisherByte * sizeof(format::StageBlock));
  detail::store_owner(block.owner, header.publisher);
  take_times_out(block);
  return golden;
}

TEST(Golden, IsWrittenWhenAskedFor) {
  if (std::getenv("TENON_WRITE_GOLDEN") == nullptr)
    GTEST_SKIP() << "TENON_WRITE_GOLDEN=1 writes " << golden_path(this_version());
  const std::vector<char> bytes = publish_golden();
  std::ofstream file(golden_path(this_version()), std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(file.flush());
}

TEST(Golden, ThisVersionStillWritesWhatItDid) {
  const std::vector<char> kept = read_golden(this_version());
  const std::vector<char> now = publish_golden();
  EXPECT_LT(kept.size(), 288U << 10U);
  ASSERT_EQ(now.size(), kept.size());
  for (std::size_t i = 0; i < now.size(); ++i) ASSERT_EQ(now[i], kept[i]) << "byte " << i;
}

class GoldenFile : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenFile() : bytes_(read_golden(GetParam())), scratch_(bytes_.size()) {
    detail::SharedObject object = scratch_.open();
    object.map(bytes_.size());
    std::memcpy(object.data(), bytes_.data(), bytes_.size());
    detail::Found found = detail::judge(std::move(object), ::geteuid());
    EXPECT_EQ(found.state, Attach::stale) << found.why;  // its publisher is process 0
    segment_ = std::move(found.segment);
  }
  void SetUp() override { ASSERT_TRUE(segment_); }
  [[nodiscard]] const detail::Segment& segment() const { return *segment_; }

 private:
  std::vector<char> bytes_;
  test::ScratchObject scratch_;
  std::optional<detail::Segment> segment_;
};

TEST_P(GoldenFile, HasItsFacts) {
  const detail::Facts& facts = segment().facts();
  EXPECT_EQ(facts.memory, MemoryKind::host);
  EXPECT_EQ(facts.mode, Mode::double_buffered);
  EXPECT_EQ(facts.buckets, 3u);
  EXPECT_EQ(facts.slots, 6u);
  EXPECT_EQ(facts.log_entries, 6u);
  EXPECT_EQ(facts.label, "golden");
  EXPECT_EQ(facts.publisher.pid, 0u);
  for (std::uint8_t i = 0; i < 16; ++i) EXPECT_EQ(facts.instance[i], i);
}

TEST_P(GoldenFile, HasItsLayout) {
  const Layout layout = segment().layout();
  const Layout planned = sample_layout();
  EXPECT_EQ(layout.hash(), planned.hash()) << "the same parameters are planned otherwise now";
  ASSERT_EQ(layout.size(), planned.size());
  for (std::size_t i = 0; i < planned.size(); ++i) {
    EXPECT_EQ(layout[i].name, planned[i].name);
    EXPECT_EQ(layout.find(planned[i].name), i);
  }
  EXPECT_EQ(layout[test::kHead].offset, layout[test::kEmbed].offset);
  EXPECT_EQ(layout.metadata(), R"({"format":"pt"})");
}

TEST_P(GoldenFile, HasItsCurrentVersionInTheLog) {
  const std::uint64_t current = segment().header().current.load();
  ASSERT_EQ(current, start_of(2, 3));
  EXPECT_LE(segment().header().oldest.load(), current);
  for (std::uint32_t b = 0; b < 3; ++b) {
    const detail::Record old = segment().record(1 + b);
    const detail::Record now = segment().record(current + b);
    EXPECT_EQ(old.version, 1u);
    EXPECT_EQ(now.version, 2u);
    EXPECT_EQ(now.bucket, b);
    EXPECT_EQ(now.slot == old.slot, b == 1) << "only bucket 1 did not change";
    EXPECT_EQ(now.written_in, b == 1 ? 1u : 2u);
  }
}

TEST_P(GoldenFile, HasItsSlotsAndFreePlaces) {
  const Layout layout = segment().layout();
  for (std::uint64_t s = 0; s < 6; ++s) {
    EXPECT_EQ(segment().slot(s, layout.bucket_bytes(s % 3)).bytes, format::kSlotGranularity);
  }
  for (std::size_t i = 0; i < format::kPlaces; ++i) {
    EXPECT_EQ(segment().place(i).cursor.load(), format::kIdle);
    EXPECT_EQ(segment().place(i).state.load(), 0u);
  }
}

TEST_P(GoldenFile, HasItsStatisticsFrom12On) {
  const bool has_them = GetParam() != "1.0" && GetParam() != "1.1";
  ASSERT_EQ(segment().stages(format::kPublisherByte) != nullptr, has_them);
  if (!has_them) return;
  const format::StageBlock& block = *segment().stages(format::kPublisherByte);
  const format::Process owner = segment().facts().publisher;
  const Stages stages = detail::read_stages(block, owner).value();
  EXPECT_EQ(stages[Stage::gather].count, 2u);
  const Layout layout = segment().layout();
  std::uint64_t bytes = 2 * layout.payload_bytes();  // but bucket 1 was written once
  const auto [first, last] = layout.bucket_parameters(1);
  for (std::size_t i = first; i < last; ++i) bytes -= layout.tied_to(i) ? 0 : layout[i].bytes;
  EXPECT_EQ(stages[Stage::gather].bytes, bytes);
  detail::StageReader reader(owner);
  std::vector<StageEvent> events;
  reader.read(block, events);
  ASSERT_EQ(events.size(), 8u);
  EXPECT_EQ(events[0].stage, Stage::wait_for_slots);
  EXPECT_EQ(events[7].stage, Stage::wake);
  EXPECT_EQ(events[7].version, 2u);
}

INSTANTIATE_TEST_SUITE_P(Released, GoldenFile, ::testing::ValuesIn(kReleased),
                         [](const auto& test) {
                           std::string name = "Format" + test.param;
                           return name.replace(name.find('.'), 1, "_");
                         });

}  // namespace
}  // namespace tenon
