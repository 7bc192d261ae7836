#include "supervise.hpp"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>

#include "report.hpp"

namespace tenon::bench {
namespace {

constexpr std::chrono::minutes kScenarioDeadline{30};

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) noexcept : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(); }
  [[nodiscard]] int get() const noexcept { return fd_; }
  void close() noexcept {
    if (fd_ >= 0) (void)::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

::sigset_t stop_signals() {
  ::sigset_t set;
  (void)::sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) (void)::sigaddset(&set, signal);
  return set;
}

// The child's side: the scenario, its report as text into the pipe.
[[noreturn]] void work(const Options& options, nlohmann::json (*scenario)(const Options&),
                       int out) {
  int status = 1;
  try {
    (void)::setpgid(0, 0);
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const ::sigset_t stop = stop_signals();
    (void)::sigprocmask(SIG_UNBLOCK, &stop, nullptr);
    const std::string text = scenario(options).dump();
    std::size_t at = 0;
    while (at < text.size()) {
      const ssize_t n = ::write(out, text.data() + at, text.size() - at);
      if (n < 0 && errno != EINTR) throw SystemError(errno, "handing over the report");
      if (n > 0) at += static_cast<std::size_t>(n);
    }
    status = 0;
  } catch (const std::exception& e) {
    say(e.what());
  }
  ::_exit(status);
}

enum class Ended { by_itself, told_to_stop, too_late };

// Collects what the worker writes until it has closed the pipe.
Ended collect(int in, int signals, std::string& text) {
  const auto deadline = std::chrono::steady_clock::now() + kScenarioDeadline;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return Ended::too_late;
    std::array<::pollfd, 2> ready{{{in, POLLIN, 0}, {signals, POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), static_cast<int>(left.count())) < 0 && errno != EINTR)
      throw SystemError(errno, "waiting for the scenario");
    if (ready[1].revents != 0) return Ended::told_to_stop;
    if (ready[0].revents == 0) continue;
    std::array<char, 65536> buffer{};
    const ssize_t n = ::read(in, buffer.data(), buffer.size());
    if (n == 0) return Ended::by_itself;
    if (n > 0) text.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

// A publication whose publisher was killed goes when its name is taken again.
void remove_leftovers(const Options& options) noexcept {
  for (const char* folder : {".tensors", ".buckets"}) {  // of handles
    std::error_code ignored;
    std::filesystem::remove_all("/dev/shm/" + options.name_prefix + folder, ignored);
  }
  for (unsigned k = 0; k < kPublications; ++k) {
    try {
      const std::string name = options.publication(k);
      if (Subscriber::probe(name) == Attach::absent) continue;
      const Parameter nothing{.name = "nothing", .dtype = Dtype::u8, .shape = {1}};
      Publisher::create(name, plan(std::span(&nothing, 1)), {.threads = 1}).close();
    } catch (const std::exception& e) {
      say(std::string("could not remove a leftover: ") + e.what());
    }
  }
}

}  // namespace

nlohmann::json supervise(const Options& options, nlohmann::json (*scenario)(const Options&)) {
  const ::sigset_t stop = stop_signals();
  (void)::sigprocmask(SIG_BLOCK, &stop, nullptr);
  const FileDescriptor signals(::signalfd(-1, &stop, SFD_CLOEXEC));
  int ends[2];
  if (signals.get() < 0 || ::pipe(ends) != 0) throw SystemError(errno, "preparing a scenario");
  const FileDescriptor in(ends[0]);
  FileDescriptor out(ends[1]);
  (void)std::fflush(stdout);
  const ::pid_t pid = ::fork();
  if (pid < 0) throw SystemError(errno, "forking");
  if (pid == 0) work(options, scenario, out.get());
  (void)::setpgid(pid, pid);  // both sides do it: whoever comes first
  out.close();

  std::string text;
  const Ended ended = collect(in.get(), signals.get(), text);
  if (ended != Ended::by_itself) (void)::kill(-pid, SIGKILL);
  int status = 0;
  (void)::waitpid(pid, &status, 0);
  (void)::kill(-pid, SIGKILL);  // none should be left
  const bool good = ended == Ended::by_itself && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!good) remove_leftovers(options);
  if (ended == Ended::told_to_stop) throw Interrupted();
  if (!good) throw Error(Errc::System, "the scenario failed");
  return nlohmann::json::parse(text);
}

}  // namespace tenon::bench
