#include "network.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

namespace tenon::bench {
namespace {

// Deeper than a burst of the kernel's timer at 10 Gbit/s, and far less than a bucket.
constexpr const char* kShape = "burst 1mb latency 50ms";

// Runs a script in a namespace, as the shell does; what fails in it says so on stderr.
void run(const Namespace& where, const std::string& script) {
  const ::pid_t pid = ::fork();
  if (pid < 0) throw SystemError(errno, "forking");
  if (pid == 0) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      where.enter();
      ::execl("/bin/sh", "sh", "-ec", script.c_str(), nullptr);
    } catch (const Error&) {
    }
    ::_exit(127);
  }
  int status = 0;
  (void)::waitpid(pid, &status, 0);
  if (status != 0) throw Error(Errc::System, "this failed: " + script);
}

std::string shape(const std::string& device, const std::string& rate) {
  return rate == "0"
             ? ""
             : fmt::format("tc qdisc add dev {} root tbf rate {} {}\n", device, rate, kShape);
}

}  // namespace

Namespace::Namespace() : fd_(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) throw SystemError(errno, "opening this process's network namespace");
}

Namespace::~Namespace() { (void)::close(fd_); }

void Namespace::enter() const {
  if (::setns(fd_, CLONE_NEWNET) != 0) throw SystemError(errno, "entering a network namespace");
}

std::string Namespace::path() const { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_); }

Network::Network(int nodes, const std::string& rate)
    : name_(rate == "0" ? "veth" : "veth " + rate) {
  try {
    build(nodes, rate);
  } catch (const Error& e) {
    nodes_.clear();
    name_ = "loopback";
    why_loopback_ = e.message();
  }
}

void Network::build(int nodes, const std::string& rate) {
  const Namespace home;
  const auto make_namespace = [&] {
    if (::unshare(CLONE_NEWNET) != 0) throw SystemError(errno, "making a network namespace");
    nodes_.emplace_back();
    home.enter();
  };
  for (int node = 0; node < nodes; ++node) make_namespace();
  if (nodes == 2) {
    run(nodes_[0], "ip link add eth0 type veth peer name eth0 netns " + nodes_[1].path());
  } else {
    make_namespace();  // the switch's
    std::string script = "ip link add bridge type bridge\nip link set bridge up\n";
    for (int node = 0; node < nodes; ++node) {
      const std::string port = "port" + std::to_string(node);
      script += fmt::format(
          "ip link add {0} type veth peer name eth0 netns {1}\n"
          "ip link set {0} master bridge up\n",
          port, nodes_[static_cast<std::size_t>(node)].path());
      script += shape(port, rate);
    }
    run(nodes_.back(), script);
  }
  for (int node = 0; node < nodes; ++node) {
    run(nodes_[static_cast<std::size_t>(node)],
        fmt::format("ip link set lo up\nip address add {}/24 dev eth0\nip link set eth0 up\n",
                    address(node)) +
            shape("eth0", rate));
  }
}

std::string Network::address(int node) const {
  return nodes_.empty() ? "127.0.0.1" : "10.0.0." + std::to_string(node + 1);
}

void Network::enter(int node) const {
  if (!nodes_.empty()) nodes_[static_cast<std::size_t>(node)].enter();
}

}  // namespace tenon::bench
