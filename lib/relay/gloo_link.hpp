// A group's TCP connections, made with Gloo, and bytes on their way over them.
//
// Gloo's own collectives are not used: they ignore that a wait was aborted, and return as if the
// data had come. Everything here is Gloo's sending and receiving between two ranks, and no wait's
// result is ignored.
//
// Every message has a tag of its own: its number between this pair of ranks, and its length. Ranks
// that disagree about sizes therefore never meet, and pass their deadline; without the length, Gloo
// ends the process (too much arrived) or says nothing (too little).
#pragma once

#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engine.hpp"

namespace tenon::relay {

/// Messages are at most this long: what a chain of ranks forwards at a time.
inline constexpr std::size_t kPieceBytes = std::size_t{4} << 20U;

/// Errors:   the functions that post and wait throw Aborted, and what Gloo throws.
/// Threads:  one, except for abort(), aborted() and bytes_sent().
class GlooLink {
 public:
  /// Connects all ranks; throws what make_gloo_engine() does.
  GlooLink(const Membership& membership, const detail::Deadline& deadline);
  GlooLink(const GlooLink&) = delete;
  GlooLink& operator=(const GlooLink&) = delete;
  ~GlooLink() = default;

  [[nodiscard]] int rank() const noexcept { return context_->rank; }
  [[nodiscard]] int size() const noexcept { return context_->size; }
  [[nodiscard]] std::uint64_t bytes_sent() const noexcept { return bytes_sent_; }
  [[nodiscard]] bool aborted() const noexcept { return aborted_; }

  void abort() noexcept;
  /// Ends all connections, which the other ranks notice. Nothing can be sent or received any more.
  void close() noexcept;

 private:
  friend class Transfer;
  // Destroyed last to first: connections before the thread that serves them.
  std::shared_ptr<::gloo::transport::Device> device_;
  std::shared_ptr<::gloo::transport::Context> context_;
  std::vector<std::uint64_t> sent_, received_;  // messages, for each rank
  std::atomic<std::uint64_t> bytes_sent_{0};

  std::mutex mutex_;  // guards in_use_; aborted_ is written under it
  std::vector<::gloo::transport::UnboundBuffer*> in_use_;
  std::atomic<bool> aborted_{false};
};

/// Memory that Gloo reads or writes while this lives, and not after.
class Transfer {
 public:
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

 protected:
  Transfer(GlooLink& link, std::byte* data, std::size_t bytes, int peer);
  ~Transfer();
  /// Hands the next piece to Gloo, and returns without waiting for it.
  void post_send();
  void post_receive();
  /// Waits for the oldest piece that was posted.
  void wait_sent(const detail::Deadline& deadline);
  void wait_received(const detail::Deadline& deadline);

  [[nodiscard]] const std::byte* start() const noexcept {
    return static_cast<const std::byte*>(buffer_->ptr);
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return buffer_->size; }
  [[nodiscard]] std::size_t posted() const noexcept { return posted_; }
  [[nodiscard]] std::size_t finished() const noexcept { return finished_; }
  [[nodiscard]] std::size_t piece_at(std::size_t offset) const noexcept;

 private:
  GlooLink& link_;
  int peer_;
  std::unique_ptr<::gloo::transport::UnboundBuffer> buffer_;
  std::size_t posted_ = 0, finished_ = 0;  // bytes, from the start
};

/// Bytes that come from a rank, in order.
class Incoming : Transfer {
 public:
  /// Asks for all pieces at once: whichever comes next, there is a place for it.
  Incoming(GlooLink& link, std::byte* data, std::size_t bytes, int from)
      : Transfer(link, data, bytes, from) {
    while (posted() < bytes) post_receive();
  }
  [[nodiscard]] const std::byte* data() const noexcept { return start(); }
  /// How many bytes are there, from the start.
  [[nodiscard]] std::size_t arrived() const noexcept { return finished(); }
  [[nodiscard]] bool complete() const noexcept { return arrived() == bytes(); }
  void wait_piece(const detail::Deadline& deadline) { wait_received(deadline); }
  void wait(const detail::Deadline& deadline) {
    while (!complete()) wait_received(deadline);
  }
};

/// Bytes that go to a rank, in order.
class Outgoing : Transfer {
 public:
  Outgoing(GlooLink& link, const std::byte* data, std::size_t bytes, int to)
      : Transfer(link, const_cast<std::byte*>(data), bytes, to) {}
  /// The first `ready` bytes may be sent: those of whole pieces are.
  void send(std::size_t ready) {
    while (posted() < ready && posted() + piece_at(posted()) <= ready) post_send();
  }
  void send_all() { send(bytes()); }
  /// Sends the rest and waits until all may be overwritten.
  void finish(const detail::Deadline& deadline) {
    send_all();
    while (finished() < bytes()) wait_sent(deadline);
  }
};

}  // namespace tenon::relay
