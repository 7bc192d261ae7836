// Frames and sessions without sockets: what one end makes of any bytes.
#include <gtest/gtest.h>

#include <relay/rendezvous/session.hpp>
#include <support/support.hpp>

namespace tenon::relay {
namespace {

const std::string kSecret = "a secret of many bytes";

Limits small_limits() {
  Limits limits;
  limits.frame_bytes = 4096;
  limits.blob_bytes = 8192;
  return limits;
}

Session make(Role role, const std::string& secret = kSecret) {
  const Message own{role == Role::receiver ? "hello" : "welcome", R"({"from":1})", "layout"};
  const std::string nonce(2 * kNonceBytes, role == Role::receiver ? '1' : '2');
  return Session({role, secret, nonce, encode(own, small_limits()), small_limits()});
}

std::string sent(const std::vector<Action>& actions) {
  std::string bytes;
  for (const Action& action : actions)
    if (const auto* send = std::get_if<Send>(&action)) bytes += *send->frame;
  return bytes;
}

template <class Kind>
const Kind* find(const std::vector<Action>& actions) {
  for (const Action& action : actions)
    if (const auto* found = std::get_if<Kind>(&action)) return found;
  return nullptr;
}

/// Actions as text, so that two lists can be compared.
std::string text_of(const std::vector<Action>& actions) {
  struct Show {
    std::string operator()(const Send& s) { return "send " + *s.frame; }
    std::string operator()(const Proved&) { return "proved"; }
    std::string operator()(const Joined& j) { return "joined " + j.message.type + j.message.blob; }
    std::string operator()(const Received& r) { return r.message.type + r.message.fields; }
    std::string operator()(const Told& t) { return "told " + t.value.key + "=" + t.value.bytes; }
    std::string operator()(const Ended& e) { return std::string(name_of(e.code)) + e.reason; }
  };
  std::string text;
  for (const Action& action : actions) text += std::visit(Show{}, action) + "\n";
  return text;
}

/// What each end sends when two of them meet and the receiver then says `more`.
struct Talk {
  std::string to_sender, to_receiver;
  std::vector<Action> of_sender, of_receiver;
};
Talk talk(const std::string& receivers_secret, const std::string& senders_secret,
          const std::string& more = {}) {
  Session receiver = make(Role::receiver, receivers_secret);
  Session sender = make(Role::sender, senders_secret);
  Talk all;
  std::string to_sender = *receiver.first(), to_receiver = *sender.first();
  while (!to_sender.empty() || !to_receiver.empty()) {
    all.to_sender += to_sender;
    all.to_receiver += to_receiver;
    auto by_sender = sender.receive(to_sender);
    auto by_receiver = receiver.receive(to_receiver);
    to_receiver = sent(by_sender);
    to_sender = sent(by_receiver);
    std::move(by_sender.begin(), by_sender.end(), std::back_inserter(all.of_sender));
    std::move(by_receiver.begin(), by_receiver.end(), std::back_inserter(all.of_receiver));
  }
  auto last = sender.receive(more);
  all.to_sender += more;
  std::move(last.begin(), last.end(), std::back_inserter(all.of_sender));
  return all;
}

std::string afterwards() {
  return *encode(Message{"step", R"({"n":7})", std::string(5000, 'b')}, small_limits()) +
         *encode_alive() + *encode(Value{3, "key", std::string("\0\xFF", 2)}) +
         *encode(Message{"last", "{}"}, small_limits());
}

TEST(Session, TwoEndsWithOneSecretJoin) {
  const Talk all = talk(kSecret, kSecret, afterwards());
  const auto* hello = find<Joined>(all.of_sender);
  const auto* welcome = find<Joined>(all.of_receiver);
  ASSERT_TRUE(hello && welcome);
  EXPECT_EQ(hello->message.type, "hello");
  EXPECT_EQ(hello->message.fields, R"({"from":1})");
  EXPECT_EQ(welcome->message.type, "welcome");
  EXPECT_EQ(welcome->message.blob, "layout");
  const auto* step = find<Received>(all.of_sender);
  ASSERT_TRUE(step);
  EXPECT_EQ(step->message.blob, std::string(5000, 'b'));
  const auto* told = find<Told>(all.of_sender);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->value.group, 3U);
  EXPECT_EQ(told->value.bytes, std::string("\0\xFF", 2));
  EXPECT_FALSE(find<Ended>(all.of_sender));
  EXPECT_EQ(all.to_sender.find(kSecret), std::string::npos);
}

TEST(Session, AnotherSecretIsRefusedByTheListenerAndToldToTheReceiver) {
  const Talk all = talk("the receiver's own secret", kSecret);
  ASSERT_TRUE(find<Ended>(all.of_sender) && find<Ended>(all.of_receiver));
  EXPECT_EQ(find<Ended>(all.of_sender)->code, Errc::WrongSecret);
  EXPECT_EQ(find<Ended>(all.of_receiver)->code, Errc::WrongSecret);
  EXPECT_FALSE(find<Proved>(all.of_sender) || find<Proved>(all.of_receiver));
  EXPECT_FALSE(find<Joined>(all.of_sender) || find<Joined>(all.of_receiver));
}

TEST(Session, NoSecretAgainstOneIsRefused) {
  EXPECT_EQ(find<Ended>(talk("", kSecret).of_sender)->code, Errc::WrongSecret);
  EXPECT_EQ(find<Ended>(talk(kSecret, "").of_sender)->code, Errc::WrongSecret);
  EXPECT_TRUE(find<Joined>(talk("", "").of_receiver));
}

TEST(Session, ListenerWithoutTheSecretConvincesNoReceiver) {
  Session receiver = make(Role::receiver);
  Session impostor = make(Role::sender, "what the impostor made up");
  (void)receiver.receive(*impostor.first());
  const auto proof =
      prove(Role::sender, "what the impostor made up", *receiver.first(), *impostor.first());
  const auto actions = receiver.receive(*encode_proof(proof));
  ASSERT_TRUE(find<Ended>(actions));
  EXPECT_EQ(find<Ended>(actions)->code, Errc::WrongSecret);
  EXPECT_EQ(sent(actions).find("hello"), std::string::npos) << "it said hello to the impostor";
}

TEST(Session, ItsOwnProofSentBackConvincesNoReceiver) {
  Session receiver = make(Role::receiver);
  const std::string proof = sent(receiver.receive(*receiver.first()));
  ASSERT_NE(proof.find("proof"), std::string::npos);
  const auto actions = receiver.receive(proof);
  ASSERT_TRUE(find<Ended>(actions));
  EXPECT_EQ(find<Ended>(actions)->code, Errc::WrongSecret);
  EXPECT_FALSE(find<Proved>(actions));
}

TEST(Session, AnOldProofConvincesNobodyWhoDrawsAnotherNonce) {
  const Talk old = talk(kSecret, kSecret);
  const Message welcome{"welcome", "{}"};
  Session sender({Role::sender, kSecret, std::string(2 * kNonceBytes, '3'),
                  encode(welcome, small_limits()), small_limits()});
  const auto actions = sender.receive(old.to_sender);
  ASSERT_TRUE(find<Ended>(actions));
  EXPECT_EQ(find<Ended>(actions)->code, Errc::WrongSecret);
}

TEST(Session, AnotherProtocolIsRefusedByNamesOfBoth) {
  for (const Role role : {Role::receiver, Role::sender}) {
    Session session = make(role);
    const auto actions = session.receive(*encode(First{9, "3.1.4", "whatever that one needs"}));
    ASSERT_TRUE(find<Ended>(actions));
    EXPECT_EQ(find<Ended>(actions)->code, Errc::WrongVersion);
    EXPECT_NE(find<Ended>(actions)->reason.find("protocol 1 (Tenon "), std::string::npos);
    EXPECT_NE(find<Ended>(actions)->reason.find("protocol 9 (Tenon 3.1.4)"), std::string::npos);
  }
}

TEST(Session, HowTheStreamIsCutChangesNothing) {
  const Talk whole = talk(kSecret, kSecret, afterwards());
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{1000}}) {
    Session sender = make(Role::sender);
    std::vector<Action> actions;
    for (std::size_t at = 0; at < whole.to_sender.size(); at += piece)
      for (Action& action : sender.receive(std::string_view(whole.to_sender).substr(at, piece)))
        actions.push_back(std::move(action));
    EXPECT_EQ(text_of(actions), text_of(whole.of_sender)) << piece;
  }
}

TEST(Session, TruncatedAnywhereItWaitsAndSaysNothingFalse) {
  const Talk whole = talk(kSecret, kSecret, afterwards());
  const std::string expected = text_of(whole.of_sender);
  for (std::size_t size = 0; size < whole.to_sender.size(); ++size) {
    Session sender = make(Role::sender);
    const std::string got = text_of(sender.receive(whole.to_sender.substr(0, size)));
    ASSERT_EQ(expected.substr(0, got.size()), got) << size;
    ASSERT_LT(got.size(), expected.size()) << size;
  }
}

TEST(Session, EveryChangedByteBeforeTheProofIsRefused) {
  const Talk whole = talk(kSecret, kSecret);
  const std::size_t proofs = whole.to_sender.find("TNR\x03");  // its hello
  ASSERT_NE(proofs, std::string::npos);
  for (std::size_t at = 0; at < proofs; ++at) {
    for (const int bit : {0, 3, 7}) {
      std::string changed = whole.to_sender;
      changed[at] = static_cast<char>(changed[at] ^ 1 << bit);
      Session sender = make(Role::sender);
      const auto actions = sender.receive(changed);
      // JSON may be written in several ways: a letter of a key's escape... but then the transcript
      // is another, and so is the proof.
      ASSERT_FALSE(find<Joined>(actions)) << at << " " << bit;
    }
  }
}

TEST(Session, EveryChangedByteBehindTheProofIsAMessageOrTheEnd) {
  const Talk whole = talk(kSecret, kSecret, afterwards());
  const std::size_t proofs = whole.to_sender.find("TNR\x03");
  for (std::size_t at = proofs; at<whole.to_sender.size(); at += at % 5000> 400 ? 37 : 1) {
    for (const int change : {0x01, 0x80, 0xFF}) {
      std::string changed = whole.to_sender;
      changed[at] = static_cast<char>(changed[at] ^ change);
      Session sender = make(Role::sender);
      const auto actions = sender.receive(changed);
      const auto* ended = find<Ended>(actions);
      if (ended == nullptr) continue;
      ASSERT_TRUE(std::holds_alternative<Ended>(actions.back())) << "something follows the end";
      ASSERT_FALSE(ended->reason.empty());
      ASSERT_LT(ended->reason.size(), 1000U);
      for (const char c : ended->reason) ASSERT_TRUE(c >= ' ' && c <= '~') << ended->reason;
      ASSERT_TRUE(sender.receive(whole.to_sender).empty()) << "it speaks behind its end";
    }
  }
}

TEST(Session, WhoHasNotProvedTheSecretMaySendLittle) {
  const std::string header =
      encode(FrameKind::first, std::string(kJoiningBytes + 1, ' '))->substr(0, 16);
  Session sender = make(Role::sender);
  const auto actions = sender.receive(header);
  ASSERT_TRUE(find<Ended>(actions)) << "refused by its header alone";
  EXPECT_NE(find<Ended>(actions)->reason.find("more than the 16384"), std::string::npos);
  Session other = make(Role::sender);
  EXPECT_TRUE(find<Ended>(other.receive(encode(FrameKind::first, "", "b")->substr(0, 16))));
}

TEST(Session, FramesBeforeTheirTimeEndIt) {
  for (const SharedBytes& early :
       {encode_proof(std::string(64, '0')), encode_alive(),
        encode(Message{"hello", "{}"}, small_limits()), encode(Value{1, "", ""})}) {
    Session sender = make(Role::sender);
    const auto actions = sender.receive(*early);
    ASSERT_TRUE(find<Ended>(actions));
    EXPECT_EQ(find<Ended>(actions)->code, Errc::PeerGone);
    EXPECT_FALSE(find<Told>(actions) || find<Joined>(actions));
  }
}

TEST(Session, JsonOfOthersIsBounded) {
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  for (const std::string& json :
       {std::string("no JSON"), std::string("[]"), R"({"type":"a","fields":{"a":)" + deep + "}}",
        std::string(R"({"type":"A","fields":{}})"), std::string(R"({"type":"a"})"),
        std::string(R"({"type":"a","fields":[]})"), std::string(R"({"type":"a","fields":1})"),
        std::string(R"({"type":"a","type":"b","fields":{}})"),
        std::string(R"({"type":"a","fields":{}} )") + '\0',
        R"({"type":")" + std::string(33, 'a') + R"(","fields":{}})"}) {
    const auto actions = talk(kSecret, kSecret, *encode(FrameKind::message, json)).of_sender;
    ASSERT_TRUE(find<Ended>(actions)) << json;
    EXPECT_FALSE(find<Received>(actions)) << json;
  }
}

TEST(Session, SecondHelloIsAMessageAndASecondProofTheEnd) {
  const auto again = *encode_proof(std::string(64, '0'));
  EXPECT_TRUE(find<Ended>(talk(kSecret, kSecret, again).of_sender));
}

TEST(Session, ByeIsShownInPlainText) {
  const auto bye = *encode(Bye{Errc::PeerGone, "\x1b[2J\nenough"});
  const auto actions = talk(kSecret, kSecret, bye).of_sender;
  ASSERT_TRUE(find<Ended>(actions));
  EXPECT_EQ(find<Ended>(actions)->reason.find('\x1b'), std::string::npos);
  EXPECT_NE(find<Ended>(actions)->reason.find("enough"), std::string::npos);
}

TEST(Message, ThatTheOtherEndWouldRefuseIsNotSent) {
  const Limits limits = small_limits();
  EXPECT_THROWS(InvalidArgument, "is no type", (void)encode(Message{"Step", "{}"}, limits));
  EXPECT_THROWS(InvalidArgument, "no JSON object", (void)encode(Message{"a", "[]"}, limits));
  EXPECT_THROWS(InvalidArgument, "not valid JSON", (void)encode(Message{"a", "{"}, limits));
  EXPECT_THROWS(InvalidArgument, "the limit is 8192",
                (void)encode(Message{"a", "{}", std::string(8193, ' ')}, limits));
  EXPECT_THROWS(InvalidArgument, "the limit is 4096",
                (void)encode(Message{"a", R"({"a":")" + std::string(5000, 'x') + "\"}"}, limits));
}

TEST(Frame, ThatAnnouncesMuchGetsOnlyWhatCame) {
  FrameReader reader;
  const std::size_t huge = std::size_t{1} << 62;
  std::string header = *encode(FrameKind::message, "");
  header[15] = 0x40;  // of the blob's bytes
  std::string_view bytes = header;
  EXPECT_FALSE(reader.read(bytes, {100, huge}));  // reserving 2^62 bytes would throw
}

TEST(Proof, DependsOnEverything) {
  const std::string proof = prove(Role::sender, kSecret, "ab", "c");
  EXPECT_TRUE(is_hex(proof, 32));
  EXPECT_TRUE(same_proof(proof, prove(Role::sender, kSecret, "ab", "c")));
  for (const std::string& other :
       {prove(Role::receiver, kSecret, "ab", "c"), prove(Role::sender, kSecret + "!", "ab", "c"),
        prove(Role::sender, kSecret, "xb", "c"), prove(Role::sender, kSecret, "ab", "d"),
        proof.substr(1), std::string()})
    EXPECT_FALSE(same_proof(proof, other));
  EXPECT_NE(make_nonce(), make_nonce());
}

TEST(Proof, IsHmacSha256) {  // `printf 'tenon senderab' | openssl dgst -sha256 -hmac key`
  EXPECT_EQ(prove(Role::sender, "key", "a", "b"),
            "43b966b8442c691016ec1875692d3117a7c34682b7da9200851a32763a133afd");
}

TEST(Secret, ThatIsShortIsRefused) {
  EXPECT_THROWS(InvalidArgument, "at least 16", check_secret(std::string(15, 'x')));
  EXPECT_NO_THROW(check_secret(std::string(16, 'x')));
  EXPECT_NO_THROW(check_secret(""));
}

}  // namespace
}  // namespace tenon::relay
