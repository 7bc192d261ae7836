// Writing safetensors: header, data, and one rename that makes the file visible.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <tenon/safetensors.hpp>

namespace tenon::safetensors {
namespace {

constexpr std::uint64_t kLengthBytes = 8;
// So that every offset in the file is one that the system can express.
constexpr std::uint64_t kMaxDataBytes =
    std::numeric_limits<std::int64_t>::max() - kLengthBytes - kMaxHeaderBytes;
constexpr int kNameAttempts = 100;

[[noreturn]] void refuse(const std::string& what) { throw Error(Errc::InvalidArgument, what); }

std::string shown_path(const std::filesystem::path& path) { return "'" + path.string() + "'"; }

std::string shown(const std::vector<Parameter>& parameters, std::size_t i) {
  return "parameter " + std::to_string(i) + " (\"" + parameters[i].name + "\")";
}

std::string json_string(const std::string& text, const std::string& what) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    refuse(what + " is not valid UTF-8, which is all that a safetensors header can hold");
  }
}

std::string json_list(const std::vector<std::uint64_t>& numbers) {
  return nlohmann::json(numbers).dump();
}

std::uint64_t checked_size(const std::vector<Parameter>& parameters, std::size_t i) {
  const Parameter& p = parameters[i];
  const std::string what = shown(parameters, i);
  if (p.name == "__metadata__") refuse(what + " has the name that the format keeps for metadata");
  if (!is_dtype(static_cast<std::uint8_t>(p.dtype))) refuse(what + " has no valid dtype");
  if (p.shape.size() > kMaxRank) {
    refuse(what + " has " + std::to_string(p.shape.size()) + " dimensions, more than " +
           std::to_string(kMaxRank));
  }
  if (!p.tied_to.empty()) {
    refuse(what + " shares its bytes with \"" + p.tied_to +
           "\", which a safetensors file cannot say; leave it out");
  }
  const auto bytes = byte_size(p.dtype, Shape(p.shape.data(), p.shape.size()));
  if (!bytes)
    refuse(what + " of shape " + json_list(p.shape) + " is more bytes than 63 bits count");
  return *bytes;
}

std::string random_name() {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::random_device random;
  std::uniform_int_distribution<std::size_t> letter(0, kLetters.size() - 1);
  std::string name = ".tenon-";
  for (int i = 0; i < 12; ++i) name += kLetters[letter(random)];
  return name + ".tmp";
}

}  // namespace

Writer::Writer(std::filesystem::path path, std::vector<Parameter> parameters,
               const Metadata& metadata)
    : path_(std::move(path)), parameters_(std::move(parameters)) {
  // Found out now rather than by the rename, when everything is written.
  if (!path_.has_filename()) refuse("writing " + shown_path(path_) + ": the path names no file");
  if (std::error_code ignored; std::filesystem::is_directory(path_, ignored)) {
    throw SystemError(EISDIR, "writing " + shown_path(path_));
  }
  lay_out();
  const std::string text = header(metadata);
  data_offset_ = text.size();
  create_temporary();
  put(0, text.data(), text.size());
}

void Writer::lay_out() {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    places_.push_back({0, checked_size(parameters_, i)});
    if (!names.insert(parameters_[i].name).second) {
      refuse(shown(parameters_, i) + " has the name of an earlier parameter");
    }
    order_.push_back(i);
  }
  // Each tensor is then a multiple of the element size of the next one, so all are aligned.
  std::stable_sort(order_.begin(), order_.end(), [this](std::size_t a, std::size_t b) {
    return info(parameters_[a].dtype).bytes > info(parameters_[b].dtype).bytes;
  });
  std::uint64_t end = 0;
  for (const std::size_t i : order_) {
    if (places_[i].bytes > kMaxDataBytes - end) {
      refuse("the parameters up to " + shown(parameters_, i) + " need more bytes than a file has");
    }
    places_[i].begin = end;
    end += places_[i].bytes;
  }
}

// By hand, because the tensors are to be in file order and a DOM that keeps order is quadratic.
std::string Writer::header(const Metadata& metadata) const {
  std::string json;
  for (const auto& [key, value] : metadata) {
    json += json.empty() ? "{\"__metadata__\":{" : ",";
    json += json_string(key, "a metadata key") + ":" +
            json_string(value, "the metadata value of \"" + key + "\"");
  }
  json += json.empty() ? "{" : "}";
  for (const std::size_t i : order_) {
    const Parameter& p = parameters_[i];
    const Place& place = places_[i];
    if (json != "{") json += ",";
    json += json_string(p.name, "the name of parameter " + std::to_string(i)) + ":{\"dtype\":\"" +
            std::string(info(p.dtype).name) + "\",\"shape\":" + json_list(p.shape) +
            ",\"data_offsets\":" + json_list({place.begin, place.begin + place.bytes}) + "}";
  }
  json += "}";
  json.append((kLengthBytes - json.size() % kLengthBytes) % kLengthBytes, ' ');
  if (json.size() > kMaxHeaderBytes) {
    refuse("the header of " + shown_path(path_) + " would have " + std::to_string(json.size()) +
           " bytes, over the limit of " + std::to_string(kMaxHeaderBytes));
  }
  std::string length;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length += static_cast<char>(json.size() >> (8 * i) & 0xff);
  }
  return length + json;
}

// SystemError{errno, ...} below is in braces so that errno is read before its message is built.
void Writer::create_temporary() {
  int error = EEXIST;
  for (int attempt = 0; error == EEXIST && attempt < kNameAttempts; ++attempt) {
    auto name = std::make_unique<const std::filesystem::path>(path_.parent_path() / random_name());
    // Not mkstemp(): its mode is 0600, and the file is to be as readable as any other.
    Descriptor fd(::open(name->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (fd.get() >= 0) {
      temporary_.reset(name.release());
      fd_ = std::move(fd);
      return;
    }
    error = errno;
  }
  throw SystemError{error, "creating a temporary file next to " + shown_path(path_)};
}

void Writer::put(std::uint64_t offset, const char* data, std::uint64_t bytes) {
  while (bytes != 0) {
    const ssize_t n = ::pwrite(fd_.get(), data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {  // never 0 for a regular file, but that must not loop
      throw SystemError{n == 0 ? EIO : errno, "writing " + std::to_string(bytes) +
                                                  " bytes at byte " + std::to_string(offset) +
                                                  " of " + shown_path(path_)};
    }
    data += n;
    offset += static_cast<std::uint64_t>(n);
    bytes -= static_cast<std::uint64_t>(n);
  }
}

void Writer::check_next(std::size_t parameter_index) const {
  if (!temporary_) refuse("writing to " + shown_path(path_) + ", which was committed already");
  if (next_ == order_.size() || order_[next_] != parameter_index) {
    refuse("writing parameter " + std::to_string(parameter_index) + " to " + shown_path(path_) +
           ", where " +
           (next_ == order_.size() ? "all were written already"
                                   : shown(parameters_, order_[next_]) + " is next in order()"));
  }
}

void Writer::write(std::size_t parameter_index, const std::byte* data) {
  check_next(parameter_index);
  write_part(parameter_index, data, places_[parameter_index].bytes);
}

void Writer::write_part(std::size_t parameter_index, const std::byte* data, std::uint64_t bytes) {
  check_next(parameter_index);
  const Place& place = places_[parameter_index];
  if (bytes > place.bytes - written_) {
    refuse("writing " + std::to_string(bytes) + " bytes of " + shown(parameters_, parameter_index) +
           ", of which " + std::to_string(place.bytes - written_) + " are left");
  }
  if (data == nullptr && bytes != 0) {
    refuse("writing " + shown(parameters_, parameter_index) + " of " + std::to_string(place.bytes) +
           " bytes from a null pointer");
  }
  put(data_offset_ + place.begin + written_, reinterpret_cast<const char*>(data), bytes);
  written_ += bytes;
  if (written_ < place.bytes) return;
  ++next_;
  written_ = 0;
}

void Writer::commit() {
  if (!temporary_) refuse("committing " + shown_path(path_) + ", which was committed already");
  if (next_ != order_.size()) {
    refuse("committing " + shown_path(path_) + " before " + shown(parameters_, order_[next_]) +
           " was written");
  }
  // Before the rename: after a crash the name must not lead to bytes that never reached the disk.
  if (::fsync(fd_.get()) != 0) throw SystemError{errno, "flushing " + shown_path(path_)};
  if (::rename(temporary_->c_str(), path_.c_str()) != 0) {
    throw SystemError{errno, "renaming " + shown_path(*temporary_) + " to " + shown_path(path_)};
  }
  delete temporary_.release();  // the name is gone, so there is nothing to unlink
}

void Writer::Unlink::operator()(const std::filesystem::path* path) const noexcept {
  if (::unlink(path->c_str()) != 0) {
    const int error = errno;
    tenon::detail::report({"removing ", shown_path(*path), ": ", std::strerror(error)});
  }
  delete path;
}

}  // namespace tenon::safetensors
