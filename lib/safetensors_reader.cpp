// Reading safetensors: the header's checks, files, checkpoints of several files.
//
// JSON is read through nlohmann's SAX interface. Its DOM would keep the last of two equal keys
// without a word, and two readers of one file would then see different tensors. The SAX parser
// keeps its own stack (one bit per level), and what reads it below bounds the depth.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bounded_json.hpp>
#include <cerrno>
#include <cstring>
#include <limits>
#include <locale>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <tenon/safetensors.hpp>
#include <unordered_map>

namespace tenon::safetensors {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;

using detail::printable;

template <class... Parts>
std::string text_of(const Parts&... parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());  // the program's own locale may group digits
  (out << ... << parts);
  return out.str();
}

std::string shown(std::string_view text) { return text_of('"', printable(text), '"'); }
std::string shown_path(const std::filesystem::path& path) {
  return text_of('\'', path.string(), '\'');
}

std::string listed(const std::vector<std::uint64_t>& numbers) {
  std::string out = "[";
  for (const std::uint64_t n : numbers) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
  return out + "]";
}

template <class... Parts>
[[noreturn]] void bad(std::string_view source, const Parts&... parts) {
  throw Error(Errc::BadFile, text_of(source, ": ", parts...));
}

// nlohmann takes a zero byte for the end of the text and would not look at what follows.
void refuse_zero_bytes(std::string_view json, std::string_view source) {
  if (json.find('\0') != std::string_view::npos) bad(source, "not valid JSON: it has a zero byte");
}

// Takes exactly what a header may hold, in one pass, and throws at the first thing that it may not.
class HeaderSax final : public Json::json_sax_t {
 public:
  explicit HeaderSax(std::string_view source) : source_(source) {}

  Header header;  // offsets are still those in the data

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool number_integer(std::int64_t) override { unexpected("a negative number"); }
  bool number_float(double, const std::string& text) override {
    unexpected(text_of("the number ", printable(text), ", no unsigned 64-bit integer,"));
  }
  bool binary(Json::binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t, const std::string&, const Json::exception& error) override {
    fail("is not valid JSON in UTF-8: ", printable(error.what()));
  }

  bool start_object(std::size_t) override {
    if (at_ != At::outside && at_ != At::header) unexpected("an object");
    const bool is_metadata = key_ == "__metadata__";
    at_ = at_ == At::outside ? At::header : is_metadata ? At::metadata : At::entry;
    dtype_.reset();
    shape_.reset();
    offsets_.reset();
    return true;
  }

  bool key(std::string& key) override {
    if (at_ == At::header) {
      if (!names_.insert(key).second) fail("names ", shown(key), " twice");
      key_ = key;
      return true;
    }
    field_ = key;
    if (at_ == At::metadata) {
      if (header.metadata.count(key) != 0) fail("has ", shown(key), " twice in __metadata__");
      return true;
    }
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      fail_tensor("has the field ", shown(key), "; only dtype, shape and data_offsets may be");
    }
    const bool again =
        key == "dtype" ? dtype_.has_value() : (key == "shape" ? shape_ : offsets_).has_value();
    if (again) fail_tensor("has ", key, " twice");
    return true;
  }

  bool end_object() override {
    if (at_ == At::entry) finish_tensor();
    at_ = At::header;
    return true;
  }

  bool string(std::string& text) override {
    if (at_ == At::metadata) {
      header.metadata.emplace(field_, text);
      return true;
    }
    if (at_ != At::entry || field_ != "dtype") unexpected("the string " + shown(text));
    dtype_ = dtype_from_name(text);
    if (!dtype_) {
      std::string known;
      for (const DtypeInfo& d : kDtypes) known += text_of(known.empty() ? "" : ", ", d.name);
      fail_tensor("has the dtype ", shown(text), ", which is not known; known are ", known);
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (at_ != At::entry || field_ == "dtype") unexpected("an array");
    at_ = field_ == "shape" ? At::shape : At::offsets;
    (at_ == At::shape ? shape_ : offsets_).emplace();
    return true;
  }

  bool number_unsigned(std::uint64_t number) override {
    if (at_ != At::shape && at_ != At::offsets) unexpected(text_of("the number ", number));
    auto& numbers = at_ == At::shape ? *shape_ : *offsets_;
    const std::size_t most = at_ == At::shape ? kMaxRank : 2;
    if (numbers.size() == most) fail_tensor("has more than ", most, " numbers in its ", field_);
    numbers.push_back(number);
    return true;
  }

  bool end_array() override {
    at_ = At::entry;
    return true;
  }

 private:
  enum class At { outside, header, metadata, entry, shape, offsets };

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    bad(source_, "the header ", parts..., "; write the file again with a safetensors library");
  }
  template <class... Parts>
  [[noreturn]] void fail_tensor(const Parts&... parts) const {
    bad(source_, "tensor ", shown(key_), " ", parts...);
  }

  [[noreturn]] void unexpected(const std::string& found) const {
    if (at_ == At::outside) fail("is ", found, ", not an object");
    if (at_ == At::header) fail("has ", found, " for ", shown(key_), ", not an object");
    if (at_ == At::metadata) {
      fail("has ", found, " for ", shown(field_), " in __metadata__, not a string");
    }
    fail_tensor("has ", found, " in its ", field_);
  }

  void finish_tensor() {
    if (!dtype_) fail_tensor("has no dtype");
    if (!shape_) fail_tensor("has no shape");
    if (!offsets_) fail_tensor("has no data_offsets");
    const auto offsets = [&] { return "data_offsets " + listed(*offsets_); };
    const auto shape = [&] {
      return text_of("shape ", listed(*shape_), " of ", info(*dtype_).name);
    };
    if (offsets_->size() != 2) fail_tensor("has ", offsets(), ", not [begin, end]");
    const std::uint64_t begin = (*offsets_)[0], end = (*offsets_)[1];
    if (end < begin) fail_tensor("has ", offsets(), ", which end before they begin");
    const auto needed = byte_size(*dtype_, Shape(shape_->data(), shape_->size()));
    if (!needed) fail_tensor("has ", shape(), ", more bytes than 63 bits count");
    if (*needed != end - begin) {
      fail_tensor("has ", shape(), ", which is ", *needed, " bytes, but ", offsets(),
                  ", which are ", end - begin);
    }
    header.entries.push_back({Parameter{key_, *dtype_, std::move(*shape_)}, begin, end - begin});
  }

  std::string_view source_;
  At at_ = At::outside;
  std::set<std::string> names_;
  std::string key_;    // of the header: a tensor's name or __metadata__
  std::string field_;  // of that entry
  std::optional<Dtype> dtype_;
  std::optional<std::vector<std::uint64_t>> shape_, offsets_;
};

// In order of offset, each tensor begins where the one before it ends, and the last at the end.
void check_cover(const std::vector<Entry>& entries, std::uint64_t data_bytes,
                 std::string_view source) {
  std::uint64_t covered = 0;
  const Entry* before = nullptr;
  for (const Entry& entry : entries) {
    if (entry.offset != covered) {
      bad(source, "tensor ", shown(entry.parameter.name), " begins at byte ", entry.offset,
          " of the data, but ", before ? "tensor " + shown(before->parameter.name) : "what is",
          " before it ends at ", covered, ": ",
          entry.offset < covered ? "they overlap" : "a hole that belongs to no tensor");
    }
    covered += entry.bytes;
    before = &entry;
  }
  const std::string sizes =
      text_of("the tensors need ", covered, " bytes of data and the file holds ", data_bytes);
  if (covered > data_bytes) {
    bad(source, sizes, ": it is truncated by ", covered - data_bytes,
        " bytes; check that its download or copy finished");
  }
  if (covered < data_bytes) {
    bad(source, sizes, ": it has ", data_bytes - covered,
        " trailing bytes that belong to no tensor; check what was appended to it");
  }
}

// An index may hold what it likes beside its weight_map, so this is a DOM, with its input watched.
Json parse_watched(std::string_view json, std::string_view source) {
  return detail::parse_bounded(json,
                               [&](const std::string& why) { bad(source, "the index ", why); });
}

// SystemError{errno, ...} below is in braces so that errno is read before its message is built.
struct Opened {
  Descriptor fd;
  std::uint64_t bytes;
};

Opened open_regular(const std::filesystem::path& path) {
  // Non-blocking, because opening a FIFO would otherwise wait for a writer.
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0) throw SystemError{errno, "opening " + shown_path(path)};
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw SystemError{errno, "looking at " + shown_path(path)};
  if (!S_ISREG(status.st_mode)) {
    bad(shown_path(path), "it is ", S_ISDIR(status.st_mode) ? "a folder" : "not a regular file",
        "; name a .safetensors file or a *.safetensors.index.json");
  }
  return {std::move(fd), static_cast<std::uint64_t>(status.st_size)};
}

void read_fully(const Descriptor& fd, const std::filesystem::path& path, std::uint64_t offset,
                std::span<char> to) {
  const std::uint64_t end = offset + to.size();
  while (!to.empty()) {
    const ssize_t n = ::pread(fd.get(), to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      throw SystemError{errno,
                        text_of("reading bytes ", offset, " to ", end, " of ", shown_path(path))};
    }
    if (n == 0) {
      bad(shown_path(path), "it ends at byte ", offset, " where bytes up to ", end,
          " are to be read: it shrank after it was opened; check what writes to it");
    }
    to = to.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

[[noreturn]] void not_safetensors(const std::filesystem::path& path, std::string_view head,
                                  const std::string& why) {
  using Hint = std::pair<std::string_view, std::string_view>;
  constexpr std::array<Hint, 4> kHints{{
      {"version https://git-lfs", "; it is a Git LFS pointer: run git lfs pull to get the file"},
      {"PK\x03\x04", "; it is a zip archive, such as torch.save() writes"},
      {"GGUF", "; it is a GGUF file"},
      {"<", "; it looks like an HTML page: check where it was downloaded from"},
  }};
  const auto hint = std::find_if(kHints.begin(), kHints.end(),
                                 [&](const Hint& h) { return head.starts_with(h.first); });
  bad(shown_path(path), "not a safetensors file: ", why,
      hint == kHints.end() ? "; check where it came from" : hint->second);
}

// The header's length, believed only when the file can hold it.
std::uint64_t header_length(const Opened& file, const std::filesystem::path& path) {
  std::string head(std::min<std::uint64_t>(file.bytes, 32), '\0');
  read_fully(file.fd, path, 0, head);
  if (head.size() <= kLengthBytes) {
    not_safetensors(path, head, text_of("it has ", head.size(), " bytes, too few for a header"));
  }
  if (head[kLengthBytes] != '{') {
    not_safetensors(path, head, "no '{' follows the header length in its first 8 bytes");
  }
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(head[i]);
  }
  if (length > kMaxHeaderBytes) {
    not_safetensors(path, head,
                    text_of("its first 8 bytes give a header of ", length,
                            " bytes, over the limit of ", kMaxHeaderBytes));
  }
  const std::uint64_t room = file.bytes - kLengthBytes;
  if (length > room) {
    bad(shown_path(path), "the header has ", length, " bytes and the file only ", room,
        " for it: it is truncated by at least ", length - room,
        " bytes; check that its download or copy finished");
  }
  return length;
}

WeightMap read_index(const std::filesystem::path& index) {
  const Opened file = open_regular(index);
  if (file.bytes > kMaxHeaderBytes) bad(shown_path(index), "too large: ", file.bytes, " bytes");
  std::string json(file.bytes, '\0');
  read_fully(file.fd, index, 0, json);
  return parse_index(json, shown_path(index));
}

// The files that an index names, open, and checked against it in both directions.
std::vector<File> open_index(const std::filesystem::path& index) {
  constexpr const char* kCheck = "; check that index and files are of one checkpoint";
  WeightMap map = read_index(index);
  std::set<std::string> names;
  for (const auto& [tensor, name] : map) names.insert(name);
  std::vector<File> files;
  for (const std::string& name : names) {
    const std::filesystem::path path = index.parent_path() / name;
    try {
      files.push_back(File::open(path));
    } catch (const SystemError& error) {
      throw SystemError(error.error(), text_of("opening ", shown_path(path), ", which the index ",
                                               shown_path(index), " names"));
    }
    for (const Entry& entry : files.back().entries()) {
      const auto place = map.find(entry.parameter.name);
      if (place == map.end() || place->second != name) {
        bad(shown_path(index), "the file ", shown_path(path), " holds tensor ",
            shown(entry.parameter.name), ", which the index does not place there", kCheck);
      }
      map.erase(place);
    }
  }
  if (!map.empty()) {
    bad(shown_path(index), "the index places tensor ", shown(map.begin()->first), " in ",
        shown(map.begin()->second), ", which does not hold it", kCheck);
  }
  return files;
}

}  // namespace

Header parse_header(std::string_view json, std::uint64_t data_bytes, std::string_view source) {
  constexpr std::uint64_t kMaxFileBytes = std::numeric_limits<std::int64_t>::max();
  if (json.size() > kMaxHeaderBytes) {
    bad(source, "the header has ", json.size(), " bytes, over the limit of ", kMaxHeaderBytes);
  }
  if (json.empty() || json[0] != '{') bad(source, "the header does not begin with '{'");
  const std::uint64_t data_offset = kLengthBytes + json.size();
  if (data_bytes > kMaxFileBytes - data_offset) {
    bad(source, "no file holds ", data_bytes, " bytes of data");
  }
  HeaderSax sax(source);
  refuse_zero_bytes(json, source);
  if (!Json::sax_parse(json.begin(), json.end(), &sax)) bad(source, "the header is not valid JSON");
  auto& entries = sax.header.entries;
  // By size too: an empty tensor comes before the one that begins where it does.
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  check_cover(entries, data_bytes, source);
  for (Entry& entry : entries) entry.offset += data_offset;
  return std::move(sax.header);
}

WeightMap parse_index(std::string_view json, std::string_view source) {
  const Json index = parse_watched(json, source);
  if (!index.contains("weight_map") || !index["weight_map"].is_object()) {
    bad(source, "the index has no object weight_map; check that it is a safetensors index");
  }
  WeightMap map;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    // The index may come from anywhere; it must not make us open files elsewhere.
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
      bad(source, "weight_map places tensor ", shown(tensor), " in ", printable(file.dump()),
          "; only plain names of files in the index's own folder may be there");
    }
    map.emplace(tensor, name);
  }
  return map;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0 && ::close(fd_) != 0) {
    const int error = errno;
    tenon::detail::report(
        {"closing file descriptor ", std::to_string(fd_), ": ", std::strerror(error)});
  }
}

File File::open(const std::filesystem::path& path) {
  Opened file = open_regular(path);
  std::string json(header_length(file, path), '\0');
  read_fully(file.fd, path, kLengthBytes, json);
  Header header = parse_header(json, file.bytes - kLengthBytes - json.size(), shown_path(path));
  return {path, std::move(file.fd), std::move(header)};
}

void File::read(const Entry& entry, std::uint64_t offset, std::byte* to,
                std::uint64_t bytes) const {
  if (offset > entry.bytes || bytes > entry.bytes - offset) {
    throw Error(Errc::InvalidArgument,
                text_of("reading ", bytes, " bytes at ", offset, " of tensor ",
                        shown(entry.parameter.name), ", which has ", entry.bytes));
  }
  read_fully(fd_, path_, entry.offset + offset, {reinterpret_cast<char*>(to), bytes});
}

Checkpoint Checkpoint::open(const std::vector<std::filesystem::path>& paths) {
  Checkpoint checkpoint;
  for (const std::filesystem::path& path : paths) {
    if (path.native().ends_with(".safetensors.index.json")) {
      for (File& file : open_index(path)) checkpoint.files_.push_back(std::move(file));
    } else {
      checkpoint.files_.push_back(File::open(path));
    }
  }
  checkpoint.collect();
  return checkpoint;
}

void Checkpoint::collect() {
  std::unordered_map<std::string_view, const File*> homes;
  for (std::size_t f = 0; f < files_.size(); ++f) {
    const File& file = files_[f];
    for (std::size_t e = 0; e < file.entries().size(); ++e) {
      const Entry& entry = file.entries()[e];
      const auto [home, is_new] = homes.emplace(entry.parameter.name, &file);
      if (!is_new) {
        bad(shown_path(file.path()), "tensor ", shown(entry.parameter.name), " is also in ",
            shown_path(home->second->path()), "; name each file once, and files of one model only");
      }
      parameters_.push_back(entry.parameter);
      places_.push_back({f, e});
      bytes_ += entry.bytes;
    }
    metadata_.insert(file.metadata().begin(), file.metadata().end());
  }
  if (!parameters_.empty()) return;
  bad(files_.empty() ? "checkpoint" : shown_path(files_.front().path()), "no tensors in ",
      files_.size(), " files; check which files were named");
}

void Checkpoint::read(std::size_t parameter_index, std::uint64_t offset, std::byte* to,
                      std::uint64_t bytes) const {
  if (parameter_index >= places_.size()) {
    throw Error(Errc::InvalidArgument, text_of("reading parameter ", parameter_index,
                                               " of a checkpoint with ", places_.size()));
  }
  const File& file = files_[places_[parameter_index].file];
  file.read(file.entries()[places_[parameter_index].entry], offset, to, bytes);
}

}  // namespace tenon::safetensors
