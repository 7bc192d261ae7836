#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <string>
#include <tenon/error.hpp>
#include <tenon/log.hpp>
#include <utility>
#include <vector>

namespace {

std::size_t allocations = 0;

}  // namespace

// Not inlined: where only one of a pair is, g++ takes it for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace tenon {
namespace {

using Lines = std::vector<std::pair<LogLevel, std::string>>;

void keep(LogLevel level, std::string_view line, void* lines) {
  static_cast<Lines*>(lines)->emplace_back(level, line);
}

// The level as a process begins with that finds `value` in its environment.
LogLevel level_by(const char* value) {
  if (value == nullptr) {
    ::unsetenv("TENON_LOG");
  } else {
    ::setenv("TENON_LOG", value, 1);
  }
  detail::log_level_word.store(-1);
  const LogLevel level = log_level();
  ::unsetenv("TENON_LOG");
  return level;
}

class Log : public testing::Test {
 protected:
  void TearDown() override {
    set_log_callback(nullptr);
    set_log_level(LogLevel::error);
  }
  // What both streams got while `act` ran.
  template <class Act>
  std::pair<std::string, std::string> written(const Act& act) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    act();
    std::string out = testing::internal::GetCapturedStdout();
    return {out, testing::internal::GetCapturedStderr()};
  }
  static void say_everything() {
    for (const LogLevel level : {LogLevel::error, LogLevel::warn, LogLevel::info, LogLevel::debug})
      detail::log(level, "number ", -7, " at ", name_of(level));
    detail::report({"of a", " destructor"});
    (void)Error(Errc::DeadlinePassed, "waiting for nobody");
  }
};

TEST_F(Log, LevelIsThatOfTheEnvironment) {
  for (const LogLevel level :
       {LogLevel::off, LogLevel::error, LogLevel::warn, LogLevel::info, LogLevel::debug})
    EXPECT_EQ(level_by(name_of(level)), level);
  EXPECT_EQ(level_by(nullptr), LogLevel::error);
  EXPECT_EQ(level_by(""), LogLevel::error);
}

TEST_F(Log, LevelThatIsNoneIsSaid) {
  const auto [out, err] = written([] { EXPECT_EQ(level_by("loud"), LogLevel::error); });
  EXPECT_EQ(err, "tenon: TENON_LOG takes off, error, warn, info or debug\n");
}

TEST_F(Log, OffWritesNothingAtAll) {
  set_log_level(LogLevel::off);
  EXPECT_EQ(written(say_everything), (std::pair<std::string, std::string>()));
}

TEST_F(Log, ByDefaultOnlyDestructorsAreHeard) {
  (void)level_by(nullptr);
  const auto [out, err] = written([] {
    detail::log(LogLevel::warn, "nobody asked");
    detail::report({"of a", " destructor"});
  });
  EXPECT_EQ(out, "");
  EXPECT_EQ(err, "tenon: of a destructor\n");
}

TEST_F(Log, DebugGoesToStandardErrorAlone) {
  set_log_level(LogLevel::debug);
  const auto [out, err] = written(say_everything);
  EXPECT_EQ(out, "");
  EXPECT_EQ(err,
            "tenon: number -7 at error\n"
            "tenon: warn: number -7 at warn\n"
            "tenon: info: number -7 at info\n"
            "tenon: debug: number -7 at debug\n"
            "tenon: of a destructor\n"
            "tenon: debug: DeadlinePassed: waiting for nobody\n");
}

TEST_F(Log, CallbackGetsEachLineAndStandardErrorNone) {
  set_log_level(LogLevel::info);
  Lines lines;
  set_log_callback(keep, &lines);
  EXPECT_EQ(written(say_everything).second, "");
  EXPECT_EQ(lines, (Lines{{LogLevel::error, "number -7 at error"},
                          {LogLevel::warn, "number -7 at warn"},
                          {LogLevel::info, "number -7 at info"},
                          {LogLevel::error, "of a destructor"}}));
  set_log_callback(nullptr);
  EXPECT_EQ(written([] { detail::report({"again"}); }).second, "tenon: again\n");
}

TEST_F(Log, AllocatesNothingOffOrOn) {
  for (const LogLevel level : {LogLevel::off, LogLevel::debug}) {
    set_log_level(level);
    set_log_callback([](LogLevel, std::string_view, void*) {});
    const std::size_t before = allocations;
    detail::log(LogLevel::debug, "place ", 3U, " of '", "policy", "'");
    detail::report({"of a", " destructor"});
    EXPECT_EQ(allocations, before) << name_of(level);
  }
}

TEST_F(Log, LongLinesAreCut) {
  Lines lines;
  set_log_callback(keep, &lines);
  detail::report({std::string(1 << 20, 'x'), "end"});
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].second, std::string(2048, 'x'));
}

}  // namespace
}  // namespace tenon
