// A session on a socket: reads, writes from a queue, heartbeats, and the deadlines.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <memory>
#include <relay/rendezvous/session.hpp>
#include <relay/rendezvous/socket.hpp>
#include <string>
#include <thread>

namespace tenon::relay {

/// A thread that runs an io_context. Signals of the program do not come to it.
class IoThread {
 public:
  IoThread() = default;
  ~IoThread() { stop(); }
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  void start();
  /// Returns when no handler runs any more. What has not run is dropped with `io`.
  void stop() noexcept;
  /// The same when a handler has called io.stop(), or `at_most` has passed.
  void stop_within(Duration at_most);

  boost::asio::io_context io;

 private:
  void run() noexcept;
  std::thread thread_;
};

/// One connection. Everything in the io thread, after start().
class Link : public std::enable_shared_from_this<Link> {
 public:
  /// Who has links. Not called back from within send() or close(), so it may keep them in
  /// a container that it is going through.
  class Owner {
   public:
    /// Proved, Joined, Received or Told. What it throws ends the link.
    virtual void happened(Link& link, Action& action) = 0;
    /// Once; nothing happens behind it.
    virtual void ended(Link& link, Errc code, const std::string& reason) = 0;
    /// The socket is closed: the link may go.
    virtual void closed(Link& link) = 0;

   protected:
    ~Owner() = default;
  };

  Link(Tcp::socket socket, Session::Setup setup, Owner& owner, PeerId id);

  void start();
  void send(SharedBytes frame);
  /// Says why, closes when that is sent.
  void close(const std::string& reason);
  /// Closes at once and calls nobody back.
  void drop();

  [[nodiscard]] PeerId id() const noexcept { return id_; }
  [[nodiscard]] bool proved() const noexcept { return proved_; }
  [[nodiscard]] bool joined() const noexcept { return joined_; }  ///< whether it ever did
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  [[nodiscard]] const Tcp::socket& socket() const noexcept { return socket_; }

 private:
  void read();
  void heard(std::size_t bytes);
  void act(Action& action);
  void write();
  void tick();
  void look_at_the_clock();
  void queue(SharedBytes frame);
  void end(Errc code, const std::string& reason);
  void lost(const boost::system::error_code& error);
  void finish();
  void shut();

  using Time = detail::Clock::time_point;

  Tcp::socket socket_;
  boost::asio::steady_timer timer_;
  Limits limits_;
  Session session_;
  Owner& owner_;
  PeerId id_;
  std::array<char, std::size_t{64} << 10> buffer_{};
  std::deque<SharedBytes> unsent_;
  std::size_t unsent_bytes_ = 0;
  bool proved_ = false, joined_ = false, ended_ = false;
  Time heard_{}, close_by_{};
};

}  // namespace tenon::relay
