#include "wire.hpp"

#include <algorithm>
#include <bounded_json.hpp>
#include <relay/rendezvous/proof.hpp>

namespace tenon::relay {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostTypeBytes = 32;
constexpr std::size_t kMostReasonBytes = 500;

[[noreturn]] void refuse(const std::string& why) { throw Error(Errc::PeerGone, why); }

Json parse_object(const Frame& frame, const char* what) {
  Json json = detail::parse_bounded(
      frame.json, [&](const std::string& why) { refuse(std::string("its ") + what + " " + why); });
  if (!json.is_object()) refuse(std::string("its ") + what + " is no JSON object");
  return json;
}

// A field of the type wanted, or nullptr.
template <class T>
const T* find(const Json& object, const char* name) {
  const auto at = object.find(name);
  return at == object.end() ? nullptr : at->get_ptr<const T*>();
}

template <class T>
const T& field(const Json& object, const char* name, const char* what) {
  const T* const found = find<T>(object, name);
  if (found == nullptr) refuse(std::string("its ") + what + " has no valid \"" + name + "\"");
  return *found;
}

void expect_no_blob(const Frame& frame, const char* what) {
  if (!frame.blob.empty()) refuse(std::string("its ") + what + " has a blob");
}

bool is_type(std::string_view type) {
  return !type.empty() && type.size() <= kMostTypeBytes &&
         std::all_of(type.begin(), type.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; });
}

// JSON of our own making, from text that may be of others.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

void check_sent(const char* what, std::size_t bytes, std::size_t limit) {
  if (bytes <= limit) return;
  throw Error(Errc::InvalidArgument, "sending a message with " + std::to_string(bytes) +
                                         " bytes of " + what + ": the limit is " +
                                         std::to_string(limit));
}

}  // namespace

SharedBytes encode(const First& first) {
  return encode(
      FrameKind::first,
      dump({{"protocol", first.protocol}, {"library", first.library}, {"nonce", first.nonce}}));
}

First read_first(const Frame& frame) {
  const char* const what = "first frame";
  const Json json = parse_object(frame, what);
  First first;
  first.protocol = field<Json::number_unsigned_t>(json, "protocol", what);
  first.library = detail::printable(field<std::string>(json, "library", what), 32);
  if (first.protocol != kProtocol) return first;
  expect_no_blob(frame, what);
  first.nonce = field<std::string>(json, "nonce", what);
  if (!is_hex(first.nonce, kNonceBytes)) refuse("its first frame has no valid \"nonce\"");
  return first;
}

std::string text_of(const First& first) {
  return "protocol " + std::to_string(first.protocol) + " (Tenon " + first.library + ")";
}

SharedBytes encode_proof(std::string_view proof) {
  return encode(FrameKind::proof, dump({{"proof", proof}}));
}

std::string read_proof(const Frame& frame) {
  expect_no_blob(frame, "proof");
  return field<std::string>(parse_object(frame, "proof"), "proof", "proof");
}

SharedBytes encode(const Message& message, const Limits& limits) {
  const auto wrong = [](const std::string& why) {
    throw Error(Errc::InvalidArgument, "sending a message: " + why);
  };
  if (!is_type(message.type))
    wrong("\"" + detail::printable(message.type) + "\" is no type: 1 to 32 of [a-z_]");
  Json fields = detail::parse_bounded(message.fields,
                                      [&](const std::string& why) { wrong("its text " + why); });
  if (!fields.is_object()) wrong("its text is no JSON object");
  const std::string json = dump({{"type", message.type}, {"fields", std::move(fields)}});
  check_sent("JSON", json.size(), limits.frame_bytes);
  check_sent("blob", message.blob.size(), limits.blob_bytes);
  return encode(FrameKind::message, json, message.blob);
}

Message read_message(Frame&& frame) {
  const char* const what = "message";
  const Json json = parse_object(frame, what);
  const auto& type = field<std::string>(json, "type", what);
  if (!is_type(type)) refuse("its message has no valid \"type\"");
  const auto fields = json.find("fields");
  if (fields == json.end() || !fields->is_object()) refuse("its message has no valid \"fields\"");
  return {type, dump(*fields), std::move(frame.blob)};
}

SharedBytes encode(const Value& value) {
  check_sent("key and value", value.key.size() + value.bytes.size(), kMostValueBytes);
  return encode(FrameKind::value, dump({{"group", value.group}, {"key_bytes", value.key.size()}}),
                value.key + value.bytes);
}

Value read_value(const Frame& frame) {
  const char* const what = "value";
  const Json json = parse_object(frame, what);
  const auto key_bytes = field<Json::number_unsigned_t>(json, "key_bytes", what);
  if (key_bytes > frame.blob.size() || frame.blob.size() > kMostValueBytes)
    refuse("its value has impossible sizes");
  return {field<Json::number_unsigned_t>(json, "group", what), frame.blob.substr(0, key_bytes),
          frame.blob.substr(key_bytes)};
}

SharedBytes encode_alive() {
  static const SharedBytes kAlive = encode(FrameKind::alive, "{}");
  return kAlive;
}

SharedBytes encode(const Bye& bye) {
  return encode(FrameKind::bye,
                dump({{"code", name_of(bye.code)},
                      {"reason", std::string_view(bye.reason).substr(0, kMostReasonBytes)}}));
}

Bye read_bye(const Frame& frame) {
  const Json json = parse_object(frame, "last frame");
  const auto* const code = find<std::string>(json, "code");
  const auto* const reason = find<std::string>(json, "reason");
  const bool secret = code != nullptr && *code == name_of(Errc::WrongSecret);
  return {secret ? Errc::WrongSecret : Errc::PeerGone,
          reason == nullptr ? "no reason given" : detail::printable(*reason, kMostReasonBytes)};
}

}  // namespace tenon::relay
