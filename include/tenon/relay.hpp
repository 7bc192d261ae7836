// The same publication on other nodes: a sender beside the trainer, a receiver on each node.
//
//   tenon::relay::Sender sender("policy", {.listen = "10.0.0.1:4711", .secret = secret});
//   sender.run();                                       // until the publication ends
//
//   tenon::relay::Receiver receiver({.from = "10.0.0.1:4711", .secret = secret});
//   receiver.run();                                     // publishes "policy" on this node
//
// A sender is a subscriber here, a receiver a publisher there: versions, back-pressure and crash
// handling are those of the publication. `tenon relay` is these two classes. docs/relay.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <vector>

namespace tenon::relay {

/// What carries the bytes. `automatic`: NCCL when both ends are in GPU memory and have it, else
/// Gloo; GPU memory then goes through host memory at both ends.
enum class EngineKind : std::uint8_t { automatic, gloo, nccl };
[[nodiscard]] const char* name_of(EngineKind kind) noexcept;
/// How the partial results of several trainers become one. `mean` is the sum divided by their
/// number. Gloo sums 16- and 8-bit floats in f32 and rounds once, and cuts the mean of integers off
/// towards zero. NCCL may round after each rank that it adds, divides floats before it adds, and
/// takes no 8-bit floats nor 16-bit integers here.
enum class ReduceOp : std::uint8_t { sum, mean };
[[nodiscard]] const char* name_of(ReduceOp op) noexcept;
/// Reads a shared secret: the file's bytes without the line end. It may be nobody else's to read.
/// Throws Error(InvalidArgument): too short, or open to others; SystemError.
[[nodiscard]] std::string read_secret(const std::string& file);

/// A group of relays that was formed: at the start, and whenever one joins or is lost.
struct GroupReport {
  std::uint64_t group = 0;  ///< counts from 1
  int receivers = 0;
  EngineKind engine = EngineKind::gloo;
  Duration setup{};    ///< connecting
  Duration warm_up{};  ///< the first collective, which takes seconds in the wild
};

/// A version that was handed on.
struct VersionReport {
  std::uint64_t version = 0;
  int receivers = 0;          ///< that it went to (a receiver: 1)
  std::uint64_t buckets = 0;  ///< that were sent
  std::uint64_t kept = 0;     ///< that every receiver had already
  std::uint64_t bytes = 0;    ///< of weights that left this process, or came
  Duration waited{};          ///< for receivers (a receiver: for its subscribers) to make room
  Duration transfer{};        ///< from the first bucket to the last
  Duration prepare{};         ///< of that, reading, staging and summing, beside the wire
  Duration wire{};            ///< in the engine
};

/// What a relay tells while it runs, from the thread in run(). All may be empty.
struct Watch {
  std::function<void(const std::string&)> note{};  ///< joined, left and why: one line each
  std::function<void(const GroupReport&)> group{};
  std::function<void(const VersionReport&)> version{};
  /// Asked at least every 100 ms while nothing is on the wire; true ends run().
  std::function<bool()> stop{};
  /// What begins and may take long: "forming group 2", "sending version 3"; empty when it is over.
  /// Never two at once. May not throw.
  std::function<void(const std::string&)> doing{};
};

struct SenderOptions {
  std::string listen = "127.0.0.1:0";  ///< HOST:PORT, [V6]:PORT; port 0: a free one
  std::string secret{};                ///< both ends know it; needed off loopback, 16 bytes or more
  std::uint32_t expect = 0;            ///< receivers to wait for before the first version
  /// For one version: for receivers to make room, and again for its bytes to arrive.
  Duration deadline = std::chrono::seconds(30);
  EngineKind engine = EngineKind::automatic;
  std::uint32_t ahead = 2;  ///< buckets prepared while one is on the wire; 0: one after the other
  Duration attach = std::chrono::seconds(10);  ///< for the publication to appear
  std::optional<Uid> owner{};                  ///< whose publication; default: this process's user
  /// The publication holds partial results, as those of the Replicas that join: receivers get them
  /// reduced. Over host memory. Every version goes out whole.
  std::optional<ReduceOp> reduce{};
  std::uint32_t replicas = 1;  ///< that are reduced, this sender's own counted; then 2 to 64
};

/// Hands a publication of this node on to receivers.
///
/// Errors:   constructor: those of Subscriber::attach; InvalidArgument (the address, a dtype that
///           cannot be reduced), System (the address). run(): PublisherGone, Closed when the
///           publication ends: what comes next under its name is another instance, for another
///           Sender. A receiver's end is never an error, nor a replica's: versions wait for its
///           return.
/// Threads:  one; address() and stop() any.
/// Lifetime: the destructor tells the receivers that it leaves.
class Sender {
 public:
  explicit Sender(std::string_view name, const SenderOptions& options = {});
  ~Sender();
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;

  [[nodiscard]] std::string address() const;  ///< HOST:PORT, with the port taken
  /// Returns when `watch.stop` or stop() says so.
  void run(const Watch& watch = {});
  void stop() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct ReplicaOptions {
  std::string from{};            ///< the HOST:PORT of the sender that it joins
  ReduceOp op = ReduceOp::mean;  ///< as the sender's
  std::string secret{};
  Duration attach = std::chrono::seconds(10);  ///< for the publication to appear
  std::optional<Uid> owner{};                  ///< whose publication; default: this process's user
  Duration join = std::chrono::seconds(10);    ///< for the sender to be there, the first time
  Duration rejoin = Duration::max();           ///< for a lost sender to come back
  std::uint32_t ahead = 2;                     ///< as SenderOptions::ahead
};

/// Adds a publication of this node, of another trainer with the same layout and the same version
/// numbers, to what a sender with SenderOptions::reduce hands on.
///
/// Errors:   constructor: those of Subscriber::attach; InvalidArgument, DeadlinePassed (nobody
///           there), WrongSecret, WrongVersion; Mismatch: of layouts or operations, both are named.
///           run(): PublisherGone, Closed when the publication ends, as of Sender; PeerGone when
///           the sender stays away for `rejoin`; Mismatch when it comes back with another layout.
/// Threads:  one; stop() any.
/// Lifetime: the destructor tells the sender that it leaves.
class Replica {
 public:
  explicit Replica(std::string_view name, const ReplicaOptions& options);
  ~Replica();
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  /// Returns when `watch.stop` or stop() says so.
  void run(const Watch& watch = {});
  void stop() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Parameters to receive, whole or in part.
struct Part {
  std::string pattern;           ///< a name, or one with * ? [...] as shells know them
  std::optional<Slice> slice{};  ///< of each parameter it fits: a tensor-parallel rank's part
};

struct ReceiverOptions {
  std::string from{};  ///< the sender's HOST:PORT
  std::string name{};  ///< that the sender must hand on; empty: any
  std::string as{};    ///< name of the publication here; empty: the sender's
  /// Only these, in the sender's order; the first that fits a parameter counts. Empty: everything.
  std::vector<Part> only{};
  /// Instead of `only`: a layout of one's own, whose every parameter is one of the sender's by name
  /// and dtype, whole or (Parameter::box) a box of it.
  std::optional<Layout> layout{};
  std::optional<Memory> memory{};     ///< default: the sender's kind, on device 0
  Mode mode = Mode::double_buffered;  ///< in place: half the memory, and nothing current while a
                                      ///< version arrives
  std::string secret{};
  Duration join = std::chrono::seconds(10);  ///< for the sender to be there, the first time
  /// A lost sender is looked for so long, with the last version served meanwhile.
  Duration rejoin = Duration::max();
  std::uint32_t ahead = 2;  ///< buckets being checked and placed while one is on the wire
  /// Of the publication here, behind "relay of" and the instance it comes from; up to 36 bytes.
  std::string label{};
  std::function<void(std::uint64_t, std::uint64_t)> progress{};  ///< as PublisherOptions::progress
};

/// Publishes on this node what a sender hands on, under the sender's version numbers.
///
/// Errors:   constructor: InvalidArgument, DeadlinePassed (nobody there), WrongSecret,
///           WrongVersion, Mismatch; those of Publisher::create: room for all slots is taken before
///           the first byte comes. run(): PeerGone when the sender stays away for `rejoin`;
///           Mismatch, or those of create, when it comes back with another publication.
/// Threads:  one; stop() any.
/// Lifetime: the publication ends with it.
class Receiver {
 public:
  explicit Receiver(const ReceiverOptions& options);
  ~Receiver();
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;

  [[nodiscard]] const std::string& name() const noexcept;  ///< of the publication here
  [[nodiscard]] const Layout& layout() const noexcept;
  [[nodiscard]] std::uint64_t version() const noexcept;  ///< newest complete one here; 0 none
  void run(const Watch& watch = {});
  void stop() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenon::relay
