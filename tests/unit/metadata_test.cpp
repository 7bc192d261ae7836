// The metadata of a layout is anybody's JSON.
#include <gtest/gtest.h>

#include <cli/metadata.hpp>
#include <string>
#include <tenon/plan.hpp>
#include <vector>

namespace tenon {
namespace {

Layout layout_with(const std::string& metadata) {
  const std::vector<Parameter> parameters = {{"p", Dtype::u8, {1}}};
  return plan(parameters, {.bucket_bytes = 4096, .metadata = metadata});
}
std::string nested(std::size_t depth) {
  return "{\"k\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
}

TEST(Metadata, IsAnObjectOrNothing) {
  EXPECT_EQ(cli::metadata_json(layout_with(R"({"b":1,"a":["x"]})"))->dump(),
            R"({"b":1,"a":["x"]})");
  EXPECT_FALSE(cli::metadata_json(layout_with("")));
  EXPECT_FALSE(cli::metadata_json(layout_with("[1]")));
  EXPECT_FALSE(cli::metadata_json(layout_with(R"({"a":)")));
  EXPECT_FALSE(cli::metadata_json(layout_with("{\"a\":\"\xFF\"}")));
}

// Printing it took as many stack frames.
TEST(Metadata, ThatNestsTooDeepIsNothing) {
  EXPECT_EQ(cli::metadata_json(layout_with(nested(60)))->dump(), nested(60));
  EXPECT_FALSE(cli::metadata_json(layout_with(nested(100))));
  EXPECT_FALSE(cli::metadata_json(layout_with(nested(1'000'000))));
}

}  // namespace
}  // namespace tenon
