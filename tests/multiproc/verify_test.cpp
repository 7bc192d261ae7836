// Checksums: taken by the publisher, computed again by a reader, naming what differs.
#include <support/support.hpp>

namespace tenon::test {
namespace {

class Verify : public ::testing::TestWithParam<std::tuple<MemoryKind, Mode>> {
 protected:
  static MemoryKind kind() { return std::get<0>(GetParam()); }
  Publisher create(bool checksums = true) {
    return Publisher::create(
        name_, model_.layout,
        {.memory = {kind()}, .mode = std::get<1>(GetParam()), .checksums = checksums});
  }
  Node node_;
  Model model_{kind()};
  std::string name_ = unique_name("verify");
};
INSTANTIATE_TEST_SUITE_P(Kinds, Verify,
                         ::testing::Combine(::testing::ValuesIn(kinds()),
                                            ::testing::Values(Mode::in_place,
                                                              Mode::double_buffered)),
                         [](const auto& p) {
                           return std::string(name_of(std::get<0>(p.param))) +
                                  (std::get<1>(p.param) == Mode::in_place ? "InPlace" : "Double");
                         });

TEST_P(Verify, WholeVersionsAreFoundWhole) {
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    for (std::uint64_t v = 0; v < 5;) {
      const Lease lease = sub.wait(newer_than(v), kPatience);
      v = lease.version();
      EXPECT_EQ(lease.verify(), std::vector<std::string>{}) << "version " << v;
    }
    return 0;
  });
  Publisher pub = create();
  for (std::uint64_t v = 1; v <= 5; ++v)
    pub.publish(model_.sources(v), {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
  EXPECT_EQ(reader.wait(), 0);
}

TEST_P(Verify, ADamagedParameterIsNamed) {
  Publisher pub = create();
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  const Lease lease = sub.wait(newest(), kPatience);
  auto* q = const_cast<std::byte*>(lease["layer.1.q"].data());
  auto bytes = Bytes::get(kind(), q, lease["layer.1.q"].bytes());
  bytes[17] ^= std::byte{4};
  Bytes::put(kind(), q, bytes);
  EXPECT_EQ(lease.verify(), std::vector<std::string>{"layer.1.q"});
  auto* embed = const_cast<std::byte*>(lease["embed"].data());
  Bytes::put(kind(), embed, {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}});
  EXPECT_EQ(lease.verify(), (std::vector<std::string>{"embed", "layer.1.q", "head"}))
      << "a tied parameter is as damaged as its original";
}

TEST_P(Verify, BucketsThatWereKeptHaveTheirChecksumsStill) {
  Publisher pub = create();
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  for (std::uint64_t v = 2; v <= 4; ++v) {
    auto sources = model_.sources(v);
    for (std::size_t i = 0; i < sources.size(); ++i)
      sources[i].unchanged = model_.layout[i].bucket % 2 == v % 2;
    publish(pub, sources);
    const Lease lease = sub.wait(exactly(v), kPatience);
    EXPECT_EQ(lease.verify(), std::vector<std::string>{}) << "version " << v;
  }
}

TEST_P(Verify, BytesWrittenByTheTrainerItselfAreSummedToo) {
  Publisher pub = create();
  auto sub = Subscriber::attach(name_);
  auto update = pub.begin();
  for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) {
    Bytes::put(kind(), update.open(b),
               std::vector<std::byte>(model_.layout.bucket_bytes(b), std::byte{9}));
    update.seal(b);
  }
  update.commit();
  pub.wait_current(kPatience);
  EXPECT_EQ(sub.wait(newest(), kPatience).verify(), std::vector<std::string>{});
}

TEST_P(Verify, WithoutChecksumsItSaysSo) {
  Publisher pub = create(false);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  EXPECT_THROWS(InvalidArgument, "has no checksums", (void)sub.wait(newest(), kPatience).verify());
}

TEST(Checksums, AreNotOfferedWhenStreaming) {
  Model model;
  const std::string name = unique_name("verify");
  EXPECT_THROWS(
      InvalidArgument, "checksums are of whole versions",
      (void)Publisher::create(name, model.layout, {.mode = Mode::streaming, .checksums = true}));
  EXPECT_TRUE(shm_objects(name).empty());
}

}  // namespace
}  // namespace tenon::test
