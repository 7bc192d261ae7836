// What passes over a connection: frames of a fixed header, JSON, and bytes.
//
//   0        3      4            8                      16
//   +--------+------+------------+----------------------+------+------+
//   | "TNR"  | kind | JSON bytes | blob bytes           | JSON | blob |
//   +--------+------+------------+----------------------+------+------+
//             u8     u32 LE       u64 LE
//
// The header decides every byte of itself, so a frame that is encoded again is the frame as sent.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tenon::relay {

enum class FrameKind : std::uint8_t {
  first = 1,    ///< in clear: protocol, library, nonce
  proof = 2,    ///< of the secret
  message = 3,  ///< Message; the first of each side is hello and welcome
  value = 4,    ///< of a group's store
  alive = 5,    ///< says nothing else
  bye = 6       ///< why the connection ends
};

struct Frame {
  FrameKind kind{};
  std::string json{};
  std::string blob{};
};

/// Of one frame. Checked before anything is allocated.
struct FrameLimits {
  std::size_t json_bytes = 0;
  std::size_t blob_bytes = 0;
};

/// An encoded frame, which several connections may be sending.
using SharedBytes = std::shared_ptr<const std::string>;

[[nodiscard]] SharedBytes encode(FrameKind kind, std::string_view json, std::string_view blob = {});

/// Cuts a stream of bytes into frames. Memory grows with the bytes that came, not with what a
/// header says will come.
///
/// Errors:   PeerGone, when the bytes are no frame or one beyond the limits; then of no more use.
class FrameReader {
 public:
  /// Takes bytes off the front of `bytes`: as many as the next frame needs. Nothing when they ran
  /// out before its end.
  [[nodiscard]] std::optional<Frame> read(std::string_view& bytes, const FrameLimits& limits);

 private:
  static constexpr std::size_t kHeaderBytes = 16;

  void judge_header(const FrameLimits& limits);

  std::array<char, kHeaderBytes> header_{};
  std::size_t header_got_ = 0;
  std::size_t json_bytes_ = 0, blob_bytes_ = 0;
  Frame frame_;
};

}  // namespace tenon::relay
