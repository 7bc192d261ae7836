// What stands under a name is untrusted: anything impossible is an error that names it, never a
// crash.
#include <fcntl.h>
#include <sys/stat.h>

#include <fstream>
#include <support/support.hpp>

namespace tenon::test {
namespace {

class BadSegment : public ::testing::Test {
 protected:
  ~BadSegment() override { ::unlink(path_.c_str()); }
  void write(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
  std::string attach() const {
    return thrown([this] { (void)Subscriber::attach(name_, {.deadline = 20ms}); });
  }
  /// What a publisher made, its header mapped for writing.
  detail::SharedObject live_object() const {
    auto object = detail::SharedObject::open(detail::publication_object(::geteuid(), name_),
                                             detail::SharedObject::Access::read_write);
    object->map(sizeof(format::Header));
    return std::move(*object);
  }
  std::string name_ = unique_name("bad");
  std::string path_ = "/dev/shm/" + detail::publication_object(::geteuid(), name_);
};

TEST_F(BadSegment, GarbageNamesTheField) {
  write(std::string(100'000, 'x'));
  EXPECT_NE(attach().find("BadFormat: the publication's magic"), std::string::npos) << attach();
}

TEST_F(BadSegment, TooShortIsSaid) {
  write("short");
  EXPECT_NE(attach().find("5 bytes long, shorter than a header"), std::string::npos) << attach();
  EXPECT_EQ(Subscriber::probe(name_), Attach::stale);
}

TEST_F(BadSegment, HalfCreatedIsStaleWhenNobodyCreatesIt) {
  write(std::string(100'000, '\0'));
  EXPECT_NE(attach().find("left behind half created"), std::string::npos) << attach();
}

TEST_F(BadSegment, NotARegularFileIsRefused) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_NE(attach().find("NotYours"), std::string::npos) << attach();
  ::unlink(path_.c_str());
  ASSERT_EQ(::symlink("/etc/passwd", path_.c_str()), 0);
  EXPECT_NE(attach().find("not a regular file"), std::string::npos) << attach();
  ::unlink(path_.c_str());
  ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
  EXPECT_NE(attach().find("not a regular file"), std::string::npos) << attach();
  ::rmdir(path_.c_str());
}

TEST_F(BadSegment, AnotherUsersIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to make a file of another user";
  write("x");
  ASSERT_EQ(::chown(path_.c_str(), 12345, 12345), 0);
  EXPECT_NE(attach().find("belongs to uid 12345"), std::string::npos) << attach();
}

// The group of its owner may subscribe, and starts before the trainer has allocated its slots.
TEST_F(BadSegment, AnotherUsersPublicationInTheMakingIsStarting) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  write("x");
  ASSERT_EQ(::chmod(path_.c_str(), 0200), 0);
  Child stranger([&] {
    if (::setresuid(12345, 12345, 12345) != 0) return 2;
    return Subscriber::probe(name_, 0) == Attach::starting ? 0 : 1;
  });
  EXPECT_EQ(stranger.wait(), 0);
}

TEST_F(BadSegment, PublisherReplacesGarbageAndSaysSo) {
  write(std::string(100'000, 'x'));
  const Model model;
  Publisher pub = Publisher::create(name_, model.layout);
  ASSERT_EQ(pub.notes().size(), 1U);
  EXPECT_NE(pub.notes()[0].find("damaged"), std::string::npos) << pub.notes()[0];
}

// A hole costs its writer nothing; a reader that believed it would allocate what it claims.
TEST_F(BadSegment, HugeLayoutInASparseObjectIsRefusedBeforeItIsAllocated) {
  const Model model;
  Publisher pub = Publisher::create(name_, model.layout);
  const detail::SharedObject object = live_object();
  auto& header = *reinterpret_cast<format::Header*>(object.data());
  const std::uint64_t more = 1ULL << 40U;
  ASSERT_EQ(::ftruncate(object.fd(), static_cast<off_t>(header.total_bytes + more)), 0);
  header.total_bytes += more;
  header.layout_bytes += more;
  EXPECT_NE(attach().find("object's allocated size"), std::string::npos) << attach();
}

// The same where every page is there: the counts at the layout's start are judged first.
TEST_F(BadSegment, LayoutThatIsLargerThanItsSectionsIsRefused) {
  const Model model;
  Publisher pub = Publisher::create(name_, model.layout);
  const detail::SharedObject object = live_object();
  auto& header = *reinterpret_cast<format::Header*>(object.data());
  ASSERT_EQ(::posix_fallocate(object.fd(), 0, static_cast<off_t>(header.total_bytes + 4096)), 0);
  header.total_bytes += 4096;
  header.layout_bytes += 4096;
  EXPECT_NE(attach().find("layout.bytes"), std::string::npos) << attach();
}

TEST_F(BadSegment, OtherMajorVersionIsRefused) {
  const Model model;
  Publisher pub = Publisher::create(name_, model.layout);
  const detail::SharedObject object = live_object();
  auto& header = *reinterpret_cast<format::Header*>(object.data());
  header.major = 2;
  EXPECT_NE(attach().find("WrongVersion: attaching"), std::string::npos) << attach();
  EXPECT_EQ(Subscriber::probe(name_), Attach::wrong_version);
  header.major = 1;
  header.minor = 7;
  EXPECT_EQ(attach(), "nothing") << "a newer minor version only uses reserved bytes";
}

// The number of the record behind a version's last one wrapped: a load of no record was complete.
TEST_F(BadSegment, RetireLineNearTheLastNumberIsRefusedAndNothingIsHeld) {
  const Model model;
  Publisher pub = Publisher::create(name_, model.layout, {.mode = Mode::streaming, .slots = 2});
  auto sub = Subscriber::attach(name_);
  const detail::SharedObject object = live_object();
  auto& header = *reinterpret_cast<format::Header*>(object.data());
  const std::uint64_t before = header.oldest;
  const std::uint64_t buckets = model.layout.bucket_count();
  header.oldest = ~std::uint64_t{0} - 2 * buckets;
  EXPECT_THROWS(BadFormat, "publication's oldest is", (void)sub.join());
  EXPECT_EQ(pub.subscribers().at(0).holds, 0u);
  header.oldest = before;
  EXPECT_EQ(sub.join(), 1u);
}

// Flips bytes of a live publication, everywhere, and attaches and reads each time.
class FlippedBytes : public ::testing::TestWithParam<MemoryKind> {
 protected:
  std::string name_ = unique_name("flipped");
  Node node_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, FlippedBytes, ::testing::ValuesIn(kinds()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(FlippedBytes, NeverCrashAReader) {
  Model model(GetParam());
  Publisher pub =
      Publisher::create(name_, model.layout, {.memory = {GetParam()}, .checksums = true});
  model.publish(pub, 1);
  auto object = detail::SharedObject::open(detail::publication_object(::geteuid(), name_),
                                           detail::SharedObject::Access::read_write);
  const auto size = static_cast<std::uint64_t>(object->status().st_size);
  object->map(size);
  const format::Sections at(model.layout.bucket_count(), 2 * model.layout.bucket_count(),
                            model.layout.bytes().second);
  const std::vector<std::byte> flips =
      GetParam() == MemoryKind::host ? std::vector{std::byte{1}, std::byte{0x80}, std::byte{0xFF}}
                                     : std::vector{std::byte{0xFF}};  // opening takes longer
  // What no driver opens is tried again for a while; see HostileSlots.HandlesThatAreNoneAreErrors.
  const auto is_handle = [&](std::uint64_t i) {
    return GetParam() == MemoryKind::cuda && i >= at.slots && i < at.log &&
           (i - at.slots) % sizeof(format::Slot) - offsetof(format::Slot, handle) < 64;
  };
  Child reader([&] {
    std::uint64_t refused = 0;
    const auto& header = *reinterpret_cast<const format::Header*>(object->data());
    const std::uint64_t end = header.total_bytes;  // behind it are the statistics: seeing_test
    for (std::uint64_t i = 0; i < end; ++i) {
      if (i == sizeof(format::Header)) i = at.slots;  // the places are the readers' own words
      if (is_handle(i)) continue;
      std::byte& byte = object->data()[i];
      const std::byte before = byte;
      for (const std::byte flip : flips) {
        byte = before ^ flip;
        try {
          auto sub = Subscriber::attach(name_, {.deadline = 0s});
          if (const auto lease = sub.try_acquire()) {
            for (const View& view : *lease) {  // touch the ends: inside the mapping or a crash
              if (view.bytes() > 0)
                refused +=
                    static_cast<std::uint64_t>(view.data()[0] ^ view.data()[view.bytes() - 1]) & 0U;
            }
          }
        } catch (const Error&) {
          ++refused;
        }
      }
      byte = before;
    }
    return refused > 400 * flips.size() ? 0 : 1;
  });
  EXPECT_EQ(reader.wait(120s), 0);
}

}  // namespace
}  // namespace tenon::test
