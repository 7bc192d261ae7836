#include "child.hpp"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <thread>

namespace tenon::bench {
namespace {

constexpr unsigned kChildSeconds = 600;

void throw_if_failed(::pid_t pid, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  const std::string how = WIFSIGNALED(status)
                              ? "was ended by signal " + std::to_string(WTERMSIG(status))
                              : "failed with status " + std::to_string(WEXITSTATUS(status));
  throw Error(Errc::System, "child process " + std::to_string(pid) + " " + how);
}

}  // namespace

Family::~Family() {
  for (const ::pid_t pid : running_) (void)::kill(pid, SIGKILL);
  for (const ::pid_t pid : running_) (void)::waitpid(pid, nullptr, 0);
}

::pid_t Family::fork(const std::function<void()>& body) {
  (void)std::fflush(stdout);
  const ::pid_t parent = ::getpid();
  const ::pid_t pid = ::fork();
  if (pid < 0) throw SystemError(errno, "forking");
  if (pid > 0) {
    running_.push_back(pid);
    return pid;
  }
  int status = 1;
  try {
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // it died before it could be asked for
    (void)::alarm(kChildSeconds);
    body();
    status = 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "tenon-bench: child process: %s\n", e.what());
  }
  ::_exit(status);  // never back into the parent's code
}

void Family::kill(::pid_t pid) {
  if (std::erase(running_, pid) == 0) return;
  (void)::kill(pid, SIGKILL);
  (void)::waitpid(pid, nullptr, 0);
}

void Family::check() {
  for (std::size_t i = 0; i < running_.size();) {
    int status = 0;
    if (::waitpid(running_[i], &status, WNOHANG) != running_[i]) {
      ++i;
      continue;
    }
    const ::pid_t pid = running_[i];
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    throw_if_failed(pid, status);
  }
}

void Family::join(Duration patience) {
  const detail::Deadline deadline(patience);
  while (!running_.empty()) {
    check();
    if (deadline.passed()) throw Error(Errc::DeadlinePassed, "a child process does not end");
    if (!running_.empty()) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

std::vector<int> usable_cpus() {
  ::cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) cpus.push_back(i);
  }
  return cpus;
}

void pin_to(std::size_t k) {
  const std::vector<int> cpus = usable_cpus();
  if (k >= cpus.size()) return;
  ::cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[k], &set);
  (void)::sched_setaffinity(0, sizeof(set), &set);
}

void busy_wait(Duration time) noexcept {
  const detail::Deadline end(time);
  while (!end.passed()) detail::cpu_relax();
}

}  // namespace tenon::bench
