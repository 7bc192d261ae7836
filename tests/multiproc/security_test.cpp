// What others put under our names, who may read what we put there, and what names can do.
#include <fcntl.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <support/support.hpp>

namespace tenon::test {
namespace {

constexpr Uid kStranger = 12345;

bool is_root() { return ::geteuid() == 0; }

std::string path_of(const std::string& object) { return "/dev/shm/" + object; }
struct ::stat look_at(const std::string& path) {
  struct ::stat st {};
  if (::lstat(path.c_str(), &st) != 0) throw SystemError(errno, "looking at " + path);
  return st;
}

/// Becomes `uid` in `gid`, without other groups. For children.
void become(Uid uid, ::gid_t gid) {
  if (::setgroups(0, nullptr) != 0 || ::setresgid(gid, gid, gid) != 0 ||
      ::setresuid(uid, uid, uid) != 0)
    throw SystemError(errno, "becoming another user");
}

// --- What is planted under a name ---

struct Plant {
  const char* what;
  bool needs_root;
  std::function<void(const std::string& path)> put;
};
std::ostream& operator<<(std::ostream& out, const Plant& p) { return out << p.what; }

void check_made(int result, const char* what) {
  if (result != 0) throw SystemError(errno, std::string("making ") + what);
}
void put_file(const std::string& path) {
  std::ofstream(path, std::ios::binary) << std::string(100'000, 'x');
}
void put_socket(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct ::sockaddr_un address {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const int bound =
      ::bind(fd, reinterpret_cast<const struct ::sockaddr*>(&address), sizeof(address));
  ::close(fd);
  check_made(bound, "a socket");
}

const Plant kPlants[] = {
    {"LinkToAFile", false,
     [](const std::string& path) {
       check_made(::symlink("/etc/hostname", path.c_str()), "a link");
     }},
    {"LinkToNothing", false,
     [](const std::string& path) {
       check_made(::symlink("/dev/shm/x/y", path.c_str()), "a link");
     }},
    {"Pipe", false,
     [](const std::string& path) { check_made(::mkfifo(path.c_str(), 0666), "a pipe"); }},
    {"Directory", false,
     [](const std::string& path) { check_made(::mkdir(path.c_str(), 0700), "a directory"); }},
    {"Socket", false, put_socket},
    {"Device", true,
     [](const std::string& path) {
       check_made(::mknod(path.c_str(), S_IFCHR | 0666, makedev(1, 5)), "a device");
     }},
    {"FileOfAnotherUser", true,
     [](const std::string& path) {
       put_file(path);
       check_made(::chown(path.c_str(), kStranger, kStranger), "another user's file");
     }},
};

class Planted : public ::testing::TestWithParam<Plant> {
 protected:
  void SetUp() override {
    if (GetParam().needs_root && !is_root()) GTEST_SKIP() << "needs root to make it";
    GetParam().put(path_);
  }
  ~Planted() override { ::remove(path_.c_str()); }
  std::string name_ = unique_name("planted");
  std::string path_ = path_of(detail::publication_object(::geteuid(), name_));
};
INSTANTIATE_TEST_SUITE_P(Each, Planted, ::testing::ValuesIn(kPlants),
                         [](const auto& p) { return std::string(p.param.what); });

// In a child: what waits for ever fails the test, and nothing else.
TEST_P(Planted, UnderANameIsRefusedByBothSidesAndLeftAlone) {
  const struct ::stat before = look_at(path_);
  Child both([&] {
    const Model model;
    EXPECT_THROWS(NotYours, name_, (void)Subscriber::attach(name_, {.deadline = 50ms}));
    EXPECT_THROWS(NotYours, name_,
                  (void)Publisher::create(name_, model.layout, {.deadline = 50ms}));
    EXPECT_EQ(Subscriber::probe(name_), Attach::not_yours);
    EXPECT_EQ(inspect(name_).state, Attach::not_yours);
    const auto all = list();
    const auto ours = std::find_if(all.begin(), all.end(),
                                   [&](const PublicationInfo& p) { return p.name == name_; });
    EXPECT_TRUE(ours != all.end() && ours->state == Attach::not_yours);
    for (const Leftover& l : gc(true)) EXPECT_EQ(l.object.find(name_), std::string::npos);
    return 0;
  });
  EXPECT_EQ(both.wait(), 0);
  const struct ::stat after = look_at(path_);
  EXPECT_EQ(after.st_ino, before.st_ino);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_EQ(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
}

/// A publisher in another process: this one has no pointer of its own to its slots.
class PlantedSlots : public ::testing::TestWithParam<Plant> {
 protected:
  void SetUp() override {
    if (GetParam().needs_root && !is_root()) GTEST_SKIP() << "needs root to make it";
    ASSERT_TRUE(ready_.wait());
    path_ =
        path_of("tenon-slot." + std::to_string(::geteuid()) + "." + inspect(name_).instance + ".0");
    ASSERT_EQ(::unlink(path_.c_str()), 0);
    GetParam().put(path_);
  }
  ~PlantedSlots() override {
    if (!path_.empty()) ::remove(path_.c_str());
    stop_.poke();
    EXPECT_EQ(publisher_.wait(), 0);
  }
  std::string name_ = unique_name("slots");
  std::string path_;
  Signal ready_;
  Signal stop_;
  Child publisher_{[this] {
    Model model;
    Publisher pub = Publisher::create(name_, model.layout);
    model.publish(pub, 1);
    ready_.poke();
    return stop_.wait() ? 0 : 1;
  }};
};
INSTANTIATE_TEST_SUITE_P(Each, PlantedSlots, ::testing::ValuesIn(kPlants),
                         [](const auto& p) { return std::string(p.param.what); });

TEST_P(PlantedSlots, AreRefused) {
  Child reader([&] {
    const std::string what = thrown([&] { (void)Subscriber::attach(name_, {.deadline = 50ms}); });
    const bool refused = what.starts_with("NotYours: ") || what.starts_with("BadFormat: ");
    EXPECT_TRUE(refused) << what;
    EXPECT_TRUE(what.find("not a regular file") != std::string::npos ||
                what.find("slot owner") != std::string::npos)
        << what;
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
}

// The look before the open proves nothing: the name may change hands in between. Whoever owns a
// file in /dev/shm can exchange it for a pipe, again and again, until somebody hangs.
TEST(Exchange, OfAFileForAPipeIsNeverWaitedFor) {
  const std::string name = unique_name("exchanged");
  const std::string path = path_of(detail::publication_object(::geteuid(), name));
  const std::string other = path + "-other";
  std::ofstream(path) << "x";
  ASSERT_EQ(::mkfifo(other.c_str(), 0600), 0);
  Child swapping([&] {
    for (;;) (void)::renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE);
    return 0;
  });
  Child looking([&] {
    std::set<Attach> seen;
    for (int i = 0; i < 20'000; ++i) seen.insert(Subscriber::probe(name));
    EXPECT_TRUE(seen.count(Attach::not_yours) == 1 && seen.count(Attach::stale) == 1);
    return 0;
  });
  EXPECT_EQ(looking.wait(), 0) << "-1: it hangs";
  swapping.kill();
  ::unlink(path.c_str());
  ::unlink(other.c_str());
}

TEST(Foreign, FileDoesNotKeepOrphanedSlotsFromBeingCollected) {
  if (!is_root()) GTEST_SKIP() << "needs root to make another user's file";
  const std::string path = path_of(detail::publication_object(::geteuid(), unique_name("foreign")));
  put_file(path);
  ASSERT_EQ(::chown(path.c_str(), kStranger, kStranger), 0);
  const std::string slot = detail::slot_prefix(::geteuid()) + std::string(24, 'e') +
                           std::to_string(10'000'000 + ::getpid() % 10'000'000) + ".0";
  bool found = false;
  // While another test creates something nobody can know whose slots these are.
  for (const detail::Deadline deadline(kPatience); !found && !deadline.passed();) {
    std::ofstream(path_of(slot)) << "x";
    for (const Leftover& l : gc(true)) found = found || l.object == slot;
  }
  EXPECT_TRUE(found);
  ::unlink(path_of(slot).c_str());
  ::unlink(path.c_str());
}

// --- Modes ---

// An object with our name, our owner and a mode that lets everybody write: no matter how it came to
// that, what is in it may be anybody's.
TEST(Modes, APublicationThatEverybodyCanWriteIsRefused) {
  const Model model;
  const std::string name = unique_name("open");
  Publisher pub = Publisher::create(name, model.layout);
  const std::string path = path_of(detail::publication_object(::geteuid(), name));
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  EXPECT_THROWS(NotYours, "has mode 0666: everybody can write it",
                (void)Subscriber::attach(name, {.deadline = 0s}));
  EXPECT_EQ(Subscriber::probe(name), Attach::not_yours);
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  EXPECT_EQ(Subscriber::probe(name), Attach::ready);
}

TEST(Modes, SlotsThatOthersCanWriteAreRefused) {
  Model model;
  const std::string name = unique_name("open");
  Publisher pub = Publisher::create(name, model.layout);
  const std::string slots = path_of(shm_objects(inspect(name).instance).at(0));
  for (const ::mode_t mode : {0660U, 0602U}) {
    ASSERT_EQ(::chmod(slots.c_str(), mode), 0);
    Child reader([&] {
      EXPECT_THROWS(NotYours, "others than the publisher can write these slots",
                    (void)Subscriber::attach(name, {.deadline = 0s}));
      return 0;
    });
    EXPECT_EQ(reader.wait(), 0);
  }
}

/// Looks at every object in /dev/shm that may be Tenon's, over and over.
class ModeWatcher {
 public:
  /// All modes that any object whose name contains `text` was seen to have, and of how many looks.
  std::map<std::string, std::set<::mode_t>> stop(const std::vector<std::string>& texts) {
    watching_ = {};  // asked to stop, and joined
    std::map<std::string, std::set<::mode_t>> ours;
    for (const auto& [name, modes] : seen_) {
      for (const std::string& text : texts)
        if (name.find(text) != std::string::npos) ours[name] = modes;
    }
    return ours;
  }

 private:
  void watch(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      for (const std::string& object : shm_objects("tenon")) {
        struct ::stat st {};
        if (::lstat(path_of(object).c_str(), &st) == 0) seen_[object].insert(st.st_mode & 07777U);
      }
    }
  }
  std::map<std::string, std::set<::mode_t>> seen_;
  std::jthread watching_{[this](const std::stop_token& stop) { watch(stop); }};
};

struct Umask {
  explicit Umask(::mode_t mask) : before(::umask(mask)) {}
  ~Umask() { ::umask(before); }
  ::mode_t before;
};

class ModesOf : public ::testing::TestWithParam<std::tuple<MemoryKind, Mode, bool>> {
 protected:
  Node node_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, ModesOf,
                         ::testing::Combine(::testing::ValuesIn(kinds()),
                                            ::testing::Values(Mode::in_place, Mode::double_buffered,
                                                              Mode::streaming),
                                            ::testing::Bool()),
                         [](const auto& p) {
                           std::string mode = name_of(std::get<1>(p.param));
                           std::erase(mode, '-');
                           return std::string(name_of(std::get<0>(p.param))) + mode +
                                  (std::get<2>(p.param) ? "Group" : "Alone");
                         });

// Weights, metadata, labels and IPC handles are in these objects and nowhere else.
TEST_P(ModesOf, WhatAPublicationCreatesKeepOthersOutAtEveryMoment) {
  const auto [kind, mode, group] = GetParam();
  Model model(kind);
  for (const ::mode_t mask : {0U, 077U}) {
    const Umask masked(mask);
    const std::string name = unique_name("modes");
    const std::string object = detail::publication_object(::geteuid(), name);
    const ::mode_t segment_mode = group ? 0660 : 0600;
    const ::mode_t slot_mode = group ? 0640 : 0600;
    ModeWatcher watcher;
    int looks = 0;
    Publisher pub = Publisher::create(
        name, model.layout,
        {.memory = {kind}, .mode = mode, .group = group, .progress = [&](auto, auto) {
           ++looks;
           EXPECT_EQ(look_at(path_of(object)).st_mode & 07777U, 0200U)
               << "nobody reads it before it is ready";
         }});
    EXPECT_GT(looks, 0);
    model.publish(pub, 1);
    const std::string instance = inspect(name).instance;
    const auto slots = shm_objects(instance);
    EXPECT_EQ(slots.size(), kind == MemoryKind::host ? 1U : 0U);
    EXPECT_EQ(look_at(path_of(object)).st_mode & 07777U, segment_mode);
    for (const std::string& slot : slots) {
      EXPECT_EQ(look_at(path_of(slot)).st_mode & 07777U, slot_mode);
      EXPECT_EQ(look_at(path_of(slot)).st_gid, ::getegid());
    }
    for (const auto& [seen, modes] : watcher.stop({object, instance})) {
      const ::mode_t most = seen == object ? segment_mode : slot_mode;
      for (const ::mode_t m : modes) EXPECT_EQ(m & ~most, 0U) << seen << " had mode " << m;
    }
  }
}

// --- Other users ---

class Users : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_root()) GTEST_SKIP() << "needs root to become other users";
  }
  /// What a user of that group gets from `body`, in a process of its own.
  int as(Uid uid, ::gid_t gid, const std::function<int()>& body) {
    Child user([&] {
      become(uid, gid);
      return body();
    });
    return user.wait();
  }
  std::string name_ = unique_name("users");
  Model model_;
};

TEST_F(Users, StrangersGetNothing) {
  for (const bool group : {false, true}) {
    Publisher pub = Publisher::create(name_, model_.layout, {.group = group});
    model_.publish(pub, 1);
    const std::vector<std::string> objects = {detail::publication_object(0, name_),
                                              shm_objects(inspect(name_).instance).at(0)};
    EXPECT_EQ(as(kStranger, kStranger,
                 [&] {
                   EXPECT_THROWS(NotYours, "Permission denied",
                                 (void)Subscriber::attach(name_, {.deadline = 0s, .owner = 0}));
                   EXPECT_EQ(Subscriber::probe(name_, 0), Attach::not_yours);
                   for (const std::string& object : objects) {
                     EXPECT_EQ(::open(path_of(object).c_str(), O_RDONLY | O_CLOEXEC), -1);
                     EXPECT_EQ(::truncate(path_of(object).c_str(), 0), -1);
                     EXPECT_EQ(::unlink(path_of(object).c_str()), -1) << "/dev/shm is not sticky?";
                   }
                   return 0;
                 }),
              0);
  }
}

TEST_F(Users, TheGroupReadsOnlyWhenAskedAndNeverWritesWeights) {
  const ::gid_t group = ::getegid();
  {
    Publisher pub = Publisher::create(name_, model_.layout);
    EXPECT_EQ(as(kStranger, group,
                 [&] { return Subscriber::probe(name_, 0) == Attach::not_yours ? 0 : 1; }),
              0);
  }
  Publisher pub = Publisher::create(name_, model_.layout, {.group = true});
  model_.publish(pub, 1);
  const std::string slots = path_of(shm_objects(inspect(name_).instance).at(0));
  EXPECT_EQ(as(kStranger, group,
               [&] {
                 auto sub = Subscriber::attach(name_, {.deadline = 0s, .owner = 0});
                 EXPECT_EQ(model_.wrong(sub.wait(newest(), kPatience)), 0U);
                 EXPECT_EQ(::open(slots.c_str(), O_RDWR | O_CLOEXEC), -1);
                 EXPECT_EQ(::truncate(slots.c_str(), 0), -1);
                 EXPECT_THROWS(NotFound, "there is no",
                               (void)Subscriber::attach(name_, {.deadline = 0s}));
                 return 0;
               }),
            0);
  EXPECT_EQ(model_.publish(pub, 2), 2U);
}

// The number in a name is only a name: the owner of the file decides.
TEST_F(Users, AStrangerCannotPublishUnderOurNumber) {
  const std::string path = path_of(detail::publication_object(0, name_));
  Signal ready;
  Child stranger([&] {
    const std::string theirs = unique_name("theirs");
    become(kStranger, kStranger);
    Publisher pub = Publisher::create(theirs, model_.layout);
    model_.publish(pub, 1);
    const std::string from = path_of(detail::publication_object(kStranger, theirs));
    if (::rename(from.c_str(), path.c_str()) != 0) return 1;
    ready.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(ready.wait());
  EXPECT_THROWS(NotYours, "belongs to uid 12345, not to uid 0",
                (void)Subscriber::attach(name_, {.deadline = 0s}));
  EXPECT_THROWS(NotYours, "is not a regular file of uid 0",
                (void)Publisher::create(name_, model_.layout, {.deadline = 0s}));
  stranger.kill();
  ::unlink(path.c_str());
  for (const std::string& slot : shm_objects("tenon-slot.12345.")) ::unlink(path_of(slot).c_str());
}

// --- Names ---

TEST(Escapes, NoNameLeavesItsDirectoryThroughAnyCall) {
  using namespace std::string_literals;
  const Model model;
  for (const std::string& name : {""s,
                                  "."s,
                                  ".."s,
                                  "../x"s,
                                  "a/b"s,
                                  "/etc/passwd"s,
                                  "a/../../etc/x"s,
                                  "-x"s,
                                  "a b"s,
                                  "a\nb"s,
                                  "a\x1b[31m"s,
                                  "a\0b"s,
                                  "a\x7f"s,
                                  "\xC3\xBC"s,
                                  "a\xE2\x80\xAE"s,
                                  std::string(65, 'a'),
                                  std::string(4096, 'a'),
                                  "a*"s,
                                  "a;b"s,
                                  "a:b"s,
                                  "~"s}) {
    EXPECT_THROWS(InvalidName, "is not a publication name",
                  (void)Publisher::create(name, model.layout));
    EXPECT_THROWS(InvalidName, "is not a publication name", (void)Subscriber::attach(name));
    EXPECT_THROWS(InvalidName, "is not a publication name", (void)Subscriber::probe(name));
    EXPECT_THROWS(InvalidName, "is not a publication name", (void)inspect(name));
  }
}

// Names of parameters are any bytes, and those of a segment somebody else's.
TEST(Escapes, MessagesCarryNoTerminalCommands) {
  const std::string evil =
      "w\x1b[2J\x07\x7f\xC2\x9B"
      "31m\n";
  const std::vector<Parameter> parameters{{evil, Dtype::u8, {4}}};
  const Layout layout = plan(parameters);
  const auto is_harmless = [](const std::string& text) {
    return text.find_first_of("\x1b\x07\x7f\n\x9B") == std::string::npos;
  };
  for (const std::string& what :
       {thrown([&] { (void)layout.at("v"); }), thrown([&] { (void)layout.at(evil + "x"); }),
        thrown([&] { check_name(evil); }),
        thrown([&] { check_label(evil + std::string(64, 'x')); })}) {
    EXPECT_NE(what.find("w?[2J"), std::string::npos) << what;
    EXPECT_TRUE(is_harmless(what)) << what;
  }
}

}  // namespace
}  // namespace tenon::test
