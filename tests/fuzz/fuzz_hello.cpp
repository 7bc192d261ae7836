// The relays' rendezvous: whatever a peer sends, before and behind its proof of the secret, is a
// message that is right in itself, or the end of the session in plain text.
//
// Byte 0 of an input says which end reads (1: the receiver), whether the peer proves that it knows
// the secret (2), with a first frame that is as it should be (4), and whether the rest is frames in
// short form (8): kind, two bytes of JSON's size, two of the blob's, both. Byte 1 is the size of
// the pieces in which it arrives, 0 for one.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <relay/rendezvous/session.hpp>
#include <string>

#include "target.hpp"

namespace tenon::relay {
namespace {

enum Mode : std::uint8_t { receiver = 1, proves = 2, good_first = 4, short_form = 8 };

const std::string kSecret = "what the fuzzer knows";

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "this does not hold: %s\n", what);
  std::abort();
}

Limits limits() {
  Limits limits;
  limits.frame_bytes = 2048;
  limits.blob_bytes = 4096;
  return limits;
}

std::string nonce_of(Role role) {
  return std::string(2 * kNonceBytes, role == Role::receiver ? '1' : '2');
}

Session make_session(Role role) {
  static const SharedBytes own = encode(Message{"own", "{}", "blob"}, limits());
  return Session({role, kSecret, nonce_of(role), own, limits()});
}

/// Takes one frame in short form off the front of `rest`; empty when there is none.
std::string take_frame(std::string_view& rest) {
  constexpr std::size_t kHead = 5;
  if (rest.size() < kHead) return {};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(rest[i]); };
  const auto kind = static_cast<FrameKind>(byte(0));
  const std::size_t json = byte(1) | byte(2) << 8, blob = byte(3) | byte(4) << 8;
  rest.remove_prefix(kHead);
  const std::string_view text = rest.substr(0, json);
  rest.remove_prefix(text.size());
  const std::string_view bytes = rest.substr(0, blob);
  rest.remove_prefix(bytes.size());
  return *encode(kind, text, bytes);
}

/// What the peer of `role` sends.
std::string stream_of(std::uint8_t mode, Role role, std::string_view rest) {
  const Role peer = role == Role::receiver ? Role::sender : Role::receiver;
  std::string stream;
  if ((mode & proves) != 0) {
    if ((mode & good_first) == 0) stream = take_frame(rest);
    if (stream.empty()) stream = *encode(First{kProtocol, "0", nonce_of(peer)});
    const SharedBytes ours = make_session(role).first();
    const bool we_receive = role == Role::receiver;
    const std::string proof =
        prove(peer, kSecret, we_receive ? *ours : stream, we_receive ? stream : *ours);
    stream += *encode_proof(proof);
  }
  if ((mode & short_form) == 0) return stream.append(rest);
  for (std::string frame; !(frame = take_frame(rest)).empty();) stream += frame;
  return stream;
}

void check(const Message& message) {
  require(!message.type.empty() && message.type.size() <= 32, "a type has 1 to 32 bytes");
  require(std::all_of(message.type.begin(), message.type.end(),
                      [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; }),
          "a type is of [a-z_]");
  require(nlohmann::json::parse(message.fields).is_object(), "fields are a JSON object");
  require(message.fields.size() <= 6 * limits().frame_bytes, "fields are bounded");
  require(message.blob.size() <= limits().blob_bytes, "a blob is bounded");
}

/// What may follow what.
class Order {
 public:
  void operator()(const Send& send) {
    FrameReader reader;
    std::string_view bytes = *send.frame;
    require(reader.read(bytes, {kJoiningBytes, limits().blob_bytes}) && bytes.empty(),
            "what is sent is one frame");
  }
  void operator()(const Proved&) { proved = true; }
  void operator()(const Joined& joined) {
    require(proved && !joined_, "one joins once, behind the proof");
    joined_ = true;
    check(joined.message);
  }
  void operator()(const Received& received) {
    require(joined_, "messages come from who has joined");
    check(received.message);
  }
  void operator()(const Told& told) {
    require(joined_, "values come from who has joined");
    require(told.value.key.size() + told.value.bytes.size() <= kMostValueBytes,
            "a value is bounded");
  }
  void operator()(const Ended& over) {
    ended = true;
    require(!over.reason.empty() && over.reason.size() < 1024, "a reason is short");
    require(std::all_of(over.reason.begin(), over.reason.end(),
                        [](char c) { return c >= ' ' && c <= '~'; }),
            "a reason is plain text");
  }
  bool proved = false, ended = false;

 private:
  bool joined_ = false;
};

/// What an action is, in a form that can be compared.
std::string text_of(const Action& action) {
  std::string text = std::to_string(action.index()) + ":";
  if (const auto* send = std::get_if<Send>(&action)) text += *send->frame;
  if (const auto* joined = std::get_if<Joined>(&action)) text += joined->message.fields;
  if (const auto* received = std::get_if<Received>(&action)) text += received->message.fields;
  if (const auto* told = std::get_if<Told>(&action)) text += told->value.key + told->value.bytes;
  if (const auto* ended = std::get_if<Ended>(&action)) text += ended->reason;
  return text;
}

std::string read(Role role, std::string_view stream, std::size_t piece, Order& order) {
  Session session = make_session(role);
  std::string all;
  for (std::size_t at = 0; at < stream.size(); at += piece) {
    for (const Action& action : session.receive(stream.substr(at, piece))) {
      require(!order.ended, "nothing follows the end");
      std::visit(order, action);
      all += text_of(action) + "\n";
    }
  }
  return all;
}

void run(const std::uint8_t* input, std::size_t size) {
  if (size < 2) return;
  const std::uint8_t mode = input[0];
  const Role role = (mode & receiver) != 0 ? Role::receiver : Role::sender;
  const std::string_view rest(reinterpret_cast<const char*>(input) + 2, size - 2);
  const std::string stream = stream_of(mode, role, rest);
  Order whole, in_pieces;
  const std::string expected = read(role, stream, std::max<std::size_t>(stream.size(), 1), whole);
  require(!whole.proved || (mode & proves) != 0, "nobody proves a secret without knowing it");
  if (input[1] != 0)
    require(read(role, stream, input[1], in_pieces) == expected, "how it arrives changes nothing");
}

}  // namespace
}  // namespace tenon::relay

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  tenon::relay::run(input, size);
  return 0;
}
