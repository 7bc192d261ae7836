// The rendezvous between processes: who is killed, stopped or forked, and what the others see.
#include <sys/resource.h>

#include "raw_peer.hpp"

namespace tenon::relay {
namespace {

using test::Child;
using test::Signal;

const Message kHello{"hello", "{}"};
const Message kWelcome{"welcome", "{}", "layout"};

/// A process that joins, answers each message with the same one, and ends with status 7 when the
/// listener is lost.
int answer(const std::string& address, const RendezvousOptions& options) {
  Connection connection(address, kHello, options, soon());
  try {
    for (;;)
      if (const auto message = connection.next(soon())) connection.send(*message);
  } catch (const Error& error) {
    return error.code() == Errc::PeerGone ? 7 : 8;
  }
}

/// A process that does `body` with the address that join() tells it. Forked while the test has no
/// other threads: one of them might hold a lock, which nobody would release in the child.
class Joining {
 public:
  explicit Joining(const std::function<int(const std::string&)>& body)
      : child([this, body] { return body(told_address()); }) {}
  void join(const std::string& address) const {
    if (::write(pipe_.write, address.c_str(), address.size() + 1) < 0)
      throw SystemError{errno, "telling a child where to join"};
  }

 private:
  struct Pipe {
    Pipe() {
      int fds[2];
      if (::pipe(fds) != 0) throw SystemError{errno, "making a pipe"};
      read = fds[0];
      write = fds[1];
    }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;
    ~Pipe() {
      ::close(read);
      ::close(write);
    }
    int read = -1, write = -1;
  };
  [[nodiscard]] std::string told_address() const {
    char address[64] = {};  // one write of so few bytes arrives whole
    if (::read(pipe_.read, address, sizeof(address) - 1) <= 0)
      throw SystemError{errno, "being told where to join"};
    return address;
  }
  Pipe pipe_;

 public:
  Child child;  // behind the pipe, which it uses
};

/// A process that listens at an address it tells, until it is killed.
struct ListeningChild {
  explicit ListeningChild(const RendezvousOptions& options)
      : address([] {
          const RawListener taken;  // closed again; the number stays free for a moment
          return taken.address();
        }()),
        child([this, options] {
          Listener listener(address, kWelcome, options);
          for (;;) ::pause();
          return 0;
        }) {}
  std::string address;
  Child child;
};

TEST(RendezvousProcesses, PassMessagesBothWays) {
  Joining child([&](const auto& address) { return answer(address, quick()); });
  Listener listener(kAnyPort, kWelcome, quick());
  child.join(listener.address());
  const PeerId peer = next_of(listener, Event::Kind::joined).peer;
  for (int i = 0; i < 100; ++i) {
    listener.send(peer, {"ping", "{\"n\":" + std::to_string(i) + "}"});
    EXPECT_EQ(next_of(listener, Event::Kind::message).message.fields,
              "{\"n\":" + std::to_string(i) + "}");
  }
  listener.close(peer, "done");
  EXPECT_EQ(child.child.wait(), 7);
}

TEST(RendezvousProcesses, KilledReceiverIsNoticedBeforeItIsMissed) {
  RendezvousOptions patient = quick();
  patient.limits.silence = std::chrono::minutes(1);
  Joining child([&](const auto& address) { return answer(address, patient); });
  Listener listener(kAnyPort, kWelcome, patient);
  child.join(listener.address());
  const PeerId peer = next_of(listener, Event::Kind::joined).peer;
  child.child.kill();
  const auto event = listener.next(Deadline(10s));
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, Event::Kind::left);
  EXPECT_EQ(event->peer, peer);
}

TEST(RendezvousProcesses, StoppedReceiverIsMissedAndOthersAreNot) {
  RendezvousOptions hasty = quick();
  hasty.limits.silence = 700ms;
  Joining stopped([&](const auto& address) { return answer(address, hasty); });
  Joining other([&](const auto& address) { return answer(address, hasty); });
  Listener listener(kAnyPort, kWelcome, hasty);
  stopped.join(listener.address());
  const PeerId peer = next_of(listener, Event::Kind::joined).peer;
  other.join(listener.address());
  const PeerId alive = next_of(listener, Event::Kind::joined).peer;
  stopped.child.signal(SIGSTOP);
  const Event left = next_of(listener, Event::Kind::left);
  EXPECT_EQ(left.peer, peer);
  EXPECT_NE(left.reason.find("nothing came"), std::string::npos) << left.reason;
  listener.send(alive, {"ping", "{}"});
  EXPECT_EQ(next_of(listener, Event::Kind::message).peer, alive);
  stopped.child.signal(SIGCONT);
  EXPECT_EQ(stopped.child.wait(), 7) << "it learns that it was given up";
}

TEST(RendezvousProcesses, ReceiverThatWasStoppedDoesNotTakeTheListenerForSilent) {
  RendezvousOptions hasty = quick();
  hasty.limits.silence = 500ms;
  Joining child([&](const auto& address) { return answer(address, hasty); });
  Listener listener(kAnyPort, kWelcome, quick());
  child.join(listener.address());
  const PeerId peer = next_of(listener, Event::Kind::joined).peer;
  for (int i = 0; i < 3; ++i) {
    child.child.signal(SIGSTOP);
    std::this_thread::sleep_for(800ms);  // less than the listener's patience
    child.child.signal(SIGCONT);
    listener.send(peer, {"ping", "{}"});
    const auto event = listener.next(soon());
    ASSERT_TRUE(event);
    EXPECT_EQ(event->kind, Event::Kind::message) << event->reason;
  }
}

TEST(RendezvousProcesses, StoppedListenerIsMissed) {
  RendezvousOptions hasty = quick();
  hasty.limits.silence = 700ms;
  ListeningChild listening(hasty);
  Connection connection(listening.address, kHello, hasty, soon());
  listening.child.signal(SIGSTOP);
  EXPECT_THROWS(PeerGone, "nothing came", (void)connection.next(soon()));
}

TEST(RendezvousProcesses, KilledListenerIsNoticedBeforeItIsMissed) {
  RendezvousOptions patient = quick();
  patient.limits.silence = std::chrono::minutes(1);
  ListeningChild listening(patient);
  Connection connection(listening.address, kHello, patient, soon());
  const auto store = connection.store(1);
  listening.child.kill();
  EXPECT_THROWS(PeerGone, "", (void)connection.next(Deadline(10s)));
  EXPECT_THROWS(PeerGone, "", (void)store->get("key", Deadline(10s)));
}

TEST(RendezvousProcesses, WhoConnectsWhileDescriptorsAreOutGetsItsTurn) {
  std::string address;
  { address = RawListener().address(); }
  Signal full;
  Child child([&] {
    Listener listener(address, kWelcome, quick());
    const struct ::rlimit few { 64, 64 };
    if (::setrlimit(RLIMIT_NOFILE, &few) != 0) return 1;
    std::vector<int> taken;
    for (int fd; (fd = ::dup(0)) >= 0;) taken.push_back(fd);
    full.poke();
    std::this_thread::sleep_for(300ms);
    for (const int fd : taken) ::close(fd);
    return listener.next(soon()) ? 0 : 2;
  });
  ASSERT_TRUE(full.wait());
  EXPECT_NO_THROW(Connection(address, kHello, quick(), soon()));
  EXPECT_EQ(child.wait(), 0);
}

TEST(RendezvousProcesses, ShareStores) {
  const auto member = [](const std::string& address, const std::string& own,
                         const std::string& other) {
    Connection connection(address, kHello, quick(), soon());
    if (connection.next(soon())->type != "form") return 9;
    const auto store = connection.store(4);
    store->set(own, "value of " + own);
    if (store->get(other, soon()) != "value of " + other) return 1;
    if (store->get("listener", soon()) != "value of the listener") return 2;
    return 0;
  };
  Joining a([&](const auto& address) { return member(address, "a", "b"); });
  Joining b([&](const auto& address) { return member(address, "b", "a"); });
  Listener listener(kAnyPort, kWelcome, quick());
  a.join(listener.address());
  b.join(listener.address());
  const PeerId first = next_of(listener, Event::Kind::joined).peer;
  const PeerId second = next_of(listener, Event::Kind::joined).peer;
  // A value goes to those that have joined, as the members of a group have.
  for (const PeerId peer : {first, second}) listener.send(peer, {"form", "{}"});
  const auto store = listener.store(4);
  store->set("listener", "value of the listener");
  EXPECT_EQ(store->get("a", soon()), "value of a");
  EXPECT_EQ(store->get("b", soon()), "value of b");
  EXPECT_EQ(a.child.wait(), 0);
  EXPECT_EQ(b.child.wait(), 0);
}

TEST(RendezvousProcesses, MemberThatDiesEndsAWaitThroughTheWatcher) {
  std::shared_ptr<GroupStore> store;
  Joining child([&](const auto& address) { return answer(address, quick()); });
  Listener listener(kAnyPort, kWelcome, quick(), [&](const Event& event) {
    if (event.kind == Event::Kind::left) store->cancel();
  });
  store = listener.store(1);
  child.join(listener.address());
  (void)next_of(listener, Event::Kind::joined);
  child.child.signal(SIGKILL);
  EXPECT_THROWS(Aborted, "group 1 was broken up", (void)store->get("of the dead", soon()));
}

TEST(RendezvousProcesses, ForkedChildLeavesItsParentsConnectionsAlone) {
  auto listener = std::make_unique<Listener>(kAnyPort, kWelcome, quick());
  auto connection = std::make_unique<Connection>(listener->address(), kHello, quick(), soon());
  const PeerId peer = next_of(*listener, Event::Kind::joined).peer;
  Child child([&] {
    connection.reset();
    listener.reset();
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  listener->send(peer, {"still_here", "{}"});
  EXPECT_EQ(connection->next(soon())->type, "still_here");
}

}  // namespace
}  // namespace tenon::relay
