// The built-in models against manifests of the published checkpoints (tests/data/manifests), which
// are expanded here without the library's help.
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <numeric>
#include <set>
#include <string>
#include <tenon/model.hpp>

namespace {

using Lines = std::vector<std::string>;

Lines read_manifest(const std::string& model) {
  std::ifstream file(std::string(TENON_TEST_DATA) + "/manifests/" + model + ".txt");
  EXPECT_TRUE(file) << "no manifest of " << model << " in " TENON_TEST_DATA;
  Lines lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') lines.push_back(line);
  }
  return lines;
}

// Consecutive lines that are equal up to and including their first {a..b} are one loop over all of
// them.
Lines expand(const Lines& lines) {
  Lines out;
  for (std::size_t i = 0; i < lines.size();) {
    const std::size_t open = lines[i].find('{');
    if (open == std::string::npos) {
      out.push_back(lines[i++]);
      continue;
    }
    const std::size_t close = lines[i].find('}', open);
    const std::string head = lines[i].substr(0, close + 1);
    const std::size_t first = std::stoul(head.substr(open + 1));
    const std::size_t last = std::stoul(head.substr(head.find("..") + 2));
    Lines tails;
    for (; i < lines.size() && lines[i].compare(0, head.size(), head) == 0; ++i) {
      tails.push_back(lines[i].substr(head.size()));
    }
    for (std::size_t n = first; n <= last; ++n) {
      Lines turn;
      for (const std::string& tail : tails) {
        turn.push_back(head.substr(0, open) + std::to_string(n) + tail);
      }
      for (std::string& line : expand(turn)) out.push_back(std::move(line));
    }
  }
  return out;
}

std::string line_of(const tenon::Parameter& p) {
  std::string line = p.name + " " + std::string(tenon::info(p.dtype).name) + " ";
  for (std::size_t i = 0; i < p.shape.size(); ++i) {
    line += (i == 0 ? "" : "x") + std::to_string(p.shape[i]);
  }
  return line;
}

Lines lines_of(const std::vector<tenon::Parameter>& parameters) {
  Lines lines;
  for (const tenon::Parameter& p : parameters) lines.push_back(line_of(p));
  return lines;
}

std::uint64_t bytes_of(const std::vector<tenon::Parameter>& parameters) {
  std::uint64_t bytes = 0;
  for (const tenon::Parameter& p : parameters) {
    bytes += tenon::byte_size(p.dtype, tenon::Shape(p.shape.data(), p.shape.size())).value();
  }
  return bytes;
}

std::string message_of(std::string_view name, std::optional<std::uint32_t> layers) {
  try {
    (void)tenon::model_parameters(name, layers);
  } catch (const tenon::Error& error) {
    EXPECT_EQ(error.code(), tenon::Errc::InvalidArgument);
    return error.what();
  }
  ADD_FAILURE() << name << " was accepted";
  return {};
}

class ModelTest : public testing::TestWithParam<std::string_view> {};

TEST_P(ModelTest, EqualsThePublishedManifest) {
  const Lines expected = expand(read_manifest(std::string(GetParam())));
  const Lines actual = lines_of(tenon::model_parameters(GetParam()));
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) ASSERT_EQ(actual[i], expected[i]) << "at " << i;
}

TEST_P(ModelTest, HasDistinctNamesAndPlainParameters) {
  std::set<std::string> names;
  for (const tenon::Parameter& p : tenon::model_parameters(GetParam())) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    EXPECT_TRUE(p.tied_to.empty()) << p.name;
    EXPECT_FALSE(p.box) << p.name;
  }
}

TEST_P(ModelTest, FewerLayersAreTheFirstOnes) {
  const Lines whole = lines_of(tenon::model_parameters(GetParam()));
  Lines kept;
  for (const std::string& line : whole) {
    const bool other = line.rfind("model.layers.", 0) == 0 &&
                       line.rfind("model.layers.0.", 0) != 0 &&
                       line.rfind("model.layers.1.", 0) != 0;
    if (!other) kept.push_back(line);
  }
  EXPECT_EQ(lines_of(tenon::model_parameters(GetParam(), 2)), kept);
}

INSTANTIATE_TEST_SUITE_P(Models, ModelTest, testing::ValuesIn(tenon::model_names()),
                         [](const auto& test) {
                           std::string name(test.param);
                           for (char& c : name) {
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           }
                           return name;
                         });

TEST(Model, HasThePublishedSizes) {
  EXPECT_EQ(tenon::model_parameters("llama-3.2-1b").size(), 146u);
  EXPECT_EQ(tenon::model_parameters("llama-3.1-8b").size(), 291u);
  EXPECT_EQ(tenon::model_parameters("qwen3-30b-a3b").size(), 18867u);
  // Summed over the manifests by another program.
  EXPECT_EQ(bytes_of(tenon::model_parameters("llama-3.2-1b")), 2471628800u);
  EXPECT_EQ(bytes_of(tenon::model_parameters("llama-3.1-8b")), 16060522496u);
  EXPECT_EQ(bytes_of(tenon::model_parameters("qwen3-30b-a3b")), 61064245248u);
}

TEST(Model, RefusesAnUnknownNameAndListsTheKnownOnes) {
  const std::string message = message_of("llama-4", {});
  EXPECT_NE(message.find("'llama-4'"), std::string::npos) << message;
  for (const std::string_view name : tenon::model_names()) {
    EXPECT_NE(message.find(name), std::string::npos) << message;
  }
}

TEST(Model, RefusesLayersThatItDoesNotHave) {
  EXPECT_NE(message_of("llama-3.2-1b", 0).find("0 layers: it has 1 to 16"), std::string::npos);
  EXPECT_NE(message_of("llama-3.1-8b", 33).find("33 layers: it has 1 to 32"), std::string::npos);
  EXPECT_EQ(tenon::model_parameters("llama-3.2-1b", 16).size(), 146u);
}

}  // namespace
