// Errors of Tenon: one exception type, one list of conditions.
//
// A failure throws; "not yet" is a value (an empty optional, an Attach state). docs/errors.md says
// for each condition whether it can be retried and what to rebuild.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tenon/log.hpp>
#include <utility>

namespace tenon {

/// Why an operation failed. The names are those of docs/protocol.md.
enum class Errc {
  InvalidArgument,  ///< A parameter, option or source that cannot be right. Fix the call.
  InvalidName,      ///< A publication name outside [A-Za-z0-9][A-Za-z0-9._@-]{0,63}.
  NameInUse,        ///< A live publisher holds the name; the message says which process.
  NotFound,         ///< No publication under that name appeared before the deadline.
  NotYours,         ///< The object belongs to another user, or is not a regular file.
  WrongVersion,     ///< The publication's format has another major version or other struct sizes.
  BadFormat,        ///< Shared memory holds something impossible; the message names the field.
  BadFile,          ///< A file is not what it should be; the message names the field.
  NoSuchParameter,  ///< The layout has no parameter of that name; near names are suggested.
  OutOfSpace,       ///< Not enough shared memory; needed and available sizes are in the message.
  DeadlinePassed,   ///< A wait ended without its event. What held it up is in the message.
  TooManySubscribers,  ///< All 64 places are taken.
  PublisherGone,       ///< The publisher died. Attach again to find its successor.
  Closed,             ///< The publisher closed the publication. Attach again to find its successor.
  ReleaseWanted,      ///< wait() while holding a lease the publisher waits for. Release it first.
  NotRetained,        ///< The version asked for is past; only newer ones can be had.
  StreamingOnly,      ///< The publication streams: use load(), whole versions are not kept.
  DirtyBucket,        ///< An aborted version half overwrote this bucket; it must be written again.
  IncompleteVersion,  ///< commit() before every bucket was written or kept.
  ProtocolError,      ///< A peer wrote something into shared memory that the protocol forbids.
  ForkedChild,        ///< The object was made by another process; open one's own after fork.
  NoDevice,  ///< No usable GPU here, or not the publication's; the message says what is missing.
  NotShareable,  ///< This GPU or memory cannot be shared between processes; the message says why.
  Capturing,     ///< The stream is being captured into a graph, which would replay the call.
  Cuda,          ///< A CUDA call failed (CudaError); its name and text are in the message.
  NoMemoryKind,  ///< This process cannot map that kind of memory; the message says what to include.
  PeerGone,      ///< A relay's peer on another node died, left or fell silent. Join again.
  Aborted,       ///< The group of relays was broken up while this waited for it. Join the next one.
  NoEngine,      ///< What carries bytes between nodes is missing (libnccl); the message says where.
  WrongSecret,   ///< The relays do not know the same secret.
  Mismatch,      ///< The two ends of a relay have different layouts or memory; both are named.
  System,        ///< A system call failed (SystemError); errno and its text are in the message.
};

/// The enumerator's own name, for messages and JSON.
[[nodiscard]] constexpr const char* name_of(Errc code) noexcept {
  switch (code) {
    case Errc::InvalidArgument:
      return "InvalidArgument";
    case Errc::InvalidName:
      return "InvalidName";
    case Errc::NameInUse:
      return "NameInUse";
    case Errc::NotFound:
      return "NotFound";
    case Errc::NotYours:
      return "NotYours";
    case Errc::WrongVersion:
      return "WrongVersion";
    case Errc::BadFormat:
      return "BadFormat";
    case Errc::BadFile:
      return "BadFile";
    case Errc::NoSuchParameter:
      return "NoSuchParameter";
    case Errc::OutOfSpace:
      return "OutOfSpace";
    case Errc::DeadlinePassed:
      return "DeadlinePassed";
    case Errc::TooManySubscribers:
      return "TooManySubscribers";
    case Errc::PublisherGone:
      return "PublisherGone";
    case Errc::Closed:
      return "Closed";
    case Errc::ReleaseWanted:
      return "ReleaseWanted";
    case Errc::NotRetained:
      return "NotRetained";
    case Errc::StreamingOnly:
      return "StreamingOnly";
    case Errc::DirtyBucket:
      return "DirtyBucket";
    case Errc::IncompleteVersion:
      return "IncompleteVersion";
    case Errc::ProtocolError:
      return "ProtocolError";
    case Errc::ForkedChild:
      return "ForkedChild";
    case Errc::NoDevice:
      return "NoDevice";
    case Errc::NotShareable:
      return "NotShareable";
    case Errc::Capturing:
      return "Capturing";
    case Errc::Cuda:
      return "Cuda";
    case Errc::NoMemoryKind:
      return "NoMemoryKind";
    case Errc::PeerGone:
      return "PeerGone";
    case Errc::Aborted:
      return "Aborted";
    case Errc::NoEngine:
      return "NoEngine";
    case Errc::WrongSecret:
      return "WrongSecret";
    case Errc::Mismatch:
      return "Mismatch";
    case Errc::System:
      return "System";
  }
  return "unknown";
}

/// What every function of Tenon throws. what() says what was being done, with which values, what to
/// check, and where to read on; code() is for programs.
class Error : public std::runtime_error {
 public:
  Error(Errc code, const std::string& message)
      : std::runtime_error(message + " [docs/errors.md#" + name_of(code) + "]"),
        code_(code),
        length_(message.size()) {
    detail::log(LogLevel::debug, name_of(code), ": ", message);
  }
  [[nodiscard]] Errc code() const noexcept { return code_; }
  /// what() without where to read on: to be part of another message.
  [[nodiscard]] std::string message() const { return {what(), length_}; }

 private:
  Errc code_;
  std::size_t length_;
};

/// A system call that failed.
class SystemError : public Error {
 public:
  SystemError(int error, const std::string& doing)
      : Error(Errc::System, doing + ": " + std::strerror(error)), error_(error) {}
  [[nodiscard]] int error() const noexcept { return error_; }

 private:
  int error_;
};

namespace detail {

/// To be part of another message.
[[nodiscard]] inline std::string message_of(const std::exception& e) {
  const auto* const error = dynamic_cast<const Error*>(&e);
  return error != nullptr ? error->message() : e.what();
}

/// Text of others in a message: control characters, also those of two bytes in UTF-8, become '?'.
/// Whoever prints what() drives no terminal with it, and a NUL cuts nothing off.
[[nodiscard]] inline std::string plain(std::string_view text) {
  std::string out(text);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto byte = static_cast<unsigned char>(out[i]);
    const auto next = static_cast<unsigned char>(i + 1 < out.size() ? out[i + 1] : 0);
    if (byte < 0x20 || byte == 0x7F) out[i] = '?';
    if (byte == 0xC2 && next >= 0x80 && next <= 0x9F) out[i] = out[i + 1] = '?';
  }
  return out;
}

}  // namespace detail
}  // namespace tenon
