// Listener and Connection in one process: joining, messages, and whoever cannot join.
#include <fcntl.h>

#include <boost/asio/ip/address.hpp>
#include <filesystem>
#include <future>
#include <mutex>
#include <relay/rendezvous/socket.hpp>

#include "raw_peer.hpp"

namespace tenon::relay {
namespace {

const Message kHello{"hello", R"({"node":"b"})", "of the receiver"};
const Message kWelcome{"welcome", R"({"publication":"policy"})", "the layout"};

TEST(Rendezvous, JoinsAndPassesMessagesBothWaysInOrder) {
  std::mutex mutex;
  std::vector<std::string> watched;
  Listener listener(kAnyPort, kWelcome, quick(), [&](const Event& event) {
    const std::lock_guard lock(mutex);
    watched.push_back(event.kind == Event::Kind::left ? "left" : event.message.type);
  });
  {
    Connection connection(listener.address(), kHello, quick(), soon());
    EXPECT_EQ(connection.welcome().type, "welcome");
    EXPECT_EQ(connection.welcome().fields, R"({"publication":"policy"})");
    EXPECT_EQ(connection.welcome().blob, "the layout");
    EXPECT_EQ(connection.local_address(), "127.0.0.1");
    const Event joined = next_of(listener, Event::Kind::joined);
    EXPECT_EQ(joined.message.fields, R"({"node":"b"})");
    EXPECT_EQ(joined.message.blob, "of the receiver");
    EXPECT_EQ(joined.address, "127.0.0.1");
    for (int i = 0; i < 100; ++i) {
      listener.send(joined.peer, {"to_receiver", "{\"n\":" + std::to_string(i) + "}"});
      connection.send({"to_sender", "{\"n\":" + std::to_string(i) + "}"});
    }
    for (int i = 0; i < 100; ++i) {
      EXPECT_EQ(connection.next(soon())->fields, "{\"n\":" + std::to_string(i) + "}");
      const Event message = next_of(listener, Event::Kind::message);
      EXPECT_EQ(message.message.fields, "{\"n\":" + std::to_string(i) + "}");
      EXPECT_EQ(message.peer, joined.peer);
    }
    EXPECT_FALSE(connection.next(Deadline(20ms)));
    EXPECT_FALSE(listener.next(Deadline(20ms)));
  }
  EXPECT_NE(next_of(listener, Event::Kind::left).reason.find("the receiver was closed"),
            std::string::npos);
  const std::lock_guard lock(mutex);
  ASSERT_EQ(watched.size(), 102U);
  EXPECT_EQ(watched.front(), "hello");
  EXPECT_EQ(watched.back(), "left");
}

TEST(Rendezvous, PassesBlobsOf64MiB) {
#ifdef __SANITIZE_THREAD__
  std::string blob(std::size_t{4} << 20, '\0');  // its copies of memory take their time
#else
  std::string blob(std::size_t{64} << 20, '\0');
#endif
  for (std::size_t i = 0; i < blob.size(); i += 997) blob[i] = static_cast<char>(i * 31);
  Listener listener(kAnyPort, {"welcome", "{}", blob}, quick());
  Connection connection(listener.address(), {"hello", "{}", blob}, quick(), soon());
  EXPECT_TRUE(connection.welcome().blob == blob);
  EXPECT_TRUE(next_of(listener, Event::Kind::joined).message.blob == blob);
}

TEST(Rendezvous, BlobsBeyondTheLimitOfTheOtherEndEndTheConnection) {
  RendezvousOptions little = quick();
  little.limits.blob_bytes = 1000;
  Listener listener(kAnyPort, {"welcome", "{}"}, little);
  Connection connection(listener.address(), {"hello", "{}"}, quick(), soon());
  connection.send({"much", "{}", std::string(1001, 'x')});
  EXPECT_NE(next_of(listener, Event::Kind::left).reason.find("more than the 1000"),
            std::string::npos);
  EXPECT_THROWS(PeerGone, "more than the 1000", (void)connection.next(soon()));
  EXPECT_THROWS(PeerGone, "", connection.send({"more", "{}"}));
}

TEST(Rendezvous, SecretsThatDifferAreToldToTheReceiver) {
  Listener listener(kAnyPort, kWelcome, quick());
  for (const std::string& other : {std::string("another secret of many"), std::string()}) {
    RendezvousOptions options = quick();
    options.secret = other;
    EXPECT_THROWS(WrongSecret, listener.address(),
                  Connection(listener.address(), kHello, options, soon()));
  }
  EXPECT_FALSE(listener.next(Deadline(20ms))) << "who cannot prove it is no event";
}

TEST(Rendezvous, NoSecretAtAllIsEnoughOnLoopbackAlone) {
  RendezvousOptions open = quick();
  open.secret.clear();
  Listener listener(kAnyPort, kWelcome, open);
  EXPECT_NO_THROW(Connection(listener.address(), kHello, open, soon()));
  EXPECT_THROWS(InvalidArgument, "needs a secret", Listener("0.0.0.0:0", kWelcome, open));
  EXPECT_THROWS(InvalidArgument, "needs a secret", Listener("[::]:0", kWelcome, open));
  EXPECT_THROWS(InvalidArgument, "needs a secret",
                Connection("192.0.2.1:1", kHello, open, Deadline(0ms)));
  open.secret = "short";
  EXPECT_THROWS(InvalidArgument, "at least 16", Listener(kAnyPort, kWelcome, open));
  EXPECT_THROWS(InvalidArgument, "at least 16",
                Connection(listener.address(), kHello, open, soon()));
}

TEST(Rendezvous, OffLoopbackItListensWithASecret) {
  Listener listener("0.0.0.0:0", kWelcome, quick());
  const std::string port = listener.address().substr(listener.address().rfind(':'));
  EXPECT_NO_THROW(Connection("localhost" + port, kHello, quick(), soon()));
}

TEST(Rendezvous, ListenerOfBothFamiliesNamesPeersAsTheyAre) {
  try {
    Listener listener("[::]:0", kWelcome, quick());
    const std::string port = listener.address().substr(listener.address().rfind(':'));
    Connection connection("127.0.0.1" + port, kHello, quick(), soon());
    EXPECT_EQ(next_of(listener, Event::Kind::joined).address, "127.0.0.1");
  } catch (const SystemError& error) {
    GTEST_SKIP() << "no IPv6 here: " << error.what();
  }
}

TEST(Rendezvous, WorksOverIpv6) {
  try {
    Listener listener("[::1]:0", kWelcome, quick());
    Connection connection(listener.address(), kHello, quick(), soon());
    EXPECT_EQ(connection.local_address(), "::1");
    EXPECT_EQ(next_of(listener, Event::Kind::joined).address, "::1");
  } catch (const SystemError& error) {
    GTEST_SKIP() << "no IPv6 here: " << error.what();
  }
}

// Sends everything back: the receiver's own first frame, and its own proof.
TEST(Rendezvous, MirrorIsNoListener) {
  const RawListener mirror;
  std::thread reflecting([&] {
    const RawPeer peer = mirror.accept();
    for (std::string bytes; !(bytes = peer.receive()).empty();) (void)peer.send(bytes);
  });
  EXPECT_THROWS(WrongSecret, "does not know the secret",
                Connection(mirror.address(), kHello, quick(), soon()));
  reflecting.join();
}

TEST(Rendezvous, ListenerWithoutTheSecretHearsNoHello) {
  const RawListener impostor;
  std::string heard;
  std::thread lying([&] {
    const RawPeer peer = impostor.accept();
    Session session({Role::sender, "made up, of many bytes", make_nonce(), {}, {}});
    (void)peer.send(*session.first());
    heard = peer.receive();
    (void)peer.send(*encode_proof(std::string(64, '0')));
    heard += peer.until_closed();
  });
  EXPECT_THROWS(WrongSecret, "does not know the secret",
                Connection(impostor.address(), kHello, quick(), soon()));
  lying.join();
  EXPECT_NE(heard.find("proof"), std::string::npos);
  EXPECT_EQ(heard.find("hello"), std::string::npos);
}

TEST(Rendezvous, OtherProtocolsAreNamed) {
  const RawListener future;
  std::thread speaking([&] {
    const RawPeer peer = future.accept();
    (void)peer.send(*encode(First{7, "9.9.9", "x"}));
    (void)peer.until_closed();
  });
  EXPECT_THROWS(WrongVersion, "protocol 7 (Tenon 9.9.9)",
                Connection(future.address(), kHello, quick(), soon()));
  speaking.join();
  Listener listener(kAnyPort, kWelcome, quick());
  const RawPeer peer(listener.address());
  (void)peer.send(*encode(First{7, "9.9.9", "x"}));
  EXPECT_NE(peer.until_closed().find("protocol 7 (Tenon 9.9.9)"), std::string::npos);
}

TEST(Rendezvous, PortInUseIsSaid) {
  Listener listener(kAnyPort, kWelcome, quick());
  EXPECT_THROWS(System, "another process listens on this port",
                Listener(listener.address(), kWelcome, quick()));
  EXPECT_THROWS(System, "no interface of this node has it",
                Listener("192.0.2.1:0", kWelcome, quick()));
}

TEST(Rendezvous, NobodyListensUntilTheDeadline) {
  std::string address;
  { address = Listener(kAnyPort, kWelcome, quick()).address(); }
  const Deadline least(150ms);
  EXPECT_THROWS(DeadlinePassed, "nobody listens there",
                Connection(address, kHello, quick(), Deadline(150ms)));
  EXPECT_TRUE(least.passed()) << "it did not try again";
}

TEST(Rendezvous, ListenerThatComesLaterIsFound) {
  std::string address;
  { address = Listener(kAnyPort, kWelcome, quick()).address(); }
  auto joining = std::async(std::launch::async, [&] {
    return Connection(address, kHello, quick(), soon()).welcome().type;
  });
  std::this_thread::sleep_for(150ms);
  Listener listener(address, kWelcome, quick());
  EXPECT_EQ(joining.get(), "welcome");
}

TEST(Rendezvous, WhoListensAndSaysNothingIsLeftAtTheDeadline) {
  const RawListener silent;
  EXPECT_THROWS(DeadlinePassed, silent.address(),
                Connection(silent.address(), kHello, quick(), Deadline(150ms)));
}

TEST(Rendezvous, WhatIsNoRendezvousIsSaid) {
  const RawListener web;
  std::thread serving([&] {
    const RawPeer peer = web.accept();
    (void)peer.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    (void)peer.until_closed();
  });
  EXPECT_THROWS(PeerGone, "does not speak the rendezvous",
                Connection(web.address(), kHello, quick(), soon()));
  serving.join();
}

TEST(Rendezvous, HostsThatAreNoneAreInvalid) {
  EXPECT_THROWS(InvalidArgument, "no host",
                Connection("no-such-host.invalid:1", kHello, quick(), soon()));
}

TEST(Address, IsHostAndPort) {
  EXPECT_EQ(parse_address("node-1:80").host, "node-1");
  EXPECT_EQ(parse_address("10.0.0.1:65535").port, 65535);
  EXPECT_EQ(parse_address("[fe80::1]:7").host, "fe80::1");
  for (const std::string bad : {"", "host", ":1", "host:", "host:65536", "host:-1", "host:1x",
                                "::1:80", "[]:1", "[::1]", "[::1:80", "host]:1", "host: 1"})
    EXPECT_THROWS(InvalidArgument, "HOST:PORT", (void)parse_address(bad));
}

TEST(Address, OfLoopbackIsToldApart) {
  const auto loopback = [](const char* text) {
    return is_loopback(boost::asio::ip::make_address(text));
  };
  EXPECT_TRUE(loopback("127.0.0.1") && loopback("127.9.9.9") && loopback("::1"));
  EXPECT_TRUE(loopback("::ffff:127.0.0.1"));
  EXPECT_FALSE(loopback("0.0.0.0") || loopback("::") || loopback("10.0.0.1") || loopback("::2"));
  EXPECT_FALSE(loopback("::ffff:10.0.0.1"));
}

TEST(Strangers, HalfOpenOnesShutNobodyOut) {
  Listener listener(kAnyPort, kWelcome, quick());
  std::vector<RawPeer> half_open;
  for (int i = 0; i < 20; ++i) half_open.emplace_back(listener.address());
  Connection connection(listener.address(), kHello, quick(), soon());
  (void)half_open.front().until_closed(500ms);  // before its deadline for joining
}

TEST(Strangers, OneThatDribblesIsClosedAtTheDeadlineForJoining) {
  Listener listener(kAnyPort, kWelcome, quick());
  const RawPeer slow(listener.address());
  const std::string first = *encode(First{kProtocol, "0", std::string(64, '0')});
  const auto began = std::chrono::steady_clock::now();
  std::size_t sent = 0;
  while (sent < first.size() && slow.send(first.substr(sent, 1))) {
    ++sent;
    std::this_thread::sleep_for(100ms);
  }
  EXPECT_LT(sent, 40U);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 1s);
}

TEST(Strangers, GarbageIsClosedAndDisturbsNobody) {
  Listener listener(kAnyPort, kWelcome, quick());
  Connection connection(listener.address(), kHello, quick(), soon());
  const PeerId peer = next_of(listener, Event::Kind::joined).peer;
  for (const std::string& garbage :
       {std::string(1 << 16, '\xFF'), std::string("GET / HTTP/1.1\r\n\r\n"),
        std::string(16, '\0')}) {
    const RawPeer rude(listener.address());
    (void)rude.send(garbage);
    (void)rude.until_closed();
    listener.send(peer, {"still_here", "{}"});
    EXPECT_EQ(connection.next(soon())->type, "still_here");
  }
  EXPECT_FALSE(listener.next(Deadline(20ms)));
}

TEST(Peers, BeyondTheLimitAreTold) {
  RendezvousOptions two = quick();
  two.limits.peers = 2;
  Listener listener(kAnyPort, kWelcome, two);
  auto first = std::make_unique<Connection>(listener.address(), kHello, quick(), soon());
  Connection second(listener.address(), kHello, quick(), soon());
  EXPECT_THROWS(PeerGone, "2 receivers already",
                Connection(listener.address(), kHello, quick(), soon()));
  first.reset();
  (void)next_of(listener, Event::Kind::left);
  EXPECT_NO_THROW(Connection(listener.address(), kHello, quick(), soon()));
}

TEST(Peers, OneThatStopsReadingIsClosed) {
  RendezvousOptions little = quick();
  little.limits.queue_bytes = std::size_t{1} << 20;
  Listener listener(kAnyPort, kWelcome, little);
  const RawPeer deaf(listener.address());
  deaf.join();
  const PeerId peer = next_of(listener, Event::Kind::joined).peer;
  const Message much{"much", "{}", std::string(256 << 10, 'x')};
  std::optional<Event> event;
  for (int i = 0; i < 1000 && !event; ++i) {
    (void)deaf.send(*encode_alive());
    listener.send(peer, much);
    event = listener.next(Deadline(2ms));
  }
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, Event::Kind::left);
  EXPECT_NE(event->reason.find("does not read"), std::string::npos) << event->reason;
}

TEST(Peers, OneWhoseMessagesNobodyReadsIsClosed) {
  RendezvousOptions little = quick();
  little.limits.queue_bytes = std::size_t{1} << 20;
  Listener listener(kAnyPort, kWelcome, little);
  Connection connection(listener.address(), kHello, quick(), soon());
  const auto talk = [&] {
    for (int i = 0; i < 1000; ++i) {
      connection.send({"much", "{}", std::string(256 << 10, 'x')});
      std::this_thread::sleep_for(1ms);
    }
  };
  EXPECT_THROWS(PeerGone, "nobody reads what it sends", talk());
}

TEST(Peers, OneThatFallsSilentIsLost) {
  RendezvousOptions hasty = quick();
  hasty.limits.silence = 300ms;
  Listener listener(kAnyPort, kWelcome, hasty);
  const RawPeer silent(listener.address());
  silent.join();
  EXPECT_NE(next_of(listener, Event::Kind::left).reason.find("nothing came"), std::string::npos);
}

TEST(Peers, OneThatOnlyBeatsStays) {
  RendezvousOptions hasty = quick();
  hasty.limits.silence = 1s;
  Listener listener(kAnyPort, kWelcome, hasty);
  Connection connection(listener.address(), kHello, hasty, soon());
  (void)next_of(listener, Event::Kind::joined);
  EXPECT_FALSE(listener.next(Deadline(1500ms)));
  EXPECT_FALSE(connection.next(Deadline(0ms)));
}

TEST(Peers, OneThatIsClosedIsToldWhyBehindWhatWasSentBefore) {
  Listener listener(kAnyPort, kWelcome, quick());
  Connection connection(listener.address(), kHello, quick(), soon());
  const PeerId peer = next_of(listener, Event::Kind::joined).peer;
  listener.send(peer, {"last", "{}", std::string(8 << 20, 'x')});
  listener.close(peer, "it was enough");
  listener.send(peer, {"too_late", "{}"});
  EXPECT_EQ(connection.next(soon())->type, "last");
  EXPECT_THROWS(PeerGone, "it was enough", (void)connection.next(soon()));
  EXPECT_EQ(next_of(listener, Event::Kind::left).reason, "it was enough");
  EXPECT_FALSE(listener.next(Deadline(20ms))) << "nothing follows";
}

TEST(Closing, ListenerTellsItsPeers) {
  auto listener = std::make_unique<Listener>(kAnyPort, kWelcome, quick());
  std::promise<std::string> left;
  Connection connection(listener->address(), kHello, quick(), soon(),
                        [&](const Event& event) { left.set_value(event.reason); });
  listener.reset();
  EXPECT_THROWS(PeerGone, "the listener was closed", (void)connection.next(soon()));
  EXPECT_NE(left.get_future().get().find("the listener was closed"), std::string::npos);
}

TEST(Closing, WhatWasSentBeforeArrives) {
  auto listener = std::make_unique<Listener>(kAnyPort, kWelcome, quick());
  Connection connection(listener->address(), kHello, quick(), soon());
  const PeerId peer = next_of(*listener, Event::Kind::joined).peer;
  listener->send(peer, {"last", "{}", std::string(16 << 20, 'x')});  // more than the kernel buffers
  listener.reset();
  EXPECT_EQ(connection.next(soon())->type, "last");
  EXPECT_THROWS(PeerGone, "the listener was closed", (void)connection.next(soon()));
}

TEST(Closing, WhileSomebodyJoinsIsNoHang) {
  for (int i = 0; i < 20; ++i) {
    auto listener = std::make_unique<Listener>(kAnyPort, kWelcome, quick());
    auto joining = std::async(std::launch::async, [address = listener->address()] {
      return test::thrown([&] { Connection(address, kHello, quick(), Deadline(300ms)); });
    });
    std::this_thread::sleep_for(std::chrono::microseconds(100 * i));
    const RawPeer half_open(listener->address());
    listener.reset();
    const std::string end = joining.get();
    EXPECT_TRUE(end == "nothing" || end.starts_with("PeerGone") ||
                end.starts_with("DeadlinePassed"))
        << end;
  }
}

std::size_t entries(const char* folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder),
                                                std::filesystem::directory_iterator()));
}

TEST(Closing, LeavesNoDescriptorsAndNoThreads) {
  Listener listener(kAnyPort, kWelcome, quick());
  const auto join_once = [&] {
    { const Connection connection(listener.address(), kHello, quick(), soon()); }
    EXPECT_EQ(next_of(listener, Event::Kind::left).kind, Event::Kind::left);
    const Listener other(kAnyPort, kWelcome, quick());
  };
  join_once();  // what is made once and kept
  const auto settled = [](const char* folder, std::size_t most) {
    for (const Deadline deadline = soon(); entries(folder) > most && !deadline.passed();)
      std::this_thread::sleep_for(5ms);
    return entries(folder);
  };
  const std::size_t threads = entries("/proc/self/task");
  std::this_thread::sleep_for(50ms);
  const std::size_t descriptors = entries("/proc/self/fd");
  for (int i = 0; i < 50; ++i) join_once();
  EXPECT_LE(settled("/proc/self/task", threads), threads);
  EXPECT_LE(settled("/proc/self/fd", descriptors), descriptors);
}

TEST(Closing, NoSocketSurvivesExec) {
  Listener listener(kAnyPort, kWelcome, quick());
  Connection connection(listener.address(), kHello, quick(), soon());
  std::size_t sockets = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::stoi(entry.path().filename());
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone);
    if (!target.starts_with("socket:")) continue;
    const bool ours = [&] {
      int domain = 0;
      socklen_t size = sizeof(domain);
      return ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_INET;
    }();
    if (!ours) continue;
    ++sockets;
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << fd;
  }
  EXPECT_GE(sockets, 3U) << "the listener's, and both ends";
}

}  // namespace
}  // namespace tenon::relay
