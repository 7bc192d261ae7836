#include "link.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <utility>

namespace tenon::relay {
namespace {

namespace asio = boost::asio;

std::string text_of(Duration duration) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return std::to_string(ms) + " ms";
}

Duration period_of(const Limits& limits) {
  const Duration least = std::min({limits.heartbeat, limits.join, limits.silence});
  return std::max<Duration>(least, std::chrono::milliseconds(1));
}

}  // namespace

void IoThread::start() {
  ::sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited by the thread
  try {
    thread_ = std::thread([this] { run(); });
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void IoThread::stop() noexcept {
  io.stop();
  if (thread_.joinable()) thread_.join();
}

void IoThread::stop_within(Duration at_most) {
  asio::steady_timer timer(io, at_most);
  timer.async_wait([this](const boost::system::error_code&) { io.stop(); });
  if (thread_.joinable()) thread_.join();
}

void IoThread::run() noexcept {
  const auto work = asio::make_work_guard(io);
  while (!io.stopped()) {
    try {
      io.run();
    } catch (const std::exception& error) {  // of a watcher; links catch what is theirs
      detail::report({"the rendezvous of relays: ", error.what()});
    }
  }
}

Link::Link(Tcp::socket socket, Session::Setup setup, Owner& owner, PeerId id)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      limits_(setup.limits),
      session_(std::move(setup)),
      owner_(owner),
      id_(id) {}

void Link::start() {
  heard_ = detail::Clock::now();
  close_by_ = heard_ + limits_.join;
  queue(session_.first());
  read();
  tick();
}

void Link::send(SharedBytes frame) {
  if (!ended_) queue(std::move(frame));
}

void Link::close(const std::string& reason) {
  if (ended_) return;
  queue(encode(Bye{Errc::PeerGone, reason}));
  end(Errc::PeerGone, reason);
}

void Link::drop() {
  ended_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
}

void Link::read() {
  socket_.async_read_some(
      asio::buffer(buffer_),
      [self = shared_from_this()](const boost::system::error_code& error, std::size_t bytes) {
        if (error) return self->lost(error);
        self->heard(bytes);
        if (self->socket_.is_open()) self->read();
      });
}

void Link::heard(std::size_t bytes) {
  heard_ = detail::Clock::now();
  if (ended_) return;  // only the end of the stream is still waited for
  try {
    for (Action& action : session_.receive({buffer_.data(), bytes})) {
      if (!ended_) act(action);
    }
  } catch (const std::exception& error) {
    close(detail::message_of(error));
  }
}

void Link::act(Action& action) {
  if (auto* const out = std::get_if<Send>(&action)) return queue(std::move(out->frame));
  if (const auto* const over = std::get_if<Ended>(&action)) return end(over->code, over->reason);
  if (std::holds_alternative<Proved>(action)) proved_ = true;
  if (std::holds_alternative<Joined>(action)) joined_ = true;
  owner_.happened(*this, action);
}

void Link::queue(SharedBytes frame) {
  if (!unsent_.empty() &&
      frame->size() > limits_.queue_bytes - std::min(unsent_bytes_, limits_.queue_bytes)) {
    unsent_.resize(1);  // the one being written
    unsent_bytes_ = unsent_.front()->size();
    return end(Errc::PeerGone, "it does not read what it is sent: more than " +
                                   std::to_string(limits_.queue_bytes) + " bytes wait for it");
  }
  unsent_bytes_ += frame->size();
  unsent_.push_back(std::move(frame));
  if (unsent_.size() == 1) write();
}

void Link::write() {
  asio::async_write(
      socket_, asio::buffer(*unsent_.front()),
      [self = shared_from_this()](const boost::system::error_code& error, std::size_t) {
        if (error) return;  // read() learns of it too, behind the peer's last words
        self->unsent_bytes_ -= self->unsent_.front()->size();
        self->unsent_.pop_front();
        if (!self->unsent_.empty()) return self->write();
        if (self->ended_) self->finish();
      });
}

// Closing with bytes unread would reset the connection, and the peer might lose our last words:
// it closes first, or it gets no more patience than a silent one.
void Link::finish() {
  boost::system::error_code ignored;
  socket_.shutdown(Tcp::socket::shutdown_send, ignored);
}

void Link::tick() {
  timer_.expires_after(period_of(limits_));
  timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error) return;
    self->look_at_the_clock();
    if (self->socket_.is_open()) self->tick();
  });
}

void Link::look_at_the_clock() {
  const Time now = detail::Clock::now();
  if (ended_ || !proved_) {
    if (now < close_by_) return;
    end(Errc::DeadlinePassed,
        "it did not prove that it knows the secret within " + text_of(limits_.join));
    return shut();
  }
  // After this process was stopped itself, what came meanwhile is still to be read.
  boost::system::error_code ignored;
  if (now - heard_ > limits_.silence && socket_.available(ignored) == 0) {
    close("nothing came from the other end for " + text_of(limits_.silence));
    shut();  // the kernel still delivers what it has
  } else if (unsent_.empty()) {
    queue(encode_alive());
  }
}

void Link::end(Errc code, const std::string& reason) {
  if (ended_) return;
  ended_ = true;
  close_by_ = detail::Clock::now() + limits_.silence;  // for the last words to be read
  if (unsent_.empty()) finish();
  asio::post(socket_.get_executor(), [self = shared_from_this(), code, reason] {
    self->owner_.ended(*self, code, reason);
  });
}

void Link::lost(const boost::system::error_code& error) {
  end(Errc::PeerGone, error == asio::error::eof
                          ? std::string("the other end closed the connection without a word")
                          : "the connection broke: " + error.message());
  shut();
}

void Link::shut() {
  if (!socket_.is_open()) return;
  boost::system::error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->owner_.closed(*self); });
}

}  // namespace tenon::relay
