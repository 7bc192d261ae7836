#include "mesh.hpp"

#include <poll.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "failure.hpp"

namespace tenon::nccl_sim {
namespace {

/// What a rank says to rank 0, and what comes back: first a Verdict, then every rank's address.
struct Hello {
  int rank = 0;
  int size = 0;
  char gpu[96] = {};
  Address address{};
};
struct Verdict {
  ncclResult_t result = ncclSuccess;
  char text[120] = {};
};

/// The doors that ncclGetUniqueId opened in this process.
struct Doors {
  std::mutex mutex;
  std::map<std::string, Socket> open;
};
Doors& doors() {
  static Doors all;
  return all;
}

Address address_in(const ncclUniqueId& id) {
  Address address;
  std::memcpy(address.name, id.internal, sizeof address.name - 1);
  return address;
}

Socket take_door(const ncclUniqueId& id) {
  Doors& all = doors();
  const std::lock_guard lock(all.mutex);
  auto found = all.open.extract(address_in(id).name);
  if (found.empty())
    throw Failure(ncclInvalidUsage, "rank 0 did not make this unique id, or uses it again");
  return std::move(found.mapped());
}

/// Throws when a rank cannot be of the group.
void judge(const Hello& hello, const std::vector<Hello>& known) {
  const std::string rank = "rank " + std::to_string(hello.rank);
  if (hello.size != known[0].size)
    throw Failure(ncclInvalidUsage, rank + " says there are " + std::to_string(hello.size) +
                                        " ranks, rank 0 " + std::to_string(known[0].size));
  for (const Hello& other : known) {
    if (other.size == 0) continue;  // has not come yet
    if (other.rank == hello.rank) throw Failure(ncclInvalidUsage, rank + " is there twice");
    if (std::strcmp(other.gpu, hello.gpu) == 0)
      throw Failure(ncclInvalidUsage, "Duplicate GPU detected : " + rank + " and rank " +
                                          std::to_string(other.rank) + " both on " + hello.gpu);
  }
}

Hello hello_of(const Mesh::Self& self) {
  Hello hello;
  hello.rank = self.rank;
  hello.size = self.size;
  std::strncpy(hello.gpu, self.gpu.c_str(), sizeof hello.gpu - 1);
  return hello;
}

/// Goes before the bytes of a message, so that ranks at different operations find out.
struct Header {
  std::uint32_t operation;
  std::uint64_t bytes;
};

/// A message on its way, and its header in front.
struct Moving {
  Moving(const Message& m, std::uint32_t operation) : message(m), header{operation, m.bytes} {}
  [[nodiscard]] bool done() const { return moved == sizeof header + message.bytes; }
  /// What is to be moved next.
  [[nodiscard]] std::pair<std::byte*, std::size_t> next() {
    if (moved < sizeof header)
      return {reinterpret_cast<std::byte*>(&header) + moved, sizeof header - moved};
    const std::size_t at = moved - sizeof header;
    return {message.data + at, message.bytes - at};
  }

  Message message;
  Header header{};
  std::size_t moved = 0;
};

void receive(Moving& m, const Socket& from, std::uint32_t operation) {
  const auto [data, bytes] = m.next();
  m.moved += from.receive_some(data, bytes);
  if (m.moved < sizeof m.header) return;
  if (m.header.operation == operation && m.header.bytes == m.message.bytes) return;
  throw Failure(ncclInternalError, "rank " + std::to_string(m.message.peer) +
                                       " is at another operation, or another size: " +
                                       std::to_string(m.header.operation) + ", " +
                                       std::to_string(m.header.bytes) + " bytes");
}

}  // namespace

ncclUniqueId Mesh::open() {
  Socket door = Socket::listen();
  const Address address = door.address();
  ncclUniqueId id{};
  std::memcpy(id.internal, address.name, sizeof address.name);
  const std::lock_guard lock(doors().mutex);
  doors().open.emplace(address.name, std::move(door));
  return id;
}

void Mesh::connect(const ncclUniqueId& id, const Self& self, const AbortFlag& aborted) {
  peers_ = std::vector<Socket>(static_cast<std::size_t>(self.size));
  if (self.rank == 0)
    meet_as_root(id, self, aborted);
  else
    meet(id, self, aborted);
}

void Mesh::meet_as_root(const ncclUniqueId& id, const Self& self, const AbortFlag& aborted) {
  const Socket door = take_door(id);
  std::vector<Hello> known(peers_.size());
  known[0] = hello_of(self);
  Verdict verdict;
  std::vector<Socket> refused;
  for (int missing = self.size - 1; missing > 0 && verdict.result == ncclSuccess; --missing) {
    Socket peer = door.accept(aborted);
    const auto hello = peer.receive<Hello>(aborted);
    try {
      judge(hello, known);
      known[static_cast<std::size_t>(hello.rank)] = hello;
      peers_[static_cast<std::size_t>(hello.rank)] = std::move(peer);
    } catch (const Failure& f) {
      verdict.result = f.result;
      std::strncpy(verdict.text, f.what(), sizeof verdict.text - 1);
      refused.push_back(std::move(peer));
    }
  }
  for (const Socket& peer : refused) peer.send(verdict, aborted);
  for (const Socket& peer : peers_) {
    if (peer.fd() < 0) continue;
    peer.send(verdict, aborted);
    for (const Hello& hello : known) peer.send(hello.address, aborted);
  }
  if (verdict.result != ncclSuccess) throw Failure(verdict.result, verdict.text);
}

void Mesh::meet(const ncclUniqueId& id, const Self& self, const AbortFlag& aborted) {
  const Socket door = Socket::listen();
  Hello hello = hello_of(self);
  hello.address = door.address();
  Socket root = Socket::connect(address_in(id));
  root.send(hello, aborted);
  const auto verdict = root.receive<Verdict>(aborted);
  if (verdict.result != ncclSuccess) throw Failure(verdict.result, verdict.text);
  std::vector<Address> addresses;
  for (int rank = 0; rank < self.size; ++rank) addresses.push_back(root.receive<Address>(aborted));
  peers_[0] = std::move(root);
  for (int rank = 1; rank < self.rank; ++rank) {
    Socket peer = Socket::connect(addresses[static_cast<std::size_t>(rank)]);
    peer.send(self.rank, aborted);
    peers_[static_cast<std::size_t>(rank)] = std::move(peer);
  }
  for (int rank = self.rank + 1; rank < self.size; ++rank) {
    Socket peer = door.accept(aborted);
    const auto who = peer.receive<int>(aborted);
    peers_[static_cast<std::size_t>(who)] = std::move(peer);
  }
}

void Mesh::exchange(std::uint32_t operation, const std::vector<Message>& out,
                    const std::vector<Message>& in, const AbortFlag& aborted) {
  std::vector<Moving> sending;
  std::vector<Moving> receiving;
  for (const Message& m : out) sending.emplace_back(m, operation);
  for (const Message& m : in) receiving.emplace_back(m, operation);
  const auto socket = [&](const Moving& m) -> const Socket& {
    return peers_[static_cast<std::size_t>(m.message.peer)];
  };
  for (;;) {
    if (aborted) throw Aborted{};
    std::vector<struct ::pollfd> waiting;
    for (Moving& m : sending) {
      if (m.done()) continue;
      const auto [data, bytes] = m.next();
      m.moved += socket(m).send_some(data, bytes);
      if (!m.done()) waiting.push_back({socket(m).fd(), POLLOUT, 0});
    }
    for (Moving& m : receiving) {
      if (m.done()) continue;
      receive(m, socket(m), operation);
      if (!m.done()) waiting.push_back({socket(m).fd(), POLLIN, 0});
    }
    if (waiting.empty()) return;
    (void)::poll(waiting.data(), waiting.size(), 1);  // ms, to look at the flag
  }
}

void Mesh::shut_down() const noexcept {
  for (const Socket& peer : peers_) peer.shut_down();
}

}  // namespace tenon::nccl_sim
