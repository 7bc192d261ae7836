// Safetensors files: what the writer writes the reader reads; what is not as the format says is
// refused with a message that names it.
//
// To be readable, JSON and expected messages are written here with ' for ".
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <tenon/safetensors.hpp>
#include <thread>

namespace tenon::safetensors {
namespace {

using Bytes = std::vector<std::byte>;
using Names = std::vector<std::string>;
using Path = std::filesystem::path;

constexpr std::uint64_t kMax = ~std::uint64_t{0};

std::string q(std::string text) {
  std::replace(text.begin(), text.end(), '\'', '"');
  return text;
}

// `body` must throw an Error of this code whose message holds all of `parts`, whatever its quotes.
template <class Body>
void throws(Errc code, const Names& parts, const Body& body) {
  try {
    body();
    ADD_FAILURE() << "nothing was thrown; expected " << parts.at(0);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    const std::string message = q(error.what());
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(q(part)), std::string::npos) << message << "\nlacks: " << part;
    }
    EXPECT_LT(message.size(), 1200u);
  }
}

void bad_header(const std::string& json, std::uint64_t data_bytes, const Names& parts) {
  SCOPED_TRACE(json.substr(0, 200));
  throws(Errc::BadFile, parts, [&] { (void)parse_header(q(json), data_bytes, "x.st"); });
}

void bad_index(const std::string& json, const Names& parts) {
  SCOPED_TRACE(json.substr(0, 200));
  throws(Errc::BadFile, parts, [&] { (void)parse_index(q(json), "i.json"); });
}

// Of a tensor "w" whose three fields are given as JSON.
std::string header(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{'w':{'dtype':" + dtype + ",'shape':" + shape + ",'data_offsets':" + offsets + "}}";
}

std::string file_bytes(const std::string& json, std::size_t data_bytes) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(json.size() >> (8 * i) & 0xff);
  return out + q(json) + std::string(data_bytes, 'd');
}

const std::string kHeader = header("'F32'", "[2]", "[0,8]");

Names names_of(const std::vector<Parameter>& parameters) {
  Names names;
  for (const Parameter& p : parameters) names.push_back(p.name);
  return names;
}

Names names_of(const std::vector<Entry>& entries) {
  Names names;
  for (const Entry& e : entries) names.push_back(e.parameter.name);
  return names;
}

Bytes bytes_of(const File& file, const Entry& entry) {
  Bytes bytes(entry.bytes);
  file.read(entry, 0, bytes.data(), bytes.size());
  return bytes;
}

Bytes pattern(std::size_t bytes, std::size_t seed) {
  Bytes out(bytes);
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>(seed * 31 + i * 7);
  return out;
}

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest() {
    std::string name = testing::TempDir() + "/tenon_safetensors_XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw SystemError(errno, "making " + name);
    folder_ = name;
  }
  ~SafetensorsTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  Path put(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }

  // Each tensor's bytes are pattern(size, index).
  Path put_tensors(const std::string& name, const std::vector<Parameter>& parameters,
                   const Metadata& metadata = {}) const {
    Writer writer(folder_ / name, parameters, metadata);
    for (const std::size_t i : writer.order()) {
      const auto& p = parameters[i];
      const auto bytes = byte_size(p.dtype, Shape(p.shape.data(), p.shape.size()));
      writer.write(i, pattern(bytes.value(), i).data());
    }
    writer.commit();
    return folder_ / name;
  }

  void bad_file(const std::string& content, const Names& parts) const {
    const Path path = put("bad.st", content);
    throws(Errc::BadFile, parts, [&] { (void)File::open(path); });
  }

  long files() const { return std::distance(std::filesystem::directory_iterator(folder_), {}); }

  Path folder_;
};

TEST_F(SafetensorsTest, RoundTripsEveryDtypeAligned) {
  std::vector<Parameter> parameters;
  for (const DtypeInfo& d : kDtypes) {
    parameters.push_back({std::string(d.name), d.dtype, {3, 5}});
  }
  const Path path = put_tensors("all.st", parameters);
  const File file = File::open(path);
  EXPECT_EQ(file.path(), path);
  ASSERT_EQ(file.entries().size(), parameters.size());
  std::uint64_t end = file.entries()[0].offset;
  for (const Entry& entry : file.entries()) {
    const auto index = static_cast<std::size_t>(entry.parameter.dtype) - 1;
    EXPECT_EQ(entry.parameter.name, parameters.at(index).name);
    EXPECT_EQ(entry.parameter.shape, parameters.at(index).shape);
    EXPECT_EQ(entry.offset % kDtypes.at(index).bytes, 0u) << entry.parameter.name;
    EXPECT_EQ(entry.offset, end);
    end += entry.bytes;
    EXPECT_EQ(bytes_of(file, entry), pattern(entry.bytes, index)) << entry.parameter.name;
  }
  EXPECT_EQ(end, std::filesystem::file_size(path));
}

TEST_F(SafetensorsTest, RoundTripsScalarsEmptyTensorsMetadataAndStrangeNames) {
  const std::string strange = "quote\" back\\slash \n tab\t \xe6\x97\xa5\xe6\x9c\xac";
  const Metadata metadata{{"format", "pt"}, {"k\n", "v\""}, {"", ""}};
  const Path path = put_tensors("m.st",
                                {{"e1", Dtype::f32, {0}},
                                 {"scalar", Dtype::f64, {}},
                                 {"e2", Dtype::f32, {4, 0, 2}},
                                 {strange, Dtype::u8, {1, 1, 1}},
                                 {"", Dtype::i16, {2}}},
                                metadata);
  const File file = File::open(path);
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(names_of(file.entries()), (Names{"scalar", "e1", "e2", "", strange}));
  EXPECT_EQ(file.entries()[0].bytes, 8u);
  EXPECT_TRUE(file.entries()[0].parameter.shape.empty());
  EXPECT_EQ(file.entries()[1].bytes, 0u);
  EXPECT_EQ(bytes_of(file, file.entries()[4]), pattern(1, 3));
}

TEST_F(SafetensorsTest, WritesWhatTheFormatDescribes) {
  put_tensors("x.st", {{"a", Dtype::u8, {1}}, {"b", Dtype::f32, {1}}}, {{"k", "v"}});
  std::ifstream in(folder_ / "x.st", std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(in), {}};
  std::string json =
      "{'__metadata__':{'k':'v'},'b':{'dtype':'F32','shape':[1],'data_offsets':[0,4]},"
      "'a':{'dtype':'U8','shape':[1],'data_offsets':[4,5]}}";
  json.append((8 - json.size() % 8) % 8, ' ');
  EXPECT_EQ(content.size(), 8 + json.size() + 5);
  EXPECT_EQ(content.substr(0, 8 + json.size()), file_bytes(json, 0));
}

TEST_F(SafetensorsTest, AFileWithoutTensorsOpens) {
  EXPECT_TRUE(File::open(put("e.st", file_bytes("{}", 0))).entries().empty());
  EXPECT_TRUE(File::open(put_tensors("w.st", {})).entries().empty());
}

TEST_F(SafetensorsTest, ReadsPartsFromManyThreads) {
  const File file = File::open(put_tensors("t.st", {{"a", Dtype::u8, {4096}}}));
  const Bytes whole = pattern(4096, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int at = t; at + 64 <= 4096; at += 64) {
        Bytes part(64);
        file.read(file.entries()[0], static_cast<unsigned>(at), part.data(), part.size());
        EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + at));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(SafetensorsTest, RefusesToReadOutsideATensor) {
  const File file = File::open(put("a.st", file_bytes(kHeader, 8)));
  Bytes to(16);
  const Entry& w = file.entries()[0];
  file.read(w, 8, nullptr, 0);
  const Errc code = Errc::InvalidArgument;
  throws(code, {"9 bytes at 0 of tensor 'w', which has 8"}, [&] { file.read(w, 0, &to[0], 9); });
  throws(code, {"which has 8"}, [&] { file.read(w, 9, &to[0], 0); });
  throws(code, {"which has 8"}, [&] { file.read(w, 4, &to[0], kMax - 1); });
}

TEST_F(SafetensorsTest, ReportsAFileThatShrank) {
  const Path path = put("a.st", file_bytes(kHeader, 8));
  const File file = File::open(path);
  ASSERT_EQ(::truncate(path.c_str(), static_cast<off_t>(std::filesystem::file_size(path) - 3)), 0);
  throws(Errc::BadFile, {path, "it shrank"}, [&] { (void)bytes_of(file, file.entries()[0]); });
}

TEST_F(SafetensorsTest, MissingFilesAreSystemErrors) {
  const Path path = folder_ / "none.st";
  EXPECT_THROW((void)File::open(path), SystemError);
  throws(Errc::System, {path, "No such file"}, [&] { (void)File::open(path); });
}

TEST_F(SafetensorsTest, RefusesWhatIsNoSafetensorsFile) {
  const std::string no = "not a safetensors file";
  bad_file("", {no, "bad.st", "it has 0 bytes"});
  bad_file("1234567", {no, "it has 7 bytes"});
  bad_file(std::string(8, '\0'), {no, "it has 8 bytes"});
  bad_file(std::string(100, '\0'), {no, "no '{'"});
  bad_file("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", {no, "git lfs pull"});
  bad_file(std::string("PK\x03\x04\0\0\0\0\0\0\0\0", 12), {no, "zip archive"});
  bad_file("GGUF" + std::string(60, '\1'), {no, "GGUF"});
  bad_file("<!DOCTYPE html><html></html>", {no, "HTML"});
  bad_file("12345678{\"a\":1}", {no, "over the limit of 100000000"});
  throws(Errc::BadFile, {"a folder"}, [&] { (void)File::open(folder_); });
  ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  throws(Errc::BadFile, {"not a regular file"}, [&] { (void)File::open(folder_ / "fifo"); });
}

TEST_F(SafetensorsTest, RefusesTruncatedAndTrailingData) {
  bad_file(file_bytes(kHeader, 5), {"bad.st", "truncated by 3 bytes", "need 8", "holds 5"});
  bad_file(file_bytes(kHeader, 0), {"truncated by 8 bytes"});
  bad_file(file_bytes(kHeader, 9), {"bad.st", "1 trailing bytes"});
  bad_file(file_bytes(kHeader, 0).substr(0, 30), {"truncated by at least 32", "has 54 bytes"});
}

TEST(SafetensorsHeader, ReadsEntriesByOffset) {
  const std::string json =
      "{'c':{'dtype':'F32','shape':[2],'data_offsets':[4,12]},"
      "'e2':{'dtype':'U8','shape':[0],'data_offsets':[4,4]},"
      "'e1':{'data_offsets':[4,4],'shape':[7,0],'dtype':'F64'},'__metadata__':{'format':'pt'},"
      "'a':{'dtype':'U8','shape':[1,4],'data_offsets':[0,4]}}   ";
  const Header header = parse_header(q(json), 12);
  EXPECT_EQ(names_of(header.entries), (Names{"a", "e2", "e1", "c"}));
  EXPECT_EQ(header.entries[3].offset, 8 + json.size() + 4);
  EXPECT_EQ(header.entries[3].bytes, 8u);
  EXPECT_EQ(header.metadata, (Metadata{{"format", "pt"}}));
}

TEST(SafetensorsHeader, RefusesWhatIsNoJson) {
  for (const char* json : {"", " {}", "[]", "3", "\xef\xbb\xbf{}"}) {
    bad_header(json, 0, {"x.st", "does not begin with '{'"});
  }
  for (const char* json : {"{", "{}{}", "{} x", "{'__metadata__':{},}", "{/**/}"}) {
    bad_header(json, 0, {"not valid JSON"});
  }
  bad_header(header("'U8'", "[1e999]", "[0,1]"), 1, {"not valid JSON"});
  bad_header(header("'U8'", "[01]", "[0,1]"), 1, {"not valid JSON"});
  for (const char* json : {"{'\xff':{}}", "{'\xc0\xaf':{}}", "{'\xed\xa0\x80':{}}", "{'\\ud800'"}) {
    bad_header(json, 0, {"not valid JSON in UTF-8"});
  }
  // Taken for the end of the text, it would hide what follows.
  bad_header(std::string("{}\0'evil'", 9), 0, {"zero byte"});
}

TEST(SafetensorsHeader, RefusesDuplicates) {
  const std::string a = "'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]";
  bad_header("{" + a + "}," + a + "}}", 1, {"names 'a' twice"});
  bad_header("{" + a + "},'\\u0061':{}}", 1, {"names 'a' twice"});
  bad_header("{'__metadata__':{},'__metadata__':{}}", 0, {"names '__metadata__' twice"});
  bad_header("{'__metadata__':{'k':'1','k':'2'}}", 0, {"'k' twice in __metadata__"});
  bad_header("{" + a + ",'dtype':'U8'}}", 1, {"tensor 'a' has dtype twice"});
  bad_header("{" + a + ",'shape':[1]}}", 1, {"tensor 'a' has shape twice"});
  bad_header("{" + a + ",'data_offsets':[0,1]}}", 1, {"tensor 'a' has data_offsets twice"});
}

TEST(SafetensorsHeader, RefusesWrongTypes) {
  bad_header("{'w':1}", 0, {"the number 1 for 'w'"});
  bad_header("{'w':null}", 0, {"null for 'w'"});
  bad_header("{'w':[]}", 0, {"an array for 'w'"});
  bad_header("{'__metadata__':'x'}", 0, {"the string 'x' for '__metadata__'"});
  bad_header("{'__metadata__':{'k':1}}", 0, {"the number 1 for 'k' in __metadata__"});
  bad_header("{'__metadata__':{'k':{}}}", 0, {"an object for 'k' in __metadata__"});
  bad_header("{'__metadata__':{'k':[]}}", 0, {"an array for 'k' in __metadata__"});
  bad_header(header("'F99'", "[1]", "[0,1]"), 1, {"'w' has the dtype 'F99'", "known are BOOL"});
  bad_header(header("'f32'", "[1]", "[0,4]"), 4, {"'w' has the dtype 'f32'"});
  bad_header(header("7", "[1]", "[0,1]"), 1, {"'w' has the number 7 in its dtype"});
  bad_header(header("[]", "[1]", "[0,1]"), 1, {"'w' has an array in its dtype"});
  bad_header(header("'U8'", "1", "[0,1]"), 1, {"'w' has the number 1 in its shape"});
  bad_header(header("'U8'", "[[1]]", "[0,1]"), 1, {"'w' has an array in its shape"});
  bad_header(header("'U8'", "[-1]", "[0,1]"), 1, {"'w' has a negative number in its shape"});
  bad_header(header("'U8'", "[1.0]", "[0,1]"), 1, {"'w' has the number 1.0", "in its shape"});
  bad_header(header("'U8'", "[18446744073709551616]", "[0,1]"), 1, {"18446744073709551616, no un"});
  bad_header(header("'U8'", "[true]", "[0,1]"), 1, {"'w' has a boolean in its shape"});
  bad_header(header("'U8'", "[1]", "{}"), 1, {"'w' has an object in its data_offsets"});
  bad_header(header("'U8'", "[1]", "[0,'1']"), 1, {"'w' has the string '1' in its data_offsets"});
  bad_header(header("'U8'", "[1]", "[0]"), 1, {"'w' has data_offsets [0], not [begin, end]"});
  bad_header(header("'U8'", "[1]", "[]"), 1, {"'w' has data_offsets [], not [begin, end]"});
  bad_header(header("'U8'", "[1]", "[0,1,1]"), 1, {"'w' has more than 2 numbers in its data_of"});
  bad_header(header("'U8'", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, {"more than 8 numbers in its sh"});
  EXPECT_EQ(parse_header(q(header("'U8'", "[1,1,1,1,1,1,1,1]", "[0,1]")), 1).entries.size(), 1u);
}

TEST(SafetensorsHeader, RefusesMissingAndUnknownFields) {
  bad_header("{'w':{}}", 0, {"tensor 'w' has no dtype"});
  bad_header("{'w':{'dtype':'U8','data_offsets':[0,1]}}", 1, {"tensor 'w' has no shape"});
  bad_header("{'w':{'dtype':'U8','shape':[1]}}", 1, {"tensor 'w' has no data_offsets"});
  bad_header("{'w':{'dtype':'U8','x':1}}", 1, {"tensor 'w' has the field 'x'"});
  // A field must not be inherited from the entry before.
  bad_header("{'v':{'dtype':'U8','shape':[0],'data_offsets':[0,0]},'w':{'dtype':'U8'}}", 0,
             {"tensor 'w' has no shape"});
}

TEST(SafetensorsHeader, RefusesSizesThatDoNotFit) {
  bad_header(header("'F32'", "[2,3]", "[0,20]"), 20, {"shape [2, 3] of F32", "24", "[0, 20]"});
  bad_header(header("'F32'", "[1]", "[4,0]"), 4, {"[4, 0], which end before they begin"});
  bad_header(header("'F32'", "[4611686018427387904,4]", "[0,0]"), 0, {"'w'", "63 bits"});
  bad_header(header("'F32'", "[2305843009213693952]", "[0,4]"), 4, {"'w'", "63 bits"});
  bad_header(header("'F32'", "[2305843009213693951]", "[0,9223372036854775804]"), 4, {"truncated"});
  bad_header(header("'F32'", "[1]", "[18446744073709551612,0]"), 4, {"end before they begin"});
  bad_header(kHeader, kMax, {"no file holds 18446744073709551615"});
}

TEST(SafetensorsHeader, RefusesOverlapsAndHoles) {
  const auto two = [](const std::string& a, const std::string& b) {
    return "{'a':{'dtype':'U8','shape':[4],'data_offsets':" + a +
           "},'b':{'dtype':'U8','shape':[4],'data_offsets':" + b + "}}";
  };
  EXPECT_EQ(names_of(parse_header(q(two("[4,8]", "[0,4]")), 8).entries), (Names{"b", "a"}));
  bad_header(two("[0,4]", "[3,7]"), 7, {"'b' begins at byte 3", "'a'", "ends at 4: they overlap"});
  bad_header(two("[0,4]", "[0,4]"), 4, {"overlap"});
  bad_header(two("[0,4]", "[6,10]"), 10, {"'b' begins at byte 6", "ends at 4: a hole"});
  bad_header(two("[5,9]", "[1,5]"), 9, {"'b' begins at byte 1", "ends at 0: a hole"});
  bad_header(two("[0,4]", "[18446744073709551611,18446744073709551615]"), 8, {"hole"});
  bad_header(
      "{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4]},"
      "'e':{'dtype':'U8','shape':[0],'data_offsets':[2,2]}}",
      4, {"'e'", "overlap"});
  bad_header(header("'U8'", "[0]", "[2,2]"), 0, {"hole"});
}

TEST(SafetensorsHeader, BoundsNestingLengthAndMessages) {
  const std::string deep(1'000'000, '[');
  bad_header("{'w':" + deep, 0, {"an array for 'w'"});
  bad_header("{'w':{'dtype':'U8','shape':" + deep, 0, {"an array in its shape"});
  std::string objects = "{'w':{'shape':";
  for (int i = 0; i < 100'000; ++i) objects += "{'a':";
  bad_header(objects, 0, {"an object in its shape"});
  bad_header("{'" + std::string(100'000, 'n') + "\n':1}", 0, {"not valid JSON"});
  bad_header("{'" + std::string(100'000, 'n') + "':1}", 0, {"nnn...", "the number 1"});
  bad_header("{" + std::string(kMaxHeaderBytes, ' '), 0, {"over the limit"});
}

// Any byte changed to any value, left out, cut off or repeated: accepted, or refused as a bad file.
template <class Parse>
void survives_every_change(const std::string& json, const Parse& parse) {
  std::size_t accepted = 0, refused = 0;
  const auto attempt = [&](const std::string& text) {
    try {
      parse(text);
      ++accepted;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), Errc::BadFile) << error.what();
      ++refused;
    }
  };
  for (std::size_t i = 0; i < json.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = json;
      changed[i] = static_cast<char>(value);
      attempt(changed);
    }
    attempt(json.substr(0, i));
    attempt(json.substr(0, i) + json.substr(i + 1));
    attempt(json.substr(0, i) + json.substr(i / 2));
  }
  EXPECT_GT(accepted, json.size());
  EXPECT_GT(refused, accepted);
}

TEST(SafetensorsHeader, SurvivesEveryChangedByte) {
  const std::string json =
      "{'__metadata__':{'k':'v'},'a':{'dtype':'F32','shape':[1,2],'data_offsets':[0,8]},"
      "'b':{'dtype':'U8','shape':[],'data_offsets':[8,9]}} ";
  survives_every_change(q(json), [](const std::string& text) {
    for (const Entry& e : parse_header(text, 9).entries) {
      ASSERT_LE(e.offset + e.bytes, 8 + text.size() + 9);
    }
  });
}

TEST_F(SafetensorsTest, SurvivesEveryChangedByteOfAFile) {
  const std::string content = file_bytes(kHeader, 8);
  for (std::size_t i = 0; i < content.size(); ++i) {
    for (const int flip : {0x01, 0x20, 0x80, 0xff}) {
      std::string changed = content;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      try {
        const File file = File::open(put("f.st", changed));
        for (const Entry& entry : file.entries()) (void)bytes_of(file, entry);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Errc::BadFile) << error.what();
      }
    }
  }
}

TEST(SafetensorsIndex, ReadsItsWeightMap) {
  const std::string json =
      "{'metadata':{'total_size':12,'x':[1,{'y':null}]},'weight_map':{'a':'1.st','b':'2.st'}}";
  EXPECT_EQ(parse_index(q(json)), (WeightMap{{"a", "1.st"}, {"b", "2.st"}}));
  survives_every_change(q(json), [](const std::string& text) { (void)parse_index(text); });
}

TEST(SafetensorsIndex, RefusesWhatItCannotBe) {
  for (const char* json : {"", "{", "{}}", "[1e999]", "{'\xff':1}"}) {
    bad_index(json, {"i.json", "not valid JSON in UTF-8"});
  }
  bad_index(std::string("{}\0x", 4), {"zero byte"});
  for (const char* json :
       {"3", "[]", "{}", "{'weight_map':[]}", "{'metadata':{'weight_map':{}}}"}) {
    bad_index(json, {"no object weight_map"});
  }
  bad_index("{'weight_map':{},'weight_map':{}}", {"'weight_map' twice"});
  bad_index("{'weight_map':{'a':'x','a':'y'}}", {"'a' twice"});
  for (const std::string name :
       {"''", "'.'", "'..'", "'../x'", "'/etc/x'", "'x\\u0000y'", "1", "{}"}) {
    bad_index("{'weight_map':{'a':" + name + "}}", {"tensor 'a' in " + name, "plain names"});
  }
  std::string objects;
  for (int i = 0; i < 10'000; ++i) objects += "{'a':";
  bad_index(objects, {"nests deeper"});
  bad_index(std::string(100'000, '['), {"nests deeper"});
}

class CheckpointTest : public SafetensorsTest {
 protected:
  Path put_index(const std::string& map) const {
    return put("m.safetensors.index.json", q("{'metadata':{},'weight_map':{" + map + "}}"));
  }
  void bad_checkpoint(const std::vector<Path>& paths, const Names& parts) const {
    throws(Errc::BadFile, parts, [&] { (void)Checkpoint::open(paths); });
  }

  const Path one_ = put_tensors("1.st", {{"a", Dtype::u8, {3}}, {"b", Dtype::f32, {2}}},
                                {{"format", "pt"}, {"one", "1"}});
  const Path two_ = put_tensors("2.st", {{"c", Dtype::u8, {5}}}, {{"format", "np"}, {"two", "2"}});
};

TEST_F(CheckpointTest, JoinsFilesInTheOrderGiven) {
  const Checkpoint checkpoint = Checkpoint::open({two_, one_});
  EXPECT_EQ(names_of(checkpoint.parameters()), (Names{"c", "b", "a"}));
  EXPECT_EQ(checkpoint.bytes(), 16u);
  EXPECT_EQ(checkpoint.metadata(), (Metadata{{"format", "np"}, {"one", "1"}, {"two", "2"}}));
  Bytes c(4), a(3);
  const Bytes whole = pattern(5, 0);
  checkpoint.read(0, 1, c.data(), 4);
  EXPECT_TRUE(std::equal(c.begin(), c.end(), whole.begin() + 1));
  checkpoint.read(2, 0, a.data(), 3);
  EXPECT_EQ(a, pattern(3, 0));
  throws(Errc::InvalidArgument, {"parameter 3", "with 3"},
         [&] { checkpoint.read(3, 0, &a[0], 0); });
}

TEST_F(CheckpointTest, OpensTheFilesOfAnIndexByName) {
  const Path index = put_index("'c':'2.st','b':'1.st','a':'1.st'");
  const Path extra = put_tensors("0.st", {{"x", Dtype::u8, {1}}});
  EXPECT_EQ(names_of(Checkpoint::open({index}).parameters()), (Names{"b", "a", "c"}));
  EXPECT_EQ(names_of(Checkpoint::open({extra, index}).parameters()), (Names{"x", "b", "a", "c"}));
}

TEST_F(CheckpointTest, RefusesAnIndexThatDisagreesWithItsFiles) {
  bad_checkpoint({put_index("'a':'1.st'")}, {"index.json", one_, "'b'", "not place there"});
  bad_checkpoint({put_index("'a':'1.st','b':'1.st','c':'1.st'")}, {"'c' in '1.st'", "not hold it"});
  bad_checkpoint({put_index("'a':'1.st','b':'2.st','c':'2.st'")}, {one_, "'b'", "not place there"});
  bad_checkpoint({put_index("")}, {"no tensors"});
  const Path index = put_index("'a':'gone.st'");
  throws(Errc::System, {"gone.st", index}, [&] { (void)Checkpoint::open({index}); });
}

TEST_F(CheckpointTest, RefusesATensorInTwoFilesAndNoTensorAtAll) {
  const Path copy = put_tensors("copy.st", {{"c", Dtype::u8, {1}}});
  bad_checkpoint({two_, copy}, {"tensor 'c' is also in", two_, copy});
  bad_checkpoint({one_, one_}, {"is also in", "name each file once"});
  bad_checkpoint({}, {"no tensors"});
  bad_checkpoint({put("empty.st", file_bytes("{}", 0))}, {"no tensors", "empty.st"});
}

class WriterTest : public SafetensorsTest {
 protected:
  void refuses(const std::vector<Parameter>& parameters, const Metadata& metadata,
               const Names& parts) const {
    throws(Errc::InvalidArgument, parts, [&] { Writer(path_, parameters, metadata); });
    EXPECT_EQ(files(), 0);
  }

  const Path path_ = folder_ / "w.st";
};

TEST_F(WriterTest, RefusesWhatTheFormatCannotHold) {
  refuses({{"a\xff", Dtype::u8, {1}}}, {}, {"parameter 0", "UTF-8"});
  refuses({}, {{"\xff", "v"}}, {"metadata key", "UTF-8"});
  refuses({}, {{"k", "\xff"}}, {"'k'", "UTF-8"});
  refuses({{"a", Dtype::u8, {1}}, {"a", Dtype::u8, {1}}}, {}, {"parameter 1", "an earlier"});
  refuses({{"__metadata__", Dtype::u8, {1}}}, {}, {"parameter 0", "keeps for metadata"});
  refuses({{"a", static_cast<Dtype>(99), {1}}}, {}, {"'a'", "no valid dtype"});
  refuses({{"a", Dtype::u8, std::vector<std::uint64_t>(9, 1)}}, {}, {"'a'", "9 dimensions"});
  refuses({{"a", Dtype::u8, {1}}, {"b", Dtype::u8, {1}, "a"}}, {}, {"'b'", "shares", "'a'"});
  refuses({{"a", Dtype::f64, {1ULL << 62}}}, {}, {"'a'", "63 bits"});
  refuses({{"a", Dtype::u8, {1ULL << 62}}, {"b", Dtype::u8, {1ULL << 62}}}, {}, {"more bytes"});
}

TEST_F(WriterTest, RefusesCallsOutOfOrder) {
  Writer writer(path_, {{"a", Dtype::u8, {2}}, {"b", Dtype::f32, {1}}});
  ASSERT_EQ(writer.order(), (std::vector<std::size_t>{1, 0}));
  const Bytes data = pattern(4, 1);
  const Errc code = Errc::InvalidArgument;
  throws(code, {"parameter 0", "('b') is next"}, [&] { writer.write(0, data.data()); });
  throws(code, {"parameter 9"}, [&] { writer.write(9, data.data()); });
  throws(code, {"null pointer"}, [&] { writer.write(1, nullptr); });
  writer.write(1, data.data());
  throws(code, {"before parameter 0 ('a')"}, [&] { writer.commit(); });
  writer.write(0, data.data());
  throws(code, {"all were written"}, [&] { writer.write(0, data.data()); });
  EXPECT_FALSE(std::filesystem::exists(path_));
  writer.commit();
  throws(code, {"committed already"}, [&] { writer.commit(); });
  throws(code, {"committed already"}, [&] { writer.write(0, data.data()); });
  EXPECT_EQ(File::open(path_).entries().size(), 2u);
}

TEST_F(WriterTest, PartsAreOneBehindAnother) {
  Writer writer(path_, {{"a", Dtype::u8, {10}}, {"e", Dtype::u8, {0}}, {"b", Dtype::u8, {2}}});
  const Bytes data = pattern(12, 1);
  const Errc code = Errc::InvalidArgument;
  writer.write_part(0, data.data(), 4);
  writer.write_part(0, data.data() + 4, 0);
  throws(code, {"7 bytes", "'a'", "6 are left"}, [&] { writer.write_part(0, data.data(), 7); });
  throws(code, {"10 bytes", "6 are left"}, [&] { writer.write(0, data.data()); });
  throws(code, {"('a') is next"}, [&] { writer.write_part(2, data.data(), 1); });
  throws(code, {"before parameter 0"}, [&] { writer.commit(); });
  writer.write_part(0, data.data() + 4, 6);
  writer.write_part(1, nullptr, 0);
  writer.write(2, data.data() + 10);
  writer.commit();
  const File file = File::open(path_);
  EXPECT_EQ(bytes_of(file, file.entries()[0]), Bytes(data.begin(), data.begin() + 10));
  EXPECT_EQ(bytes_of(file, file.entries()[2]), Bytes(data.begin() + 10, data.end()));
}

TEST_F(WriterTest, LeavesNothingWithoutCommit) {
  put("w.st", "old");
  {
    Writer first(path_, {{"a", Dtype::u8, {2}}});
    EXPECT_EQ(files(), 2);
    Writer second = std::move(first);
    second.write(0, pattern(2, 1).data());
  }
  EXPECT_EQ(files(), 1);
  EXPECT_EQ(std::filesystem::file_size(path_), 3u);
}

TEST_F(WriterTest, ReplacesTheFileWithTheModeOfAnyNewFile) {
  put("w.st", "old");
  const mode_t before = ::umask(0027);
  put_tensors("w.st", {{"a", Dtype::u8, {2}}});
  ::umask(before);
  EXPECT_EQ(files(), 1);
  EXPECT_EQ(File::open(path_).entries().size(), 1u);
  EXPECT_EQ(static_cast<int>(std::filesystem::status(path_).permissions()), 0640);
}

TEST_F(WriterTest, ReportsWhatTheSystemRefuses) {
  const Path missing = folder_ / "no" / "w.st";
  throws(Errc::System, {missing}, [&] { Writer(missing, {}); });
  throws(Errc::System, {folder_}, [&] { Writer(folder_, {}); });
  throws(Errc::InvalidArgument, {"names no file"}, [&] { Writer(folder_ / "", {}); });
}

TEST_F(WriterTest, AFailedWriteNamesThePathAndMayBeTriedAgain) {
  Writer writer(path_, {{"a", Dtype::u8, {1 << 16}}});
  const Bytes data = pattern(1 << 16, 1);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  throws(Errc::System, {path_, "writing"}, [&] { writer.write(0, data.data()); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  (void)std::signal(SIGXFSZ, handler);
  writer.write(0, data.data());
  writer.commit();
  const File file = File::open(path_);
  EXPECT_EQ(bytes_of(file, file.entries()[0]), data);
}

}  // namespace
}  // namespace tenon::safetensors
