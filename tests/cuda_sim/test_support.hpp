// What the tests of the simulator share: variables for one test, children that cannot outlive or
// hang it, and a way to talk to them.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <support/quiet_fork.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_sim.hpp"

namespace tenon::sim::test {

using namespace std::chrono_literals;

/// Only a hang ever takes so long.
inline constexpr auto kPatience = 20s;

#define EXPECT_OK(call) EXPECT_EQ(call, cudaSuccess)
#define ASSERT_OK(call) ASSERT_EQ(call, cudaSuccess)

/// Sets a variable until the end of the scope.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

/// Two ends of a conversation, made before a fork.
class Channel {
 public:
  Channel() {
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends_) != 0)
      throw std::runtime_error("no sockets");
  }
  ~Channel() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// The parent's end is 0, the child's 1.
  template <class T>
  void send(int end, const T& value) {
    if (::send(ends_[end], &value, sizeof value, MSG_NOSIGNAL) != sizeof value)
      throw std::runtime_error("cannot send");
  }
  template <class T>
  T receive(int end) {
    struct ::pollfd ready {
      ends_[end], POLLIN, 0
    };
    T value{};
    if (::poll(&ready, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) != 1 ||
        ::recv(ends_[end], &value, sizeof value, 0) != sizeof value)
      throw std::runtime_error("nothing came");
    return value;
  }
  void poke(int end) { send(end, 'x'); }
  void await(int end) { (void)receive<char>(end); }

 private:
  int ends_[2] = {-1, -1};
};

/// A forked child that runs `body`. Killed with the test, and by the test's end.
class Child {
 public:
  explicit Child(const std::function<void()>& body) {
    pid_ = tenon::test::quiet_fork();
    if (pid_ == 0) ::_exit(run(body));
  }
  ~Child() {
    if (pid_ != 0) kill();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] ::pid_t pid() const { return pid_; }
  void kill() {
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, 0), nullptr, 0);
  }
  /// Whether it ended in time with its body done and no expectation failed.
  [[nodiscard]] bool succeeded() { return status() == 0; }
  /// Exit status, 1000 + signal, or -1 when it still runs.
  [[nodiscard]] int status() {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) return -1;
      std::this_thread::sleep_for(1ms);
    }
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  static int run(const std::function<void()>& body) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      body();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "child: %s\n", e.what());
      return 99;
    }
    return ::testing::Test::HasFailure() ? 98 : 0;
  }
  ::pid_t pid_ = 0;
};

/// Whether touching memory so kills a process.
inline bool faults(const std::function<void()>& touch) {
  const ::pid_t pid = tenon::test::quiet_fork();
  if (pid == 0) {
    ::signal(SIGSEGV, SIG_DFL);  // no report of a sanitizer: it takes long
    ::prctl(PR_SET_DUMPABLE, 0);
    touch();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

/// Device memory of `bytes` bytes.
inline std::byte* allocate(std::size_t bytes) {
  void* pointer = nullptr;
  EXPECT_OK(cudaMalloc(&pointer, bytes));
  return static_cast<std::byte*>(pointer);
}

/// Fills device memory; the bytes are there on return, for other processes too.
inline void fill(std::byte* device, int value, std::size_t bytes) {
  EXPECT_OK(cudaMemset(device, value, bytes));
  EXPECT_OK(cudaStreamSynchronize(cudaStreamLegacy));
}

inline cudaStream_t make_stream(unsigned flags = cudaStreamNonBlocking) {
  cudaStream_t stream = nullptr;
  EXPECT_OK(cudaStreamCreateWithFlags(&stream, flags));
  return stream;
}

inline cudaEvent_t make_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  EXPECT_OK(cudaEventCreateWithFlags(&event, flags));
  return event;
}

/// One byte of device memory.
inline int read_byte(const void* device, std::size_t at = 0) {
  unsigned char value = 0;
  EXPECT_OK(
      cudaMemcpy(&value, static_cast<const std::byte*>(device) + at, 1, cudaMemcpyDeviceToHost));
  return value;
}

class Simulated : public ::testing::Test {
 protected:
  FreshNode node_;
};

}  // namespace tenon::sim::test
