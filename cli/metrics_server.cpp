// The HTTP side of `tenon metrics --listen`: one thread, GET and HEAD alone, everything bounded.
#include <fmt/format.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <memory>
#include <optional>

#include "common.hpp"
#include "metrics.hpp"

namespace tenon::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr auto kPatience = std::chrono::seconds(5);
constexpr int kAtOnce = 16;
constexpr std::uint32_t kHeaderBytes = 8U << 10U;

using Text = std::function<std::string()>;

/// What all requests share. It outlives the context, which holds the last references to them.
struct Shared {
  const Text& text;
  bool is_loopback;  ///< where it listens
  int running = 0;   ///< connections
};

// "localhost:9464", "127.0.0.1", "[::1]:9464": what no name server can lead to another machine, or
// from a page of another machine to here.
bool is_address_or_localhost(std::string_view host) {
  if (const std::size_t colon = host.rfind(':');
      colon != std::string_view::npos && host.find(']', colon) == std::string_view::npos)
    host = host.substr(0, colon);
  if (beast::iequals({host.data(), host.size()}, "localhost")) return true;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  boost::system::error_code failed;
  (void)asio::ip::make_address(std::string(host), failed);
  return !failed;
}

/// One request, then the connection ends: Prometheus asks a few times a minute.
class Request : public std::enable_shared_from_this<Request> {
 public:
  Request(tcp::socket socket, Shared& shared) : stream_(std::move(socket)), shared_(shared) {
    ++shared_.running;
    parser_.header_limit(kHeaderBytes);
    parser_.body_limit(0);
  }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  ~Request() { --shared_.running; }

  void start() {
    stream_.expires_after(kPatience);
    http::async_read(stream_, buffer_, parser_,
                     [self = shared_from_this()](const beast::error_code& error, std::size_t) {
                       self->answer(error);
                     });
  }

 private:
  void answer(const beast::error_code& error) {
    if (error == http::error::header_limit)
      return say(http::status::request_header_fields_too_large, "too large\n");
    if (error == http::error::body_limit)
      return say(http::status::payload_too_large, "no body is wanted\n");
    if (error == beast::error::timeout || error == http::error::end_of_stream) return;
    if (error) return say(http::status::bad_request, "this is no request\n");
    const auto& request = parser_.get();
    const std::size_t hosts = request.count(http::field::host);
    if (hosts > 1 || (hosts == 0 && request.version() > 10))
      return say(http::status::bad_request, "one Host is wanted\n");
    // A page in a browser of this machine whose name was made to lead here (DNS rebinding) says so.
    const auto host = request[http::field::host];
    if (shared_.is_loopback && hosts > 0 && !is_address_or_localhost({host.data(), host.size()}))
      return say(http::status::misdirected_request, "ask by address, or as localhost\n");
    if (request.method() != http::verb::get && request.method() != http::verb::head) {
      response_.set(http::field::allow, "GET, HEAD");
      return say(http::status::method_not_allowed, "GET is\n");
    }
    if (request.target().substr(0, request.target().find('?')) != "/metrics")
      return say(http::status::not_found, "see /metrics\n");
    try {
      say(http::status::ok, shared_.text());
    } catch (const std::exception& e) {
      say(http::status::internal_server_error, printable(detail::message_of(e)) + "\n");
    }
  }

  void say(http::status status, std::string body) {
    response_.result(status);
    response_.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    response_.keep_alive(false);
    response_.content_length(body.size());
    if (parser_.get().method() != http::verb::head) response_.body() = std::move(body);
    serializer_.emplace(response_);
    stream_.expires_after(kPatience);
    http::async_write(stream_, *serializer_,
                      [self = shared_from_this()](const beast::error_code&, std::size_t) {
                        beast::error_code ignored;
                        (void)self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
                        self->drain();
                      });
  }

  // Until the other side has closed or its time is over: closing before all is read resets the
  // connection, which may take the answer with it.
  void drain() {
    buffer_.clear();
    stream_.async_read_some(
        buffer_.prepare(kHeaderBytes),
        [self = shared_from_this()](const beast::error_code& error, std::size_t) {
          if (!error) self->drain();
        });
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{kHeaderBytes};
  http::request_parser<http::empty_body> parser_;
  http::response<http::string_body> response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
  Shared& shared_;
};

[[noreturn]] void refuse(const std::string& address) {
  throw Error(Errc::InvalidArgument,
              "--listen: '" + address + "' is neither HOST:PORT, [IPV6]:PORT nor a PORT");
}

tcp::endpoint endpoint_of(asio::io_context& context, const std::string& address) {
  const std::size_t colon = address.rfind(':');
  std::string host = colon == std::string::npos ? "127.0.0.1" : address.substr(0, colon);
  const std::string port = address.substr(colon == std::string::npos ? 0 : colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.empty() || host.find(':') != std::string::npos)
    refuse(address);
  std::uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size()) refuse(address);
  boost::system::error_code failed;
  const auto found = tcp::resolver(context).resolve(host, port, failed);
  if (failed || found.empty())
    throw Error(Errc::InvalidArgument, "--listen: there is no host '" + host + "'");
  return found.begin()->endpoint();
}

bool is_loopback(const asio::ip::address& at) {
  if (at.is_v6() && at.to_v6().is_v4_mapped())
    return asio::ip::make_address_v4(asio::ip::v4_mapped, at.to_v6()).is_loopback();
  return at.is_loopback();
}

class Server {
 public:
  Server(asio::io_context& context, const tcp::endpoint& at, Shared& shared)
      : acceptor_(context), pause_(context), shared_(shared) {
    acceptor_.open(at.protocol());
    acceptor_.set_option(asio::socket_base::reuse_address(true));
    acceptor_.bind(at);
    acceptor_.listen(kAtOnce);
    accept();
  }
  [[nodiscard]] tcp::endpoint local() const { return acceptor_.local_endpoint(); }

 private:
  void accept() {
    acceptor_.async_accept([this](const beast::error_code& error, tcp::socket socket) {
      if (!error && shared_.running < kAtOnce)  // else it is closed unheard
        std::make_shared<Request>(std::move(socket), shared_)->start();
      if (!error) return accept();
      pause_.expires_after(std::chrono::milliseconds(100));  // out of descriptors, say
      pause_.async_wait([this](const beast::error_code&) { accept(); });
    });
  }

  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  Shared& shared_;
};

}  // namespace

void serve_metrics(const std::string& address, const Text& text) {
  Shared shared{text, false};
  asio::io_context context(1);  // requests that it still holds at its end count down in `shared`
  const tcp::endpoint at = endpoint_of(context, address);
  shared.is_loopback = is_loopback(at.address());
  try {
    const Server server(context, at, shared);
    const tcp::endpoint local = server.local();
    const std::string host = local.address().to_string();
    print(fmt::format("listening http://{}:{}/metrics\n",
                      local.address().is_v6() ? "[" + host + "]" : host, local.port()));
    context.run();
  } catch (const boost::system::system_error& error) {
    throw SystemError(error.code().value(), "listening at " + address);
  }
}

}  // namespace tenon::cli
