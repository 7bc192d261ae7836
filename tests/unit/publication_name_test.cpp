// Names of publications and of their objects.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <support/support.hpp>
#include <tenon/name.hpp>

namespace tenon {
namespace {

bool is_alphanumeric(int c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

TEST(Names, BeginWithALetterOrADigit) {
  for (int c = 0; c < 256; ++c) {
    const std::string name(1, static_cast<char>(c));
    EXPECT_EQ(is_valid_name(name), is_alphanumeric(c)) << "character " << c;
  }
}

TEST(Names, ContinueWithLettersDigitsAndFourMore) {
  for (int c = 0; c < 256; ++c) {
    const std::string name = std::string("a") + static_cast<char>(c) + "b";
    const bool valid = is_alphanumeric(c) || c == '.' || c == '_' || c == '@' || c == '-';
    EXPECT_EQ(is_valid_name(name), valid) << "character " << c;
  }
}

TEST(Names, AreOneToSixtyFourCharactersLong) {
  EXPECT_FALSE(is_valid_name(""));
  EXPECT_TRUE(is_valid_name("p"));
  EXPECT_TRUE(is_valid_name(std::string(64, 'n')));
  EXPECT_FALSE(is_valid_name(std::string(65, 'n')));
}

TEST(Names, CannotLeaveTheirDirectory) {
  for (const char* name : {"..", ".hidden", "a/b", "../etc", "/a", "-rf"}) {
    EXPECT_FALSE(is_valid_name(name)) << name;
  }
  using namespace std::string_view_literals;
  EXPECT_FALSE(is_valid_name("a\0b"sv));
  EXPECT_FALSE(is_valid_name("a\0"sv));
}

TEST(Names, ARefusedOneIsQuotedWithTheRule) {
  EXPECT_THROWS(InvalidName, "'a b' is not a publication name", check_name("a b"));
  EXPECT_THROWS(InvalidName, "1 to 64 of A-Z a-z 0-9 . _ @ -", check_name(""));
  EXPECT_NO_THROW(check_name("policy.v2@node-1_x"));
}

TEST(Names, OfObjectsHoldTheUserAndTheName) {
  EXPECT_EQ(detail::publication_object(1000, "policy"), "tenon.1000.policy");
  EXPECT_EQ(detail::publication_prefix(0), "tenon.0.");
  EXPECT_EQ(detail::slot_prefix(1000), "tenon-slot.1000.");
}

TEST(Names, OfSlotsHoldTheInstanceInHexadecimal) {
  const std::uint8_t instance[16] = {0x00, 0x01, 0x0F, 0x10, 0x7F, 0x80, 0xFF, 0xAB,
                                     0xCD, 0xEF, 0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC};
  EXPECT_EQ(detail::instance_text(instance), "00010f107f80ffabcdef123456789abc");
  EXPECT_EQ(detail::slot_object(7, instance, 12),
            "tenon-slot.7.00010f107f80ffabcdef123456789abc.12");
}

TEST(Names, OfPublicationsAndSlotsAreNeverMistakenForEachOther) {
  // Listing by prefix must not find a slot, nor the objects of a user whose number begins alike.
  EXPECT_EQ(detail::slot_prefix(1).find(detail::publication_prefix(1)), std::string::npos);
  EXPECT_EQ(detail::publication_object(10, "a").find(detail::publication_prefix(1)),
            std::string::npos);
}

}  // namespace
}  // namespace tenon
