// One end of a connection, without the connection: bytes in, actions out.
//
//      receiver (connects)                          sender (listens)
//
//      first {protocol, library, nonce}  ─────▶
//                                        ◀─────  first {protocol, library, nonce}
//      proof: HMAC(secret, "tenon receiver" + both)  ─────▶        wrong: bye
//      wrong: bye                        ◀─────  proof: HMAC(secret, "tenon sender" + both)
//      message: hello                    ─────▶                    the peer has joined
//      the listener has answered         ◀─────  message: welcome
//      message, value, alive             ◀────▶  message, value, alive
//      bye                               ◀────▶  bye
//
// Until the other side's proof is verified, nothing but its first frame and its proof is looked at.
// No sockets, no clocks and no threads here: what arrives decides everything.
#pragma once

#include <memory>
#include <relay/rendezvous/frame.hpp>
#include <relay/rendezvous/proof.hpp>
#include <relay/rendezvous/rendezvous.hpp>
#include <relay/rendezvous/wire.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tenon::relay {

struct Send {
  SharedBytes frame;
};
struct Proved {};  ///< The other side knows the secret.
struct Joined {
  Message message;  ///< hello of a receiver, welcome of a sender
};
struct Received {
  Message message;
};
struct Told {
  Value value;
};
struct Ended {  ///< Nothing follows.
  Errc code;
  std::string reason;
};
using Action = std::variant<Send, Proved, Joined, Received, Told, Ended>;

class Session {
 public:
  struct Setup {
    Role role{};
    std::string secret{};
    std::string nonce{};  ///< make_nonce()
    SharedBytes own{};    ///< hello or welcome, encoded
    Limits limits{};
  };
  explicit Session(Setup setup);

  /// What goes out before anything has come in.
  [[nodiscard]] const SharedBytes& first() const noexcept { return own_first_; }
  /// What to do about `bytes`, in this order. How a stream is cut into calls changes nothing.
  [[nodiscard]] std::vector<Action> receive(std::string_view bytes);

 private:
  enum class Step { first, proof, joining, joined, over };

  [[nodiscard]] FrameLimits limits() const noexcept;
  void take(Frame&& frame, std::vector<Action>& actions);
  void take_first(const Frame& frame, std::vector<Action>& actions);
  void take_proof(const Frame& frame, std::vector<Action>& actions);
  void take_joined(Frame&& frame, std::vector<Action>& actions);
  [[nodiscard]] std::string proof_of(Role role) const;

  Setup setup_;
  FrameReader reader_;
  Step step_ = Step::first;
  SharedBytes own_first_, their_first_;
};

}  // namespace tenon::relay
