// What the multi-process tests share: a small model whose bytes tell their version, children that
// cannot outlive or hang the test, and a look into /dev/shm.
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <support/memory.hpp>
#include <support/quiet_fork.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <vector>

namespace tenon::test {

using namespace std::chrono_literals;

/// Every wait of a test that should succeed uses this; only a hang ever takes so long.
inline constexpr auto kPatience = std::chrono::seconds(30);

/// A publication name no other test uses, now or in parallel.
inline std::string unique_name(const std::string& stem) {
  static std::atomic<int> counter{0};
  return "test-" + stem + "-" + std::to_string(::getpid()) + "-" + std::to_string(++counter);
}

/// Publishes and waits until the version is current.
inline std::uint64_t publish(Publisher& pub, std::span<const Source> sources,
                             const PublishOptions& options = {}) {
  const std::uint64_t version = pub.publish(sources, options);
  EXPECT_EQ(pub.wait_current(kPatience), version);
  return version;
}

/// Parameters of assorted sizes over several buckets; every byte is a function of (parameter,
/// version).
class Model {
 public:
  explicit Model(MemoryKind memory = MemoryKind::host, std::uint64_t bucket_bytes = 4096)
      : layout(plan(parameters(), {.bucket_bytes = bucket_bytes})), kind(memory) {}

  static std::vector<Parameter> parameters() {
    return {{"embed", Dtype::f32, {17, 31}},         {"scale", Dtype::f32, {}},
            {"empty", Dtype::bf16, {0, 8}},          {"layer.0.q", Dtype::bf16, {40, 50}},
            {"layer.0.k", Dtype::bf16, {8, 50}},     {"layer.0.norm", Dtype::f64, {33}},
            {"layer.1.q", Dtype::bf16, {40, 50}},    {"layer.1.big", Dtype::u8, {9001}},
            {"head", Dtype::f32, {17, 31}, "embed"}, {"layer.2.q", Dtype::i64, {500}},
            {"layer.3.q", Dtype::i8, {3999}}};
  }

  /// The sources of version `v`; valid until the next call.
  std::vector<Source> sources(std::uint64_t v) {
    std::vector<Source> all;
    for (std::size_t i = 0; i < layout.size(); ++i) {
      if (i == bytes_.size()) bytes_.emplace_back(kind, layout[i].bytes);
      bytes_[i].upload(bytes_of(i, v));
      all.push_back({bytes_[i].data(), layout[i].dtype, layout[i].bytes});
    }
    return all;
  }
  /// What parameter `i` holds in version `v`.
  [[nodiscard]] std::vector<std::byte> bytes_of(std::size_t i, std::uint64_t v) const {
    std::vector<std::byte> bytes(layout[i].bytes);
    fill(bytes, original(i), v);
    return bytes;
  }
  /// Publishes version `v` and waits until it is current.
  std::uint64_t publish(Publisher& pub, std::uint64_t v, const PublishOptions& options = {}) {
    return test::publish(pub, sources(v), options);
  }

  /// Bytes of `data` that are not those of parameter `i` in version `v`.
  [[nodiscard]] std::uint64_t wrong(std::size_t i, const std::byte* data, std::uint64_t v) const {
    const std::vector<std::byte> expected = bytes_of(i, v);
    const std::vector<std::byte> got = Bytes::get(kind, data, expected.size());
    std::uint64_t count = 0;
    for (std::size_t k = 0; k < expected.size(); ++k) count += expected[k] != got[k] ? 1 : 0;
    return count;
  }
  [[nodiscard]] std::uint64_t wrong(const Lease& lease, std::uint64_t v) const {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < layout.size(); ++i) count += wrong(i, lease[i].data(), v);
    return count;
  }
  [[nodiscard]] std::uint64_t wrong(const Lease& lease) const {
    return wrong(lease, lease.version());
  }

  Layout layout;
  MemoryKind kind;

 private:
  [[nodiscard]] std::size_t original(std::size_t i) const { return layout.tied_to(i).value_or(i); }
  static void fill(std::vector<std::byte>& bytes, std::size_t parameter, std::uint64_t version) {
    std::uint64_t x = (parameter + 1) * 0x9E3779B97F4A7C15U + version * 0xD1B54A32D192ED03U;
    for (std::byte& b : bytes) {
      x = x * 6364136223846793005U + 1442695040888963407U;
      b = static_cast<std::byte>(x >> 56U);
    }
  }
  std::vector<Bytes> bytes_;
};

/// A destination for every parameter of a model, and the plan that loads into it.
struct Destination {
  explicit Destination(const Model& m) : model(m), plan(m.layout) {
    for (std::size_t i = 0; i < m.layout.size(); ++i)
      bytes.emplace_back(m.kind, m.layout[i].bytes + 1, std::byte{0xEE});
    for (std::size_t i = 0; i < m.layout.size(); ++i) plan.into(m.layout[i].name, bytes[i].data());
  }
  [[nodiscard]] std::uint64_t wrong(std::uint64_t v) const {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < model.layout.size(); ++i)
      count += model.wrong(i, bytes[i].data(), v);
    return count;
  }
  const Model& model;
  LoadPlan plan;
  std::vector<Bytes> bytes;
};

/// One-way signals between processes, made before fork: poke() in one, wait() in the other.
class Signal {
 public:
  Signal() {
    if (::pipe(fds_) != 0) throw SystemError(errno, "making a pipe");
  }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  ~Signal() {
    ::close(fds_[0]);
    ::close(fds_[1]);
  }
  void poke() const {
    const char byte = 1;
    if (::write(fds_[1], &byte, 1) != 1) throw SystemError(errno, "signalling");
  }
  /// False when nothing came in time.
  [[nodiscard]] bool wait(std::chrono::milliseconds timeout = kPatience) const {
    struct ::pollfd p {
      fds_[0], POLLIN, 0
    };
    char byte = 0;
    return ::poll(&p, 1, static_cast<int>(timeout.count())) == 1 && ::read(fds_[0], &byte, 1) == 1;
  }

 private:
  int fds_[2] = {-1, -1};
};

/// A forked child that runs `body` and exits with what it returns (99 when it throws, 98 when a
/// gtest assertion failed in it). Killed with the test, and by the test's end.
class Child {
 public:
  explicit Child(const std::function<int()>& body) {
    pid_ = quiet_fork();
    if (pid_ < 0) throw SystemError(errno, "forking");
    if (pid_ == 0) ::_exit(run(body));
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  ~Child() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  void signal(int number) const { ::kill(pid_, number); }
  /// SIGKILL, reaped.
  void kill() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  /// Exit status, 1000 + signal, or -1 when it still runs after `timeout`.
  [[nodiscard]] int wait(std::chrono::milliseconds timeout = kPatience) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) return -1;
      std::this_thread::sleep_for(1ms);
    }
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  static int run(const std::function<int()>& body) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    forget_inherited_cuda();
    int status = 99;
    try {
      status = body();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "child: %s\n", e.what());
    }
    return ::testing::Test::HasFailure() ? 98 : status;
  }
  pid_t pid_ = 0;
};

/// What `action` throws, as "Condition: message"; "nothing" when it throws nothing.
inline std::string thrown(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.message().find("[docs/"), std::string::npos) << e.what();  // at the end alone
    return std::string(name_of(e.code())) + ": " + e.message();
  }
  return "nothing";
}
#define EXPECT_THROWS(condition, text, statement)                         \
  do {                                                                    \
    const std::string what = ::tenon::test::thrown([&] { statement; });   \
    EXPECT_TRUE(what.starts_with(std::string(#condition) + ":")) << what; \
    EXPECT_NE(what.find(text), std::string::npos) << what;                \
  } while (false)

/// Objects in /dev/shm whose names contain `text`.
inline std::vector<std::string> shm_objects(const std::string& text) {
  std::vector<std::string> found;
  DIR* dir = ::opendir("/dev/shm");
  while (const struct ::dirent* entry = ::readdir(dir)) {
    if (std::string(entry->d_name).find(text) != std::string::npos)
      found.emplace_back(entry->d_name);
  }
  ::closedir(dir);
  return found;
}

}  // namespace tenon::test
