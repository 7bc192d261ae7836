// One address for both ways: whoever connects gets the weights, and is told how they come.
#include <sched.h>
#include <sys/mount.h>

#include <relay/messages.hpp>
#include <support/support.hpp>
#include <tenon/connect.hpp>

namespace tenon::test {
namespace {

class Connects : public ::testing::TestWithParam<MemoryKind> {
 protected:
  /// Publishes what it is told, and hands it on; its address comes through a pipe.
  Child publisher() {
    return Child([this] {
      Model model(GetParam());
      Publisher pub = Publisher::create(name_, model.layout,
                                        {.memory = {GetParam()}, .mode = Mode::double_buffered});
      relay::Sender sender(name_, {.secret = kSecret});
      const std::string address = sender.address();
      if (::write(address_[1], address.c_str(), address.size()) < 0) return 1;
      std::thread sends([&] { sender.run(); });
      for (std::uint64_t v = 1; next_.wait(kPatience * 2); ++v) model.publish(pub, v);
      sender.stop();
      sends.join();
      return 0;
    });
  }
  void SetUp() override { ASSERT_EQ(::pipe(address_), 0); }
  void TearDown() override {
    ::close(address_[0]);
    ::close(address_[1]);
  }
  std::string url() {
    char text[64] = {};
    EXPECT_GT(::read(address_[0], text, sizeof(text) - 1), 0);
    return "tenon://" + std::string(text) + "/" + name_;
  }
  void expect_versions(Connected& connected, const Model& model, std::uint64_t first,
                       std::uint64_t last) {
    for (std::uint64_t v = first; v <= last; ++v) {
      next_.poke();
      const Lease lease = connected->wait(newer_than(v - 1), kPatience);
      EXPECT_EQ(lease.version(), v);
      EXPECT_EQ(model.wrong(lease), 0U);
    }
  }
  ConnectOptions options() const {
    ConnectOptions how;
    how.attach.deadline = kPatience;
    how.secret = kSecret;
    return how;
  }

  static constexpr const char* kSecret = "sixteen bytes at least";
  std::string name_ = unique_name("connect");
  Node node_;
  Model model_{GetParam()};
  Signal next_;
  int address_[2] = {-1, -1};
};

INSTANTIATE_TEST_SUITE_P(Kinds, Connects, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// A simulated GPU is in /dev/shm: where that is another, there is none.
class ConnectsHostMemory : public Connects {};
INSTANTIATE_TEST_SUITE_P(Kinds, ConnectsHostMemory, ::testing::Values(MemoryKind::host),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(Connects, BySharedMemoryWhereThePublisherIs) {
  Child trainer = publisher();
  Connected connected = connect(url(), options());
  EXPECT_EQ(connected.how(), "shared memory");
  expect_versions(connected, model_, 1, 3);
}

TEST_P(Connects, AgainToATrainerThatTookTheOthersPlace) {
  Child trainer = publisher();
  Connected connected = connect(url(), options());
  expect_versions(connected, model_, 1, 2);
  trainer.kill();
  Child successor = publisher();
  Connected again = connect(url(), options());
  EXPECT_EQ(again.how(), "shared memory");
  expect_versions(again, model_, 1, 2);
}

// Of the sender there is only what it says: that it is on a machine that was booted by itself.
TEST_P(ConnectsHostMemory, ByARelayWhereTheSenderIsOnAnotherNode) {
  const relay::Welcome welcome{.library = "0.1.0",
                               .publication = name_,
                               .instance = std::string(32, 'a'),
                               .boot_id = "another machine's",
                               .layout_hash = model_.layout.hash()};
  const relay::Listener listener("127.0.0.1:0", to_message(welcome, model_.layout), {});
  const Publisher namesake = Publisher::create(name_, model_.layout);
  ConnectOptions how = options();
  how.secret.clear();
  how.receiver.as = name_ + ".here";
  const Connected connected = connect("tenon://" + listener.address() + "/" + name_, how);
  EXPECT_EQ(connected.how(), "relay: other node");
  EXPECT_EQ(inspect(name_ + ".here").label, "relay of aaaaaaaaaaaaaaaa: other node");
}

// The children are a node with another /dev/shm: the first receives, the second attaches to that.
TEST_P(ConnectsHostMemory, ByOneRelayWhereTheSharedMemoryIsAnother) {
  Child trainer = publisher();
  const std::string address = url();
  Child other([&] {
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", "/dev/shm", "tmpfs", 0, nullptr) != 0)
      return ::getenv("TENON_REQUIRE_NAMESPACES") != nullptr ? 1 : 77;
    std::string log;
    ConnectOptions how = options();
    how.log = [&](const std::string& line) { log += line; };
    Connected first = connect(address, how);
    EXPECT_EQ(first.how(), "relay: no common /dev/shm");
    EXPECT_NE(log.find("comes by a relay: no common /dev/shm"), std::string::npos) << log;
    EXPECT_NE(inspect(name_).label.find("no common /dev/shm"), std::string::npos);
    Child second([&] {
      Connected again = connect(address, options());
      EXPECT_EQ(again.how(), "relay of this node");
      expect_versions(again, model_, 1, 3);
      return 0;
    });
    EXPECT_EQ(second.wait(), 0);
    expect_versions(first, model_, 4, 5);
    return 0;
  });
  const int status = other.wait();
  if (status == 77) GTEST_SKIP() << "no mount namespaces here";
  EXPECT_EQ(status, 0);
}

#if TENON_TEST_CUDA
class ConnectsGpuMemory : public Connects {};
INSTANTIATE_TEST_SUITE_P(Kinds, ConnectsGpuMemory, ::testing::Values(MemoryKind::cuda),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(ConnectsGpuMemory, ByARelayWhereTheDeviceIsNotReachable) {
  Child trainer = publisher();
  const std::string address = url();
  Child blind([&] {
    ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
    ConnectOptions how = options();
    how.receiver.memory = host();
    Connected connected = connect(address, how);
    EXPECT_EQ(connected.how(), "relay: device not reachable by IPC");
    expect_versions(connected, Model(MemoryKind::host), 1, 2);
    return 0;
  });
  EXPECT_EQ(blind.wait(), 0);
}
#endif

TEST_P(Connects, SayingWhatIsWrongWithAnAddress) {
  Child trainer = publisher();
  const std::string address = url();
  const auto connecting = [&](const std::string& to) { (void)connect(to, options()); };
  EXPECT_THROWS(InvalidArgument, "tenon://HOST:PORT/NAME", connecting("127.0.0.1:4711/policy"));
  EXPECT_THROWS(InvalidArgument, "tenon://HOST:PORT/NAME", connecting("tenon://policy"));
  EXPECT_THROWS(InvalidName, "", connecting("tenon://127.0.0.1:1/"));
  EXPECT_THROWS(Mismatch, "hands on '" + name_, connecting(address + ".other"));
  EXPECT_THROWS(WrongSecret, "", (void)connect(address, {.secret = "a secret of another kind"}));
}

}  // namespace
}  // namespace tenon::test
