// Error codes and the two exceptions that carry them.
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>
#include <tenon/error.hpp>

namespace tenon {
namespace {

constexpr int kLast = static_cast<int>(Errc::System);  // the enumerator at the end of the list

TEST(Errors, EveryConditionHasANameOfItsOwn) {
  std::set<std::string> names;
  for (int code = 0; code <= kLast; ++code) {
    const std::string name = name_of(static_cast<Errc>(code));
    EXPECT_NE(name, "unknown") << "Errc " << code;
    EXPECT_TRUE(names.insert(name).second) << name << " names two conditions";
  }
}

TEST(Errors, ANumberBeyondTheListIsUnknown) {
  EXPECT_STREQ(name_of(static_cast<Errc>(kLast + 1)), "unknown");
}

TEST(Errors, NamesAreThoseOfTheEnumerators) {
  EXPECT_STREQ(name_of(Errc::InvalidArgument), "InvalidArgument");
  EXPECT_STREQ(name_of(Errc::PublisherGone), "PublisherGone");
  EXPECT_STREQ(name_of(Errc::System), "System");
}

TEST(Errors, CarryTheirCodeAndMessage) {
  const Error error(Errc::Closed, "bucket 3 is half loaded");
  EXPECT_EQ(error.code(), Errc::Closed);
  EXPECT_STREQ(error.what(), "bucket 3 is half loaded [docs/errors.md#Closed]");
  EXPECT_EQ(error.message(), "bucket 3 is half loaded");
}

TEST(Errors, ASystemErrorSaysWhatWasDoneAndWhatTheSystemSays) {
  const SystemError error(ENOSPC, "growing a slot");
  EXPECT_EQ(error.code(), Errc::System);
  EXPECT_EQ(error.error(), ENOSPC);
  EXPECT_STREQ(error.what(), "growing a slot: No space left on device [docs/errors.md#System]");
  EXPECT_EQ(detail::message_of(error), "growing a slot: No space left on device");
}

TEST(Errors, ASystemErrorIsCaughtAsAnError) {
  try {
    throw SystemError(EACCES, "opening");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::System);
  }
}

TEST(Errors, DestructorsReportOnStandardError) {
  ::testing::internal::CaptureStderr();
  detail::report({"closing bucket 3: ", "no such device"});
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "tenon: closing bucket 3: no such device\n");
}

}  // namespace
}  // namespace tenon
