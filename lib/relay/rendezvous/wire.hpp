// What the frames of a connection say, and how it is read when somebody else wrote it.
//
// Errors: those that read throw PeerGone, with what is wrong with the frame; those that write throw
//         InvalidArgument.
#pragma once

#include <cstdint>
#include <relay/rendezvous/frame.hpp>
#include <relay/rendezvous/rendezvous.hpp>
#include <string>
#include <string_view>
#include <tenon/error.hpp>

namespace tenon::relay {

inline constexpr std::uint64_t kProtocol = 1;
inline constexpr std::size_t kJoiningBytes = std::size_t{16} << 10;   ///< of JSON, before the proof
inline constexpr std::size_t kMostValueBytes = std::size_t{1} << 20;  ///< key and value

/// The first frame of each side. Every protocol there will be has it in this form: it is how two
/// that differ tell each other so.
struct First {
  std::uint64_t protocol = kProtocol;
  std::string library{};  ///< version of Tenon
  std::string nonce{};    ///< empty where the protocol is not ours
};
[[nodiscard]] SharedBytes encode(const First& first);
[[nodiscard]] First read_first(const Frame& frame);
/// "protocol 1 (Tenon 0.1.0)"
[[nodiscard]] std::string text_of(const First& first);

[[nodiscard]] SharedBytes encode_proof(std::string_view proof);
[[nodiscard]] std::string read_proof(const Frame& frame);

/// Also checks that the other end will take it.
[[nodiscard]] SharedBytes encode(const Message& message, const Limits& limits);
[[nodiscard]] Message read_message(Frame&& frame);

/// One entry of a group's store.
struct Value {
  std::uint64_t group = 0;
  std::string key{};
  std::string bytes{};
};
[[nodiscard]] SharedBytes encode(const Value& value);
[[nodiscard]] Value read_value(const Frame& frame);

[[nodiscard]] SharedBytes encode_alive();

/// Why a connection ends. Of the codes only WrongSecret and PeerGone are told to others.
struct Bye {
  Errc code = Errc::PeerGone;
  std::string reason{};
};
[[nodiscard]] SharedBytes encode(const Bye& bye);
[[nodiscard]] Bye read_bye(const Frame& frame);

}  // namespace tenon::relay
