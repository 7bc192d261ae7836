// The stores of groups, over the rendezvous, in one process.
#include <future>

#include "raw_peer.hpp"

namespace tenon::relay {
namespace {

const Message kHello{"hello", "{}"};
const Message kWelcome{"welcome", "{}"};

TEST(GroupStore, TellsAllMembers) {
  Listener listener(kAnyPort, kWelcome, quick());
  Connection a(listener.address(), kHello, quick(), soon());
  Connection b(listener.address(), kHello, quick(), soon());
  const std::string bytes("\0\xFF two", 6);
  a.store(1)->set("from a", bytes);
  listener.store(1)->set("from the listener", "x");
  for (const auto& store : {a.store(1), b.store(1), listener.store(1)}) {
    EXPECT_EQ(store->get("from a", soon()), bytes);
    EXPECT_EQ(store->get("from the listener", soon()), "x");
    EXPECT_THROWS(DeadlinePassed, "\"never\"", (void)store->get("never", Deadline(20ms)));
  }
}

TEST(GroupStore, KeepsWhatIsSetBeforeItIsAskedForAndDropsOldGroups) {
  Listener listener(kAnyPort, kWelcome, quick());
  Connection early(listener.address(), kHello, quick(), soon());
  Connection late(listener.address(), kHello, quick(), soon());
  const auto first = late.store(1);
  early.store(1)->set("key", "of 1");
  EXPECT_EQ(first->get("key", soon()), "of 1");
  early.store(2)->set("key", "of 2");
  early.store(2)->set("more", "of 2");
  EXPECT_EQ(first->get("key", soon()), "of 1") << "the late one is still in group 1";
  EXPECT_EQ(late.store(2)->get("more", soon()), "of 2");
  EXPECT_EQ(late.store(2)->get("key", soon()), "of 2");
  EXPECT_THROWS(Aborted, "group 1 is over", (void)first->get("key", soon()));
}

TEST(GroupStore, CancelEndsWaitsOfThatGroup) {
  Listener listener(kAnyPort, kWelcome, quick());
  Connection connection(listener.address(), kHello, quick(), soon());
  for (const auto& store : {connection.store(5), listener.store(5)}) {
    auto waiting = std::async(
        std::launch::async, [&] { return test::thrown([&] { (void)store->get("key", soon()); }); });
    std::this_thread::sleep_for(20ms);
    store->cancel();
    EXPECT_TRUE(waiting.get().starts_with("Aborted"));
    EXPECT_THROWS(Aborted, "was broken up", (void)store->get("key", soon()));
  }
  connection.store(6)->set("key", "x");
  EXPECT_EQ(listener.store(6)->get("key", soon()), "x");
}

TEST(GroupStore, LostConnectionEndsWaitsAndStoresMayStay) {
  auto listener = std::make_unique<Listener>(kAnyPort, kWelcome, quick());
  auto connection = std::make_unique<Connection>(listener->address(), kHello, quick(), soon());
  const auto store = connection->store(1), of_listener = listener->store(1);
  auto waiting = std::async(std::launch::async,
                            [&] { return test::thrown([&] { (void)store->get("key", soon()); }); });
  std::this_thread::sleep_for(20ms);
  listener.reset();
  EXPECT_TRUE(waiting.get().starts_with("PeerGone"));
  EXPECT_THROWS(PeerGone, "the listener was closed", store->set("key", "x"));
  EXPECT_THROWS(PeerGone, "this listener was closed", of_listener->set("key", "x"));
  connection.reset();
  EXPECT_THROWS(PeerGone, "", (void)store->get("key", soon()));
}

TEST(GroupStore, IsBounded) {
  Listener listener(kAnyPort, kWelcome, quick());
  const auto store = listener.store(1);
  EXPECT_THROWS(InvalidArgument, "the limit is", store->set("key", std::string(2 << 20, 'x')));
  const auto fill = [&] {
    for (int i = 0; i < 100; ++i) store->set(std::to_string(i), std::string(1'000'000, 'x'));
  };
  EXPECT_THROWS(InvalidArgument, "as much as it may", fill());
  for (int i = 0; i < 100; ++i) store->set("0", std::string(1'000, 'x'));  // again is not more
  listener.store(2)->set("key", std::string(1'000'000, 'x'));
}

}  // namespace
}  // namespace tenon::relay
