#include "session.hpp"

#include <utility>

namespace tenon::relay {
namespace {

[[noreturn]] void unexpected(const char* instead_of) {
  throw Error(Errc::PeerGone, std::string("it sent another frame instead of ") + instead_of);
}

void expect(const Frame& frame, FrameKind kind, const char* what) {
  if (frame.kind != kind) unexpected(what);
}

First own_first(const std::string& nonce) { return {kProtocol, TENON_VERSION, nonce}; }

}  // namespace

Session::Session(Setup setup) : setup_(std::move(setup)) {
  own_first_ = encode(own_first(setup_.nonce));
}

std::vector<Action> Session::receive(std::string_view bytes) {
  std::vector<Action> actions;
  try {
    while (step_ != Step::over) {
      auto frame = reader_.read(bytes, limits());
      if (!frame) break;
      take(std::move(*frame), actions);
    }
  } catch (const Error& error) {
    step_ = Step::over;
    actions.emplace_back(Send{encode(Bye{error.code(), error.message()})});
    actions.emplace_back(Ended{error.code(), error.message()});
  }
  return actions;
}

FrameLimits Session::limits() const noexcept {
  if (step_ == Step::first || step_ == Step::proof) return {kJoiningBytes, 0};
  return {setup_.limits.frame_bytes, setup_.limits.blob_bytes};
}

void Session::take(Frame&& frame, std::vector<Action>& actions) {
  if (frame.kind == FrameKind::bye) {
    Bye bye = read_bye(frame);
    step_ = Step::over;
    actions.emplace_back(Ended{bye.code, "the other end says: " + bye.reason});
    return;
  }
  switch (step_) {
    case Step::first:
      return take_first(frame, actions);
    case Step::proof:
      return take_proof(frame, actions);
    case Step::joining:
    case Step::joined:
      return take_joined(std::move(frame), actions);
    case Step::over:
      return;
  }
}

void Session::take_first(const Frame& frame, std::vector<Action>& actions) {
  expect(frame, FrameKind::first, "its first");
  const First theirs = read_first(frame);
  if (theirs.protocol != kProtocol)
    throw Error(Errc::WrongVersion, "one end speaks " + text_of(own_first({})) + ", the other " +
                                        text_of(theirs) +
                                        "; the same version of Tenon is needed on both nodes");
  their_first_ = encode(frame.kind, frame.json, frame.blob);
  step_ = Step::proof;
  if (setup_.role == Role::receiver)
    actions.emplace_back(Send{encode_proof(proof_of(Role::receiver))});
}

void Session::take_proof(const Frame& frame, std::vector<Action>& actions) {
  expect(frame, FrameKind::proof, "its proof of the secret");
  const bool receiver = setup_.role == Role::receiver;
  if (!same_proof(read_proof(frame), proof_of(receiver ? Role::sender : Role::receiver)))
    throw Error(Errc::WrongSecret, receiver ? "what listens there does not know the secret"
                                            : "the listener knows another secret");
  step_ = Step::joining;
  actions.emplace_back(Proved{});
  actions.emplace_back(Send{receiver ? setup_.own : encode_proof(proof_of(Role::sender))});
}

void Session::take_joined(Frame&& frame, std::vector<Action>& actions) {
  if (frame.kind == FrameKind::alive) return;
  if (step_ == Step::joining) {
    expect(frame, FrameKind::message, "its hello or welcome");
    step_ = Step::joined;
    actions.emplace_back(Joined{read_message(std::move(frame))});
    if (setup_.role == Role::sender) actions.emplace_back(Send{setup_.own});
    return;
  }
  if (frame.kind == FrameKind::message) {
    actions.emplace_back(Received{read_message(std::move(frame))});
  } else if (frame.kind == FrameKind::value) {
    actions.emplace_back(Told{read_value(frame)});
  } else {
    unexpected("a message");
  }
}

std::string Session::proof_of(Role role) const {
  const bool receiver = setup_.role == Role::receiver;
  return prove(role, setup_.secret, receiver ? *own_first_ : *their_first_,
               receiver ? *their_first_ : *own_first_);
}

}  // namespace tenon::relay
