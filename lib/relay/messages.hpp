// What sender and receiver say to each other, beside the weights. docs/relay.md has the dialogue.
#pragma once

#include <cstdint>
#include <optional>
#include <relay/rendezvous/rendezvous.hpp>
#include <string>
#include <tenon/layout.hpp>
#include <tenon/relay.hpp>
#include <vector>

namespace tenon::relay {

/// Receiver or replica, on joining: who it is and what it can take, or has.
struct Hello {
  static constexpr const char* kType = "hello";
  std::string library;  ///< version of Tenon, for messages
  std::string host;
  std::uint64_t pid = 0;
  std::optional<MemoryKind> memory{};  ///< none: the sender's kind
  bool nccl = false;
  bool asks = false;   ///< only wants to see the welcome
  bool shard = false;  ///< it will say by Want which part it takes
  bool keeps = true;   ///< buckets of the version before; a streaming receiver does not
  std::optional<ReduceOp> reduce{};  ///< a replica: how it is to be reduced; none: a receiver
  std::uint64_t layout_hash = 0;     ///< of a replica's publication
};

/// Sender, to who has joined: what it hands on. The layout is the message's blob.
struct Welcome {
  static constexpr const char* kType = "welcome";
  std::string library;
  std::string publication;
  std::string instance;  ///< of the publication: 32 hexadecimal digits
  std::string boot_id;   ///< of the sender's node, as Linux has it
  MemoryKind memory = MemoryKind::host;
  std::uint64_t layout_hash = 0;
  std::optional<ReduceOp> reduce{};  ///< with replicas; none: it needs no other
};

/// Receiver, knowing the sender's layout: that of what it takes, as the message's blob.
struct Want {
  static constexpr const char* kType = "want";
};

/// Sender: a group is formed; whatever was going on in an earlier one is over. Its first ranks are
/// the sender and its replicas.
struct FormGroup {
  static constexpr const char* kType = "group";
  std::uint64_t group = 0;
  int rank = 0;
  int size = 0;
  int senders = 1;
  EngineKind engine = EngineKind::gloo;
  std::uint64_t deadline_ms = 0;  ///< for it to be connected
};

/// Receiver: it is in the group. `version`: what it has of this instance, 0 nothing whole.
struct Ready {
  static constexpr const char* kType = "ready";
  std::uint64_t group = 0;
  std::uint64_t version = 0;
  std::string failure;  ///< why it is not, after all; empty: it is
};

/// Sender: make room for a version; to a replica: hold it.
struct Offer {
  static constexpr const char* kType = "offer";
  std::uint64_t version = 0;
  std::uint64_t deadline_ms = 0;
};

/// Receiver: there is room; replica: it is held. Else `refusal` says what is in the way.
struct Answer {
  static constexpr const char* kType = "answer";
  std::uint64_t version = 0;
  std::string refusal;
};

/// How one bucket comes.
enum class Carriage : char {
  kept = '.',       ///< not at all: the receiver has its bytes, or this version is not for it
  broadcast = 'b',  ///< to the whole group
  direct = 'd',     ///< to this receiver alone
};

/// Sender: the buckets follow, in their order.
struct Transfer {
  static constexpr const char* kType = "transfer";
  std::uint64_t version = 0;
  std::string plan;  ///< a Carriage per bucket; the message's blob
  std::uint64_t deadline_ms = 0;
};

/// Sender, to replicas: the version's buckets follow, all of them, reduced; then let go of it.
struct Reduce {
  static constexpr const char* kType = "reduce";
  std::uint64_t version = 0;
  std::vector<int> takers;  ///< ranks of the receivers; none: nothing follows, but let go of it
  std::uint64_t deadline_ms = 0;
};

/// Sender: all buckets are out; `sums` (checksums of those sent, in their order; 8 bytes each,
/// little-endian, the message's blob) tell whether they came whole.
struct Commit {
  static constexpr const char* kType = "commit";
  std::uint64_t version = 0;
  std::vector<std::uint64_t> sums;
};

/// Receiver: the version is current there; replica: its part is done. Or `failure` says why not,
/// and `has` what it has.
struct Done {
  static constexpr const char* kType = "done";
  std::uint64_t group = 0;
  std::uint64_t version = 0;
  std::uint64_t has = 0;
  bool in_group = true;  ///< still: its engine is of use
  std::string failure;
};

[[nodiscard]] Message to_message(const Hello& hello);
[[nodiscard]] Message to_message(const Welcome& welcome, const Layout& layout);
[[nodiscard]] Message to_message(const Want& want, const Layout& layout);
[[nodiscard]] Message to_message(const FormGroup& group);
[[nodiscard]] Message to_message(const Ready& ready);
[[nodiscard]] Message to_message(const Offer& offer);
[[nodiscard]] Message to_message(const Answer& answer);
[[nodiscard]] Message to_message(const Transfer& transfer);
[[nodiscard]] Message to_message(const Reduce& reduce);
[[nodiscard]] Message to_message(const Commit& commit);
[[nodiscard]] Message to_message(const Done& done);

/// The layout in a message's blob, checked; throws Error(BadFormat).
[[nodiscard]] Layout read_layout(const Message& message);

/// Reads a message of that type; throws Error(BadFormat) naming the field that cannot be right.
/// Numbers have the ranges their users rely on: ranks within the group, plans of known letters.
template <class T>
[[nodiscard]] T read(const Message& message);
template <>
Hello read<Hello>(const Message& message);
template <>
Welcome read<Welcome>(const Message& message);
template <>
FormGroup read<FormGroup>(const Message& message);
template <>
Ready read<Ready>(const Message& message);
template <>
Offer read<Offer>(const Message& message);
template <>
Answer read<Answer>(const Message& message);
template <>
Transfer read<Transfer>(const Message& message);
template <>
Reduce read<Reduce>(const Message& message);
template <>
Commit read<Commit>(const Message& message);
template <>
Done read<Done>(const Message& message);

}  // namespace tenon::relay
