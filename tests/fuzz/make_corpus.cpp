// Writes the seeds of the corpus: real publications, and real safetensors files.
//
//   fuzz_make_corpus FOLDER
//
// Slots are described as in the fuzzers' memory, which is small; everything else is as it was
// published.
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <tenon/safetensors.hpp>
#include <tenon/subscriber.hpp>

#include "image.hpp"

namespace tenon::fuzz {
namespace {

namespace fs = std::filesystem;

std::vector<Parameter> parameters() {
  return {{"embed", Dtype::bf16, {40, 8}},
          {"empty", Dtype::f32, {3, 0}},
          {"mlp", Dtype::f32, {4, 16}, {}, Box{{8, 16}, {4, 0}}},
          {"scalar", Dtype::i64, {}},
          {"head", Dtype::bf16, {320}, "embed"},
          {"norm", Dtype::f8_e4m3, {600}, {}, Box{{1200}, {600}}},
          {"mask", Dtype::boolean, {7, 9, 11}},
          {"last", Dtype::u8, {1000}}};
}

void write(const fs::path& path, const void* bytes, std::size_t size) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
  if (!file.flush()) throw SystemError(errno, "writing " + path.string());
}

void describe_slots(const Image& image, MemoryKind memory) {
  format::Header& h = image.header();
  std::memset(h.instance, kInstance, sizeof(h.instance));
  h.memory_kind = static_cast<std::uint32_t>(memory);
  const detail::SegmentBytes segment(image.bytes.get(),
                                     detail::read_facts(h, image.size, ::geteuid()));
  const Layout layout = segment.parse_layout();
  std::uint64_t largest = 0, offset = 0;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b)
    largest = std::max(largest, layout.bucket_bytes(b));
  for (std::uint64_t i = 0; i < segment.facts().slots; ++i) {
    const std::uint64_t bytes = segment.facts().mode == Mode::streaming
                                    ? largest
                                    : layout.bucket_bytes(i % layout.bucket_count());
    format::Slot& slot = segment.raw_slot(i);
    slot.handle_kind = h.memory_kind;
    slot.allocation = memory == MemoryKind::host ? 0 : 2;
    slot.offset = offset;
    slot.bytes = format::round_up(bytes, format::kAlignment);
    slot.mapped_bytes = 64 << 10;
    offset += slot.bytes;
  }
}

/// What is changed behind a publication's back.
using Damage = void (*)(format::Header& header);

void publish(const fs::path& to, const Layout& layout, const PublisherOptions& options,
             int versions, MemoryKind memory = MemoryKind::host, Damage damage = nullptr) {
  const std::string name = "fuzz-corpus-" + std::to_string(::getpid());
  Publisher publisher = Publisher::create(name, layout, options);
  const std::vector<std::byte> bytes(4096, std::byte{7});
  const std::vector<Source> sources(layout.size(), Source{bytes.data()});
  for (int v = 0; v < versions; ++v) publisher.publish(sources);
  const auto found =
      detail::find_publication(name, ::geteuid(), detail::SharedObject::Access::read_only);
  const detail::Segment& segment = found.segment.value();
  const std::size_t size = segment.facts().sections.end;
  const std::byte* first = segment.object().data();
  std::vector<std::uint8_t> input = input_of(first, size);
  const Image image = Image::of(input.data(), input.size());
  describe_slots(image, memory);
  if (damage != nullptr) damage(image.header());
  input = input_of(image.bytes.get(), image.size);
  for (const fs::path folder : {"publication", "changing"}) {
    fs::create_directories(to / folder);
    input[0] = 0;
    write(to / folder / options.label, input.data(), input.size());
    input[0] = 0xFF;  // everything is mended
    write(to / folder / (options.label + "-mended"), input.data(), input.size());
  }
}

void publish_all(const fs::path& to) {
  const Layout small = plan(parameters(), {.bucket_bytes = 1000, .metadata = R"({"format":"pt"})"});
  const Layout one = plan(parameters(), {.bucket_bytes = 8192, .metadata = ""});
  const Layout seven = plan(parameters(), {.bucket_bytes = 16, .metadata = "{}"});
  publish(to, small, {.mode = Mode::in_place, .label = "in-place"}, 2);
  publish(to, one, {.mode = Mode::in_place, .label = "one-bucket", .checksums = true}, 1);
  publish(to, small, {.mode = Mode::double_buffered, .label = "double"}, 3);
  publish(to, small, {.mode = Mode::double_buffered, .label = "checksums", .checksums = true}, 2);
  publish(to, small, {.mode = Mode::double_buffered, .label = "nothing-yet"}, 0);
  publish(to, seven, {.mode = Mode::double_buffered, .label = "seven-buckets"}, 1);
  publish(to, small, {.mode = Mode::streaming, .slots = 2, .label = "streaming"}, 3);
  publish(to, small, {.mode = Mode::double_buffered, .label = "device"}, 2, MemoryKind::cuda);
}

// Findings that chance is unlikely to meet again.
void publish_findings(const fs::path& to) {
  // Numbers at the end of 64 bits: behind the last one came record 0, whose bucket is another. Only
  // some numbers of buckets let the entries of both ends stand side by side in the log.
  std::vector<Parameter> eleven;
  for (std::uint64_t i = 0; i < 11; ++i)
    eleven.push_back({"p" + std::to_string(i), Dtype::u8, {256 * (i + 1)}});
  publish(to, plan(eleven, {.bucket_bytes = 16, .metadata = ""}),
          {.mode = Mode::double_buffered, .label = "last-records"}, 1, MemoryKind::host,
          [](format::Header& h) { h.current = ~std::uint64_t{0} - 3; });
  publish(to, plan(parameters(), {.bucket_bytes = 1000, .metadata = ""}),
          {.mode = Mode::streaming, .slots = 2, .label = "last-line"}, 3, MemoryKind::host,
          [](format::Header& h) { h.oldest = ~std::uint64_t{0} - 5; });
}

void write_text(const fs::path& path, std::uint64_t length, const std::string& behind) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  write(path, (file + behind).data(), 8 + behind.size());
}

void write_safetensors(const fs::path& to) {
  fs::create_directories(to);
  {
    safetensors::Writer writer(
        to / "file", {{"a", Dtype::f32, {2, 3}}, {"b", Dtype::u8, {5}}, {"c", Dtype::bf16, {}}},
        {{"format", "pt"}});
    const std::vector<std::byte> bytes(64);
    for (const std::size_t i : writer.order()) writer.write(i, bytes.data());
    writer.commit();
  }
  const std::string header =
      R"({"x":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]},"e":{"dtype":"BOOL","shape":[0],"data_offsets":[16,16]},"__metadata__":{"k":"v\u00e9"}})";
  write_text(to / "made-up-data", (1ULL << 56U) | 16, header);
  write_text(to / "truncated", header.size(), header + "0123456");
  const std::string index =
      R"({"metadata":{"total_size":16,"deep":[[[{}]]]},"weight_map":{"x":"model-1.safetensors","y":"model-2.safetensors"}})";
  write(to / "index", index.data(), index.size());
}

/// A frame as fuzz_hello reads it in short form.
std::string short_frame(char kind, const std::string& json, const std::string& blob = {}) {
  const auto size = [](const std::string& text) {
    return std::string{static_cast<char>(text.size() & 0xFF), static_cast<char>(text.size() >> 8)};
  };
  return kind + size(json) + size(blob) + json + blob;
}

void write_hello(const fs::path& to) {
  fs::create_directories(to);
  const auto put = [&](const char* name, char mode, char piece, const std::string& rest) {
    const std::string input = std::string{mode, piece} + rest;
    write(to / name, input.data(), input.size());
  };
  const std::string first =
      short_frame(1, R"({"library":"1","nonce":")" + std::string(64, 'a') + R"(","protocol":1})");
  const std::string proof = short_frame(2, R"({"proof":")" + std::string(64, '0') + R"("})");
  const std::string hello = short_frame(3, R"({"type":"hello","fields":{"a":[1,{}]}})", "layout");
  const std::string talk = short_frame(3, R"({"type":"step","fields":{"n":1}})") +
                           short_frame(4, R"({"group":1,"key_bytes":3})", "keyvalue") +
                           short_frame(5, "{}") +
                           short_frame(6, R"({"code":"PeerGone","reason":"done"})");
  put("sender-joins", 2 | 4 | 8, 7, hello + talk);
  put("receiver-joins", 1 | 2 | 4 | 8, 1, hello + talk);
  put("own-first", 2 | 8, 0, first + hello + talk);
  put("wrong-proof", 8, 3, first + proof + hello);
  put("other-protocol", 1 | 8, 0, short_frame(1, R"({"library":"9","protocol":2})"));
  put("refused", 1 | 8, 0, first + short_frame(6, R"({"code":"WrongSecret","reason":"no"})"));
  put("whole-frames", 2 | 4, 0,
      std::string("TNR\3\x1d\0\0\0\0\0\0\0\0\0\0\0", 16) + R"({"type":"a","fields":{"b":1}})");
  put("deep", 2 | 4 | 8, 0,
      short_frame(
          3, R"({"type":"a","fields":)" + std::string(900, '[') + std::string(900, ']') + "}"));
}

}  // namespace
}  // namespace tenon::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: fuzz_make_corpus FOLDER\n");
    return 2;
  }
  try {
    tenon::fuzz::publish_all(argv[1]);
    tenon::fuzz::publish_findings(argv[1]);
    tenon::fuzz::write_safetensors(std::filesystem::path(argv[1]) / "safetensors");
    tenon::fuzz::write_hello(std::filesystem::path(argv[1]) / "hello");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "fuzz_make_corpus: %s\n", e.what());
    return 1;
  }
  return 0;
}
