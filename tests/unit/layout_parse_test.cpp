// Layouts that come from outside: whatever the bytes are, they are refused by name or harmless.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <ostream>
#include <string>
#include <support/support.hpp>

#include "layout_block.hpp"

namespace tenon {
namespace {

using test::Block;
using test::kEmbed, test::kEmpty, test::kMlp, test::kScalar, test::kHead, test::kNorm;
using test::sample_layout;

TEST(LayoutParse, TheSampleIsWhatItIsMeantToBe) {
  const Layout layout = Block(sample_layout()).parse();
  EXPECT_EQ(layout.bucket_count(), 3u);
  EXPECT_EQ(layout.tied_to(kHead), kEmbed);
  EXPECT_EQ(layout[kHead].bucket, 0u);
  EXPECT_EQ(layout.bucket_parameters(1), (std::pair<std::size_t, std::size_t>{2, 5}));
  EXPECT_TRUE(layout.box(kMlp) && layout.box(kNorm));
  EXPECT_EQ(layout.metadata(), R"({"format":"pt"})");
}

struct Damage {
  const char* what;
  const char* field;  ///< as the message names it
  std::function<void(Block&)> inflict;
};
std::ostream& operator<<(std::ostream& out, const Damage& d) { return out << d.what; }

class DamagedLayout : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedLayout, IsRefusedByTheNameOfTheField) {
  Block block(sample_layout());
  GetParam().inflict(block);
  EXPECT_THROWS(BadFormat, GetParam().field, (void)block.parse());
}

const auto name_of_case = [](const auto& test) { return std::string(test.param.what); };

constexpr std::uint64_t kHuge = ~std::uint64_t{0};

const Damage kHeaderDamage[] = {
    {"BytesZero", "layout.bytes is 0", [](Block& b) { b.header().bytes = 0; }},
    {"BytesShort", "layout.bytes", [](Block& b) { b.header().bytes -= 8; }},
    {"BytesLong", "layout.bytes", [](Block& b) { b.header().bytes += 8; }},
    {"BytesHuge", "layout.bytes", [](Block& b) { b.header().bytes = kHuge; }},
    {"NoParameters", "layout.parameter_count is 0",
     [](Block& b) { b.header().parameter_count = 0; }},
    {"OneParameterMore", "layout.bytes", [](Block& b) { b.header().parameter_count += 1; }},
    {"TooManyParameters", "layout.parameter_count",
     [](Block& b) { b.header().parameter_count = (1U << 24U) + 1; }},
    {"HugeParameterCount", "layout.parameter_count",
     [](Block& b) { b.header().parameter_count = kHuge; }},
    {"NoBuckets", "layout.bucket_count is 0", [](Block& b) { b.header().bucket_count = 0; }},
    {"OneBucketLess", "layout.bytes", [](Block& b) { b.header().bucket_count -= 1; }},
    {"TooManyBuckets", "layout.bucket_count",
     [](Block& b) { b.header().bucket_count = (1U << 20U) + 1; }},
    {"HugeBucketCount", "layout.bucket_count", [](Block& b) { b.header().bucket_count = kHuge; }},
    {"MoreBoxesThanParameters", "layout.box_count", [](Block& b) { b.header().box_count = 7; }},
    {"OneBoxLess", "layout.bytes", [](Block& b) { b.header().box_count -= 1; }},
    {"HugeBoxCount", "layout.box_count", [](Block& b) { b.header().box_count = kHuge; }},
    {"NoIndex", "layout.index_capacity", [](Block& b) { b.header().index_capacity = 0; }},
    {"IndexNoPowerOfTwo", "layout.index_capacity",
     [](Block& b) { b.header().index_capacity = 15; }},
    {"IndexTooSmall", "layout.index_capacity", [](Block& b) { b.header().index_capacity = 4; }},
    {"IndexDoubled", "layout.bytes", [](Block& b) { b.header().index_capacity *= 2; }},
    {"IndexHuge", "layout.index_capacity",
     [](Block& b) { b.header().index_capacity = 1ULL << 63U; }},
    {"NamesLonger", "layout.bytes", [](Block& b) { b.header().names_bytes += 8; }},
    {"NamesHuge", "layout.names_bytes", [](Block& b) { b.header().names_bytes = kHuge; }},
    {"NamesTooLong", "layout.names_bytes",
     [](Block& b) { b.header().names_bytes = (1U << 30U) + 1; }},
    {"MetadataLonger", "layout.bytes", [](Block& b) { b.header().metadata_bytes += 8; }},
    {"MetadataHuge", "layout.metadata_bytes",
     [](Block& b) { b.header().metadata_bytes = kHuge - 3; }},
    {"MetadataTooLong", "layout.metadata_bytes",
     [](Block& b) { b.header().metadata_bytes = (1U << 30U) + 1; }},
};
INSTANTIATE_TEST_SUITE_P(Header, DamagedLayout, ::testing::ValuesIn(kHeaderDamage), name_of_case);

const Damage kParameterDamage[] = {
    {"OffsetUnaligned", "parameter.offset is 700",  // behind embed, and inside
     [](Block& b) { b.parameter(kEmpty).offset = 700; }},
    {"OffsetThatWraps", "parameter.offset is 18446744073709551360",
     [](Block& b) { b.parameter(kNorm).offset = kHuge - 255; }},
    {"OffsetOverItsPredecessor", "parameter.offset is 0",
     [](Block& b) { b.parameter(kScalar).offset = 0; }},
    {"OffsetBehindItsBucket", "parameter.offset is 512",
     [](Block& b) { b.parameter(kScalar).offset = 512; }},
    {"OffsetHuge", "parameter.offset", [](Block& b) { b.parameter(kScalar).offset = kHuge - 255; }},
    {"BytesOneMore", "parameter.bytes is 641", [](Block& b) { b.parameter(kEmbed).bytes += 1; }},
    {"BytesHuge", "parameter.bytes", [](Block& b) { b.parameter(kEmbed).bytes = kHuge; }},
    {"ShapeOther", "parameter.bytes", [](Block& b) { b.parameter(kEmbed).shape[0] = 41; }},
    {"ShapeWraps", "parameter.bytes",
     [](Block& b) {
       b.parameter(kEmbed).shape[0] = 1ULL << 63U;
       b.parameter(kEmbed).shape[1] = 2;
       b.parameter(kEmbed).bytes = 0;
     }},
    {"ShapeBeyondItsBucket", "parameter.offset",
     [](Block& b) {
       b.parameter(kEmbed).shape[0] = 8000;
       b.parameter(kEmbed).bytes = 8000 * 16;
     }},
    {"NameOffsetBehindTheNames", "parameter.name is 1000",
     [](Block& b) { b.parameter(kMlp).name_offset = 1000; }},
    {"NameOffsetHuge", "parameter.name", [](Block& b) { b.parameter(kMlp).name_offset = ~0U; }},
    {"NameOffsetOther", "name index is missing or ambiguous",
     [](Block& b) { b.parameter(kMlp).name_offset += 1; }},
    {"NameEmpty", "parameter.name", [](Block& b) { b.parameter(kMlp).name_length = 0; }},
    {"NameLonger", "name index is missing or ambiguous",
     [](Block& b) { b.parameter(kMlp).name_length += 1; }},
    {"NameBeyondTheNames", "parameter.name", [](Block& b) { b.parameter(kNorm).name_length += 1; }},
    {"NameTooLong", "parameter.name", [](Block& b) { b.parameter(kEmbed).name_length = 4097; }},
    {"NameHuge", "parameter.name", [](Block& b) { b.parameter(kEmbed).name_length = ~0U; }},
    {"NameTwice", "name index is missing or ambiguous",
     [](Block& b) {
       b.parameter(kMlp).name_offset = b.parameter(kEmbed).name_offset;
       b.parameter(kMlp).name_length = b.parameter(kEmbed).name_length;
     }},
    {"BucketOther", "parameter.bucket is 1", [](Block& b) { b.parameter(kEmbed).bucket = 1; }},
    {"BucketHuge", "parameter.bucket", [](Block& b) { b.parameter(kEmbed).bucket = ~0U; }},
    {"BoxBeyondTheBoxes", "parameter.box is 2", [](Block& b) { b.parameter(kMlp).box = 2; }},
    {"BoxHuge", "parameter.box", [](Block& b) { b.parameter(kMlp).box = format::kNone - 1; }},
    {"BoxOfAnother", "parameter.box", [](Block& b) { b.parameter(kNorm).box = 0; }},
    {"TiedToItself", "parameter.tied_to is 4",
     [](Block& b) { b.parameter(kHead).tied_to = kHead; }},
    {"TiedToALaterOne", "parameter.tied_to is 5",
     [](Block& b) { b.parameter(kHead).tied_to = kNorm; }},
    {"TiedToATiedOne", "parameter.tied_to", [](Block& b) { b.parameter(kNorm).tied_to = kHead; }},
    {"TiedHuge", "parameter.tied_to",
     [](Block& b) { b.parameter(kHead).tied_to = format::kNone - 1; }},
    {"TiedToAnotherSize", "parameter.offset", [](Block& b) { b.parameter(kHead).tied_to = kMlp; }},
    {"TiedElsewhere", "parameter.offset", [](Block& b) { b.parameter(kHead).offset = 256; }},
    {"TiedInAnotherBucket", "parameter.offset", [](Block& b) { b.parameter(kHead).bucket = 2; }},
    {"TiedOfMoreBytes", "parameter.offset",
     [](Block& b) {
       b.parameter(kHead).shape[0] = 8000;
       b.parameter(kHead).bytes = 16000;
     }},
    {"NoLongerTied", "parameter.bucket",
     [](Block& b) { b.parameter(kHead).tied_to = format::kNone; }},
    {"DtypeZero", "parameter.dtype is 0", [](Block& b) { b.parameter(kMlp).dtype = 0; }},
    {"DtypeUnknown", "parameter.dtype is 16", [](Block& b) { b.parameter(kMlp).dtype = 16; }},
    {"DtypeHuge", "parameter.dtype is 255", [](Block& b) { b.parameter(kMlp).dtype = 255; }},
    {"DtypeOfAnotherSize", "parameter.bytes",
     [](Block& b) { b.parameter(kMlp).dtype = static_cast<std::uint8_t>(Dtype::f64); }},
    {"RankNine", "parameter.rank is 9", [](Block& b) { b.parameter(kMlp).rank = 9; }},
    {"RankHuge", "parameter.rank", [](Block& b) { b.parameter(kMlp).rank = 255; }},
    {"RankLower", "parameter.bytes", [](Block& b) { b.parameter(kMlp).rank = 1; }},
    {"RankHigher", "parameter.bytes", [](Block& b) { b.parameter(kMlp).rank = 3; }},
    {"PackedNeitherYesNorNo", "parameter.packed is 2",
     [](Block& b) { b.parameter(kMlp).packed = 2; }},
};
INSTANTIATE_TEST_SUITE_P(Parameter, DamagedLayout, ::testing::ValuesIn(kParameterDamage),
                         name_of_case);

const Damage kSectionsDamage[] = {
    {"BucketBytesShort", "parameter.offset", [](Block& b) { b.bucket(0).bytes -= 256; }},
    {"BucketBytesLong", "bucket.bytes", [](Block& b) { b.bucket(1).bytes += 256; }},
    {"BucketBytesBeyondTheFormat", "bucket.bytes",
     [](Block& b) { b.bucket(0).bytes = (1ULL << 46U) + 1; }},
    {"BucketBytesHuge", "bucket.bytes", [](Block& b) { b.bucket(0).bytes = kHuge; }},
    {"BucketBeginsLater", "bucket.first_parameter is 1",
     [](Block& b) { b.bucket(0).first_parameter = 1; }},
    {"BucketsOverlap", "bucket.first_parameter is 1",
     [](Block& b) { b.bucket(1).first_parameter = 1; }},
    {"BucketBeginsNowhere", "bucket.first_parameter",
     [](Block& b) { b.bucket(2).first_parameter = ~0U; }},
    {"BucketListsMoreThanThereAre", "bucket.first_parameter",
     [](Block& b) { b.bucket(2).parameter_count = 2; }},
    {"BucketListsHugelyMany", "bucket.first_parameter",
     [](Block& b) { b.bucket(0).parameter_count = ~0U; }},
    {"LastParameterInNoBucket", "bucket.parameter_count is 5",
     [](Block& b) {
       b.bucket(2).parameter_count = 0;
       b.bucket(2).bytes = 0;
     }},
    {"BoxGlobalShapeTooSmall", "parameter.box.offset",
     [](Block& b) { b.box(0).global_shape[0] = 7; }},
    {"BoxGlobalShapeZero", "parameter.box.offset", [](Block& b) { b.box(1).global_shape[0] = 0; }},
    {"BoxOffsetTooLarge", "parameter.box.offset is 1", [](Block& b) { b.box(0).offset[1] = 1; }},
    {"BoxOffsetHuge", "parameter.box.offset", [](Block& b) { b.box(0).offset[0] = kHuge - 2; }},
    {"IndexHashOther", "name index is missing or ambiguous",
     [](Block& b) { b.entry_of(kScalar).hash ^= 1U; }},
    {"IndexOfNoParameter", "name index entry is 7",
     [](Block& b) { b.entry_of(kScalar).parameter = 7; }},
    {"IndexHuge", "name index entry", [](Block& b) { b.entry_of(kScalar).parameter = ~0U; }},
    {"IndexOfAnother", "name index is missing or ambiguous",
     [](Block& b) { b.entry_of(kScalar).parameter = kHead + 1; }},
    {"IndexEntryMissing", "name index is 5", [](Block& b) { b.entry_of(kScalar).parameter = 0; }},
};
INSTANTIATE_TEST_SUITE_P(Sections, DamagedLayout, ::testing::ValuesIn(kSectionsDamage),
                         name_of_case);

TEST(LayoutParse, AFullIndexIsRefusedAndNotProbedForever) {
  Block block(sample_layout());
  auto* index = &block.entry_of(kEmbed);
  while (index->parameter != 0) ++index;
  index->parameter = kEmbed + 1;  // one entry too many
  EXPECT_THROWS(BadFormat, "name index is 7", (void)block.parse());
}

TEST(LayoutParse, EveryTruncationIsRefused) {
  const Block block(sample_layout());
  const std::uint64_t whole = Block(sample_layout()).bytes().size();
  for (std::uint64_t size = 0; size < whole; ++size) {
    SCOPED_TRACE(size);
    EXPECT_THROWS(BadFormat, "layout.", (void)block.parse_first(size));
  }
}

TEST(LayoutParse, AnythingBehindTheEndIsRefused) {
  for (const std::size_t more : {1U, 8U, 128U, 4096U}) {
    SCOPED_TRACE(more);
    Block block(sample_layout());
    block.bytes().resize(block.bytes().size() + more);
    EXPECT_THROWS(BadFormat, "layout.bytes", (void)block.parse());
    block.header().bytes += more;
    EXPECT_THROWS(BadFormat, "layout.bytes", (void)block.parse());
  }
}

TEST(LayoutParse, ReservedBytesBelongToLaterMinorVersions) {
  Block block(sample_layout());
  std::memset(block.header().reserved, 0x5A, sizeof(block.header().reserved));
  std::memset(block.parameter(kMlp).reserved, 0x5A, sizeof(block.parameter(kMlp).reserved));
  block.parameter(kMlp).reserved1 = 0x5A;
  std::memset(block.bucket(0).reserved, 0x5A, sizeof(block.bucket(0).reserved));
  EXPECT_EQ(block.parse()[kMlp].name, "mlp");
}

TEST(LayoutParse, UnpackedParametersAreReadToo) {
  Block block(sample_layout());
  block.parameter(kNorm).packed = 0;
  EXPECT_EQ(block.parse()[kNorm].bytes, 600u);
}

}  // namespace
}  // namespace tenon
