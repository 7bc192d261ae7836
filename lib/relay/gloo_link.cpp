#include "gloo_link.hpp"

#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "no_sigpipe.hpp"

namespace tenon::relay {
namespace {

using std::chrono::milliseconds;

/// What is left, rounded up: a wait that timed out has passed its deadline.
milliseconds left(const detail::Deadline& deadline) {
  const Duration most = std::chrono::hours(24 * 365);  // Gloo adds it to a time
  const Duration rest = std::clamp(deadline.left(), Duration::zero(), most);
  return std::chrono::ceil<milliseconds>(rest);
}

/// Gloo looks names up, does not notice when there is no such name, and leaks when it cannot bind.
void require_own_address(const std::string& address) {
  const auto refuse = [&](const std::string& why) {
    throw Error(Errc::InvalidArgument,
                "'" + detail::plain(address) + "' cannot be the address of this node: " + why);
  };
  ::addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_STREAM;
  ::addrinfo* result = nullptr;
  if (::getaddrinfo(address.c_str(), nullptr, &hints, &result) != 0)
    refuse("it is no numeric IPv4 or IPv6 address");
  const std::unique_ptr<::addrinfo, decltype(&::freeaddrinfo)> own(result, &::freeaddrinfo);
  const int fd = ::socket(own->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool bound = fd >= 0 && ::bind(fd, own->ai_addr, own->ai_addrlen) == 0;
  const int error = bound ? 0 : errno;
  if (fd >= 0) ::close(fd);
  if (error != 0) refuse(std::string("binding to it: ") + std::strerror(error));
}

/// The thread that serves connections, bound to this node's address.
std::shared_ptr<::gloo::transport::Device> make_device(const std::string& address) {
  require_own_address(address);
  const NoSigpipe quiet;  // the device's thread inherits it
  return ::gloo::transport::tcp::CreateDevice(::gloo::transport::tcp::attr(address.c_str()));
}

std::string address_key(int of, int towards) {
  return "gloo/" + std::to_string(of) + "/" + std::to_string(towards);
}

/// Ends when all ranks have come here: from then on connecting takes milliseconds.
void wait_for_all(const Membership& membership, const detail::Deadline& deadline) {
  const auto key = [](int rank) { return "gloo/" + std::to_string(rank); };
  membership.store->set(key(membership.rank), "here");
  for (int i = 0; i < membership.size; ++i) (void)membership.store->get(key(i), deadline);
}

}  // namespace

GlooLink::GlooLink(const Membership& membership, const detail::Deadline& deadline)
    : device_(make_device(membership.address)),
      context_(device_->createContext(membership.rank, membership.size)),
      sent_(static_cast<std::size_t>(membership.size)),
      received_(static_cast<std::size_t>(membership.size)) {
  if (membership.size == 1) return;
  wait_for_all(membership, deadline);
  // A pair waits for its connection for 5 times the timeout that it is made with, 0 being without
  // end, and the pairs wait one after the other.
  context_->setTimeout(std::max(left(deadline) / (5 * (membership.size - 1)), milliseconds(1)));
  Store& store = *membership.store;
  const auto others = [&](const auto& action) {
    for (int i = 0; i < membership.size; ++i) {
      if (i != membership.rank) action(i);
    }
  };
  others([&](int i) {
    const std::vector<char> address = context_->createPair(i)->address().bytes();
    store.set(address_key(membership.rank, i), std::string(address.begin(), address.end()));
  });
  others([&](int i) {
    const std::string address = store.get(address_key(i, membership.rank), deadline);
    context_->getPair(i)->connect(std::vector<char>(address.begin(), address.end()));
  });
}

void GlooLink::abort() noexcept {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  for (::gloo::transport::UnboundBuffer* buffer : in_use_) {
    buffer->abortWaitRecv();
    buffer->abortWaitSend();
  }
}

void GlooLink::close() noexcept {
  for (int i = 0; i < size(); ++i) {
    if (const auto& pair = context_->getPair(i)) pair->close();
  }
}

Transfer::Transfer(GlooLink& link, std::byte* data, std::size_t bytes, int peer)
    : link_(link), peer_(peer), buffer_(link.context_->createUnboundBuffer(data, bytes)) {
  const std::lock_guard lock(link.mutex_);
  // Under the lock: either abort() finds the buffer, or the abort is found here.
  if (link.aborted_) throw Error(Errc::Aborted, "the group was aborted");
  link.in_use_.push_back(buffer_.get());
}

Transfer::~Transfer() {
  const std::lock_guard lock(link_.mutex_);
  std::erase(link_.in_use_, buffer_.get());
}

std::size_t Transfer::piece_at(std::size_t offset) const noexcept {
  return std::min(kPieceBytes, bytes() - offset);
}

namespace {

std::uint64_t next_tag(std::uint64_t& messages, std::size_t bytes) {
  static_assert(kPieceBytes < std::size_t{1} << 24U);
  return messages++ << 24U | bytes;
}

void require(bool completed) {
  if (!completed) throw Error(Errc::Aborted, "the group was aborted");
}

}  // namespace

void Transfer::post_send() {
  const std::size_t piece = piece_at(posted_);
  std::uint64_t& messages = link_.sent_[static_cast<std::size_t>(peer_)];
  buffer_->send(peer_, next_tag(messages, piece), posted_, piece);
  posted_ += piece;
}

void Transfer::post_receive() {
  const std::size_t piece = piece_at(posted_);
  std::uint64_t& messages = link_.received_[static_cast<std::size_t>(peer_)];
  buffer_->recv(peer_, next_tag(messages, piece), posted_, piece);
  posted_ += piece;
}

void Transfer::wait_sent(const detail::Deadline& deadline) {
  require(buffer_->waitSend(left(deadline)));
  const std::size_t piece = piece_at(finished_);
  link_.bytes_sent_ += piece;
  finished_ += piece;
}

void Transfer::wait_received(const detail::Deadline& deadline) {
  require(buffer_->waitRecv(left(deadline)));
  finished_ += piece_at(finished_);
}

}  // namespace tenon::relay
