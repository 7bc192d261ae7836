// The collective operations on host memory, made of sending and receiving between two ranks.
//
//   broadcast       a chain root -> root + 1 -> ...: every rank sends the data at most once,
//   whatever
//                   the group's size, and forwards each piece as soon as it has it
//   all_gather      a ring: as many chains as there are ranks, each starting at its own part
//   reduce_scatter  every rank sends part r to rank r, which adds up in order of rank
//   all_reduce      both, in place
#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine.hpp"
#include "gloo_link.hpp"
#include "no_sigpipe.hpp"
#include "reduce.hpp"

namespace tenon::relay {
namespace {

using detail::Deadline;

/// A run of memory as one part for each rank: all of the same size, except that the last ones are
/// shorter, or empty, where it does not divide.
struct Parts {
  std::size_t part, total;  // bytes

  [[nodiscard]] std::size_t offset(int rank) const noexcept {
    return std::min(part * static_cast<std::size_t>(rank), total);
  }
  [[nodiscard]] std::size_t bytes(int rank) const noexcept {
    return offset(rank + 1) - offset(rank);
  }
};

class GlooEngine final : public Engine {
 public:
  GlooEngine(const Membership& membership, const Deadline& deadline)
      : link_(membership, deadline) {}

  MemoryKind memory() const noexcept override { return MemoryKind::host; }
  int rank() const noexcept override { return link_.rank(); }
  int size() const noexcept override { return link_.size(); }

  void warm_up(const Deadline& deadline) override {
    std::byte mine{};
    std::vector<std::byte> all(static_cast<std::size_t>(size()));
    all_gather(&mine, all.data(), 1, deadline);
  }
  void broadcast(std::byte* data, std::size_t bytes, int root, const Deadline& deadline) override;
  void all_gather(const std::byte* input, std::byte* output, std::size_t bytes,
                  const Deadline& deadline) override;
  void reduce_scatter(const std::byte* input, std::byte* output, std::size_t elements, Dtype dtype,
                      ReduceOp op, const Deadline& deadline) override;
  void all_reduce(std::byte* data, std::size_t elements, Dtype dtype, ReduceOp op,
                  const Deadline& deadline) override;
  void send(const std::byte* data, std::size_t bytes, int to, const Deadline& deadline) override;
  void receive(std::byte* data, std::size_t bytes, int from, const Deadline& deadline) override;

  void abort() noexcept override { link_.abort(); }
  std::uint64_t bytes_sent() const noexcept override { return link_.bytes_sent(); }

 private:
  void run(const char* doing, const Deadline& deadline, const std::function<void()>& operation);
  void require_rank(int rank, bool may_be_own) const;
  void gather_parts(std::byte* data, const Parts& parts, const Deadline& deadline);
  void scatter_sums(const std::byte* input, std::byte* output, const Parts& parts,
                    const Reduction& how, const Deadline& deadline);
  /// For scatter_sums(); before anything is sent, as there may be no memory.
  void reserve_scratch(std::size_t own);
  [[nodiscard]] int other(int distance) const noexcept {
    return (rank() + distance + size()) % size();
  }

  GlooLink link_;
  std::vector<std::byte> scratch_;
  std::optional<Error> failure_;  // of the first operation that failed: there is no second chance
};

/// Every operation runs in this: what it throws becomes one of Tenon's errors, and the engine's
/// end.
void GlooEngine::run(const char* doing, const Deadline& deadline,
                     const std::function<void()>& operation) {
  const std::string prefix = std::string(doing) + ": ";
  if (link_.aborted()) throw Error(Errc::Aborted, prefix + "the group was aborted");
  if (failure_)
    throw Error(failure_->code(), prefix + "the group failed before: " + failure_->message());
  const NoSigpipe quiet;  // this thread writes to sockets too
  try {
    return operation();
  } catch (const std::exception& e) {
    // Gloo has one exception for everything, and says that time is over or that a peer is gone in
    // prose. Its timeouts are the deadline's.
    const Errc code = link_.aborted()     ? Errc::Aborted
                      : deadline.passed() ? Errc::DeadlinePassed
                                          : Errc::PeerGone;
    failure_.emplace(code, prefix + detail::message_of(e));
  }
  link_.close();  // the other ranks notice, and Gloo's thread has nothing left to try
  throw Error(*failure_);
}

void GlooEngine::require_rank(int rank, bool may_be_own) const {
  if (rank >= 0 && rank < size() && (may_be_own || rank != this->rank())) return;
  throw Error(Errc::InvalidArgument, "rank " + std::to_string(rank) + " given to rank " +
                                         std::to_string(this->rank()) + " of a group of " +
                                         std::to_string(size()));
}

void GlooEngine::broadcast(std::byte* data, std::size_t bytes, int root, const Deadline& deadline) {
  require_rank(root, true);
  run("broadcasting", deadline, [&] {
    std::optional<Incoming> from_previous;
    std::optional<Outgoing> to_next;
    if (rank() != root) from_previous.emplace(link_, data, bytes, other(-1));
    if (other(1) != root) to_next.emplace(link_, data, bytes, other(1));
    while (from_previous && !from_previous->complete()) {
      from_previous->wait_piece(deadline);
      if (to_next) to_next->send(from_previous->arrived());
    }
    if (to_next) to_next->finish(deadline);
  });
}

void GlooEngine::all_gather(const std::byte* input, std::byte* output, std::size_t bytes,
                            const Deadline& deadline) {
  const Parts parts{bytes, bytes * static_cast<std::size_t>(size())};
  run("gathering from all", deadline, [&] {
    if (bytes > 0) std::memmove(output + parts.offset(rank()), input, bytes);
    gather_parts(output, parts, deadline);
  });
}

/// This rank's part of `data` goes to all others, and theirs come.
void GlooEngine::gather_parts(std::byte* data, const Parts& parts, const Deadline& deadline) {
  // In the order in which they pass: what came in step s is sent on in step s + 1.
  const int steps = size() - 1;
  std::deque<Incoming> incoming;
  std::deque<Outgoing> outgoing;
  for (int step = 0; step < steps; ++step) {
    const int in = other(-1 - step);
    const int out = other(-step);
    incoming.emplace_back(link_, data + parts.offset(in), parts.bytes(in), other(-1));
    outgoing.emplace_back(link_, data + parts.offset(out), parts.bytes(out), other(1));
  }
  if (steps > 0) outgoing[0].send_all();
  for (std::size_t step = 0; step < incoming.size(); ++step) {
    while (!incoming[step].complete()) {
      incoming[step].wait_piece(deadline);
      if (step + 1 < outgoing.size()) outgoing[step + 1].send(incoming[step].arrived());
    }
  }
  for (Outgoing& part : outgoing) part.finish(deadline);
}

void GlooEngine::reduce_scatter(const std::byte* input, std::byte* output, std::size_t elements,
                                Dtype dtype, ReduceOp op, const Deadline& deadline) {
  const Reduction how(dtype, op);
  const std::size_t bytes = elements * info(dtype).bytes;
  const Parts parts{bytes, bytes * static_cast<std::size_t>(size())};
  reserve_scratch(parts.bytes(rank()));
  run("reducing and scattering", deadline,
      [&] { scatter_sums(input, output, parts, how, deadline); });
}

void GlooEngine::all_reduce(std::byte* data, std::size_t elements, Dtype dtype, ReduceOp op,
                            const Deadline& deadline) {
  const Reduction how(dtype, op);
  const std::size_t ranks = static_cast<std::size_t>(size());
  const std::size_t part = (elements + ranks - 1) / ranks;
  const Parts parts{part * info(dtype).bytes, elements * info(dtype).bytes};
  reserve_scratch(parts.bytes(rank()));
  run("reducing", deadline, [&] {
    scatter_sums(data, data + parts.offset(rank()), parts, how, deadline);
    gather_parts(data, parts, deadline);
  });
}

/// This rank's part of everybody's `input`, reduced, in `output`; which may be where that part is.
void GlooEngine::scatter_sums(const std::byte* input, std::byte* output, const Parts& parts,
                              const Reduction& how, const Deadline& deadline) {
  const std::size_t own = parts.bytes(rank());
  const std::size_t others = static_cast<std::size_t>(size()) - 1;
  std::deque<Outgoing> outgoing;
  for (int distance = 1; distance < size(); ++distance) {
    const int to = other(distance);
    outgoing.emplace_back(link_, input + parts.offset(to), parts.bytes(to), to).send_all();
  }
  // Two rounds of pieces: one is added up while the next arrives.
  std::array<std::deque<Incoming>, 2> rounds;
  const auto ask_for = [&](std::size_t offset) {
    const std::size_t round = offset / kPieceBytes % 2;
    rounds[round].clear();
    for (std::size_t i = 0; offset < own && i < others; ++i) {
      std::byte* place = scratch_.data() + (round * others + i) * std::min(own, kPieceBytes);
      const int from = static_cast<int>(i) + (static_cast<int>(i) < rank() ? 0 : 1);
      rounds[round].emplace_back(link_, place, std::min(own - offset, kPieceBytes), from);
    }
  };
  ask_for(0);
  for (std::size_t offset = 0; offset < own; offset += kPieceBytes) {
    ask_for(offset + kPieceBytes);
    std::vector<const std::byte*> sources;  // in order of rank, so that all sums come out the same
    for (Incoming& piece : rounds[offset / kPieceBytes % 2]) {
      piece.wait(deadline);
      sources.push_back(piece.data());
    }
    sources.insert(sources.begin() + rank(), input + parts.offset(rank()) + offset);
    how.apply(sources, output + offset, std::min(own - offset, kPieceBytes));
  }
  for (Outgoing& part : outgoing) part.finish(deadline);
}

void GlooEngine::reserve_scratch(std::size_t own) {
  scratch_.resize(2 * (static_cast<std::size_t>(size()) - 1) * std::min(own, kPieceBytes));
}

void GlooEngine::send(const std::byte* data, std::size_t bytes, int to, const Deadline& deadline) {
  require_rank(to, false);
  run("sending", deadline, [&] { Outgoing(link_, data, bytes, to).finish(deadline); });
}

void GlooEngine::receive(std::byte* data, std::size_t bytes, int from, const Deadline& deadline) {
  require_rank(from, false);
  run("receiving", deadline, [&] { Incoming(link_, data, bytes, from).wait(deadline); });
}

}  // namespace

std::unique_ptr<Engine> make_gloo_engine(const Membership& membership, const Deadline& deadline) {
  if (membership.size < 1 || membership.rank < 0 || membership.rank >= membership.size ||
      (membership.size > 1 && membership.store == nullptr)) {
    throw Error(Errc::InvalidArgument,
                "rank " + std::to_string(membership.rank) + " of a group of " +
                    std::to_string(membership.size) +
                    (membership.store == nullptr ? ", which has no store" : ""));
  }
  try {
    return std::make_unique<GlooEngine>(membership, deadline);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(deadline.passed() ? Errc::DeadlinePassed : Errc::PeerGone,
                "connecting a group: " + detail::message_of(e));
  }
}

}  // namespace tenon::relay
