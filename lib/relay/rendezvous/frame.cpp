#include "frame.hpp"

#include <algorithm>
#include <limits>
#include <tenon/error.hpp>
#include <utility>

namespace tenon::relay {
namespace {

constexpr std::string_view kMagic = "TNR";
constexpr std::size_t kKindAt = 3, kJsonAt = 4, kBlobAt = 8;

void put_number(std::string& out, std::uint64_t number, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) out += static_cast<char>(number >> 8 * i & 0xFF);
}

std::uint64_t get_number(std::string_view bytes) {
  std::uint64_t number = 0;
  for (std::size_t i = bytes.size(); i-- > 0;)
    number = number << 8 | static_cast<unsigned char>(bytes[i]);
  return number;
}

// Appends to `out` what is missing of `size` bytes, as far as `bytes` go; true when nothing is.
bool take(std::string_view& bytes, std::string& out, std::size_t size) {
  const std::size_t now = std::min(bytes.size(), size - out.size());
  out.append(bytes.substr(0, now));
  bytes.remove_prefix(now);
  return out.size() == size;
}

void check_size(const char* of, std::uint64_t bytes, std::size_t limit) {
  if (bytes <= limit) return;
  throw Error(Errc::PeerGone, "it announced a frame with " + std::to_string(bytes) + " bytes of " +
                                  of + ", more than the " + std::to_string(limit) +
                                  " that are taken at this point");
}

}  // namespace

SharedBytes encode(FrameKind kind, std::string_view json, std::string_view blob) {
  if (json.size() > std::numeric_limits<std::uint32_t>::max())
    throw Error(Errc::InvalidArgument, "a message of " + std::to_string(json.size()) +
                                           " bytes of JSON; put large things into its blob");
  auto out = std::make_shared<std::string>();
  out->reserve(kBlobAt + sizeof(std::uint64_t) + json.size() + blob.size());
  out->append(kMagic);
  out->push_back(static_cast<char>(kind));
  put_number(*out, json.size(), sizeof(std::uint32_t));
  put_number(*out, blob.size(), sizeof(std::uint64_t));
  out->append(json).append(blob);
  return out;
}

std::optional<Frame> FrameReader::read(std::string_view& bytes, const FrameLimits& limits) {
  if (header_got_ < kHeaderBytes) {
    const std::size_t now = std::min(bytes.size(), kHeaderBytes - header_got_);
    std::copy_n(bytes.begin(), now, header_.begin() + static_cast<std::ptrdiff_t>(header_got_));
    bytes.remove_prefix(now);
    header_got_ += now;
    if (header_got_ < kHeaderBytes) return std::nullopt;
    judge_header(limits);
  }
  if (!take(bytes, frame_.json, json_bytes_)) return std::nullopt;
  if (!take(bytes, frame_.blob, blob_bytes_)) return std::nullopt;
  header_got_ = 0;
  return std::exchange(frame_, {});
}

void FrameReader::judge_header(const FrameLimits& limits) {
  const std::string_view header(header_.data(), header_.size());
  if (header.substr(0, kMagic.size()) != kMagic)
    throw Error(Errc::PeerGone, "it does not speak the rendezvous of relays; check the port");
  const auto kind = static_cast<std::uint8_t>(header[kKindAt]);
  if (kind < static_cast<std::uint8_t>(FrameKind::first) ||
      kind > static_cast<std::uint8_t>(FrameKind::bye))
    throw Error(Errc::PeerGone, "it sent a frame of the unknown kind " + std::to_string(kind));
  const std::uint64_t json_bytes = get_number(header.substr(kJsonAt, sizeof(std::uint32_t)));
  const std::uint64_t blob_bytes = get_number(header.substr(kBlobAt));
  check_size("JSON", json_bytes, limits.json_bytes);
  check_size("blob", blob_bytes, limits.blob_bytes);
  frame_.kind = static_cast<FrameKind>(kind);
  json_bytes_ = json_bytes;
  blob_bytes_ = blob_bytes;
}

}  // namespace tenon::relay
