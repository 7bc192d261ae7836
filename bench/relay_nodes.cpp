#include "relay_nodes.hpp"

#include <functional>
#include <utility>

#include "report.hpp"

namespace tenon::bench {
namespace {

constexpr const char* kSecret = "a bench between this machine's own namespaces";

double microseconds(Duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

// A receiver that joins is no news; one that fails would explain a row.
std::function<void(const std::string&)> note_of(const RelayBoard& board, const char* who) {
  return [&board, who](const std::string& text) {
    if (!board.quiet && !board.ended && text.find(" joined") == std::string::npos)
      say(std::string(who) + ": " + text);
  };
}

}  // namespace

void Stages::add(const relay::VersionReport& report) noexcept {
  waited.add_us(microseconds(report.waited));
  transfer.add_us(microseconds(report.transfer));
  prepare.add_us(microseconds(report.prepare));
  wire.add_us(microseconds(report.wire));
}

void send_from(const Network& network, const std::string& name, relay::SenderOptions options,
               RelayBoard& board) {
  network.enter(0);
  options.listen = network.address(0) + ":0";
  options.secret = kSecret;
  options.attach = kPatience;
  relay::Sender sender(name, options);
  (void)sender.address().copy(board.address.data(), board.address.size() - 1);
  board.listening.set(1);
  relay::Watch watch;
  watch.note = note_of(board, "sender");
  watch.group = [&](const relay::GroupReport& report) { board.group.set(report.group); };
  watch.version = [&](const relay::VersionReport& report) { board.sent.add(report); };
  watch.stop = [&] { return board.ended.load(); };
  sender.run(watch);
}

void receive_on(const Network& network, int node, relay::ReceiverOptions options, RelayBoard& board,
                ReceiverBoard& mine) {
  network.enter(node);
  board.listening.await(1);
  options.from = board.address.data();
  options.secret = kSecret;
  relay::Receiver receiver(options);
  relay::Watch watch;
  watch.note = note_of(board, "receiver");
  watch.version = [&](const relay::VersionReport& report) {
    mine.received.add(report);
    mine.version.set(report.version);
  };
  watch.stop = [&] { return board.ended.load(); };
  receiver.run(watch);
}

}  // namespace tenon::bench
