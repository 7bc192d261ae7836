// The safetensors reader: whatever a file or an index holds is a Header that is right in itself, or
// an Error in plain text.
//
// An input is a file. One that begins with '{' is an index. Where the header's length is impossible
// (its last byte is odd), everything behind it is header and the other seven bytes are how much
// data follows, so that no data need be made up.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <tenon/safetensors.hpp>

#include "target.hpp"

namespace tenon::fuzz {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "this does not hold: %s\n", what);
  std::abort();
}

void check(const std::vector<safetensors::Entry>& entries, std::uint64_t data_offset,
           std::uint64_t data_bytes) {
  std::uint64_t at = data_offset;
  std::set<std::string> names;
  for (const safetensors::Entry& e : entries) {
    const Parameter& p = e.parameter;
    require(names.insert(p.name).second, "names are unique");
    require(byte_size(p.dtype, Shape(p.shape.data(), p.shape.size())) == e.bytes,
            "a tensor has the bytes of its shape");
    require(p.shape.size() <= kMaxRank, "a tensor has a rank there is room for");
    require(e.offset == at, "tensors follow each other");
    at += e.bytes;
  }
  require(at == data_offset + data_bytes, "tensors cover the data");
}

/// Refusing is right, in words that can be shown.
template <class Step>
void attempt(Step step) {
  try {
    step();
  } catch (const Error& error) {
    const std::string_view what = error.what();
    require(!what.empty() && what.size() < 4096, "an error is not megabytes long");
    require(std::all_of(what.begin(), what.end(), [](char c) { return c >= ' ' && c <= '~'; }),
            "an error is plain text");
    require(error.code() == Errc::BadFile, "an error says that the file is bad");
  }
}

void parse(std::string_view json, std::uint64_t data_bytes) {
  attempt([&] {
    const safetensors::Header header = safetensors::parse_header(json, data_bytes);
    check(header.entries, kLengthBytes + json.size(), data_bytes);
  });
}

void parse_index(std::string_view json) {
  attempt([&] {
    for (const auto& [tensor, file] : safetensors::parse_index(json))
      require(!file.empty() && file != "." && file != ".." && file.find('/') == file.npos &&
                  file.find('\0') == file.npos,
              "an index names files of its own folder");
  });
}

// As a program reads it: from a file, all tensors.
void read_file(const std::uint8_t* input, std::size_t size) {
  static const int fd = ::memfd_create("fuzz", MFD_CLOEXEC);
  require(fd >= 0 && ::ftruncate(fd, 0) == 0 &&
              ::pwrite(fd, input, size, 0) == static_cast<ssize_t>(size),
          "there is a file");
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  attempt([&] {
    const auto checkpoint = safetensors::Checkpoint::open({path});
    require(checkpoint.bytes() <= size, "tensors lie in the file");
    for (std::size_t i = 0; i < checkpoint.parameters().size(); ++i) {
      const Parameter& p = checkpoint.parameters()[i];
      std::vector<std::byte> room(*byte_size(p.dtype, Shape(p.shape.data(), p.shape.size())));
      checkpoint.read(i, 0, room.data(), room.size());
    }
  });
}

void run(const std::uint8_t* input, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(input), size);
  if (text.substr(0, 1) == "{") return parse_index(text);
  if (by_name_too(input, size)) read_file(input, size);
  if (size < kLengthBytes) return;
  std::uint64_t length = 0;
  std::memcpy(&length, input, sizeof(length));
  const std::string_view behind = text.substr(kLengthBytes);
  constexpr std::uint64_t kMade = 1ULL << 56U;
  if ((length & kMade) != 0) return parse(behind, length & (kMade - 1));
  const std::size_t json = std::min<std::uint64_t>(length, behind.size());
  parse(behind.substr(0, json), behind.size() - json);
}

}  // namespace
}  // namespace tenon::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  tenon::fuzz::run(input, size);
  return 0;
}
