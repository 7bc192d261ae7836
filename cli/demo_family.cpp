// The parent of `tenon demo`: forks the children, collects their reports, leaves none behind.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <tenon/publisher.hpp>
#include <tenon/safetensors.hpp>
#include <thread>

#include "demo.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

using safetensors::Descriptor;

struct Pipe {
  Descriptor read_end, write_end;
  Pipe() {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) != 0) throw SystemError{errno, "making a pipe"};
    read_end = Descriptor(fds[0]);
    write_end = Descriptor(fds[1]);
  }
};

struct Child {
  std::string what;  ///< "trainer", "inference process 0"
  pid_t pid = -1;
  bool running = true;
  int status = 0;  ///< as waitpid() gave it
};

class Family {
 public:
  explicit Family(const DemoPlan& plan) : publication_(plan.name) {
    block_signals();
    fork_child("trainer", SIGTERM, [&] {
      go_.write_end = Descriptor();
      return run_trainer(plan, reports_.write_end.get(), go_.read_end.get());
    });
    for (std::uint32_t i = 0; i < plan.subscribers; ++i) {
      fork_child(fmt::format("inference process {}", i), SIGKILL, [&] {
        go_.read_end = Descriptor();
        go_.write_end = Descriptor();  // the trainer must see the parent's end close
        return run_subscriber(plan, i, reports_.write_end.get());
      });
    }
    reports_.write_end = Descriptor();  // so that the last child's end is the end
    handle_signals(OnSignal::remember);
  }
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;
  ~Family() { stop(); }

  /// The next report; empty when none came for a while, or none ever will.
  std::optional<Report> receive() {
    std::array<struct ::pollfd, 2> waiting{
        {{reports_.read_end.get(), POLLIN, 0}, {signal_fd(), POLLIN, 0}}};
    constexpr int kSliceMs = 100;  // how late the death of a child is noticed
    (void)::poll(waiting.data(), waiting.size(), kSliceMs);
    check_signals();
    if ((waiting[0].revents & POLLIN) == 0) return std::nullopt;
    Report report;
    if (::read(reports_.read_end.get(), &report, sizeof(report)) != sizeof(report)) {
      return std::nullopt;
    }
    return report;
  }

  void go() {
    const char byte = 0;
    (void)!::write(go_.write_end.get(), &byte,
                   1);  // a trainer that is gone is noticed by its status
  }

  /// Whether any child still runs. Throws when one ended as it should not.
  bool is_running() {
    bool any = false;
    for (Child& child : children_) {
      if (child.running && ::waitpid(child.pid, &child.status, WNOHANG) == child.pid) {
        child.running = false;
      }
      any = any || child.running;
    }
    check_signals();
    for (const Child& child : children_) {
      if (has_lost_publisher(child)) await_trainer();
    }
    for (const Child& child : children_) check_status(child);
    return any;
  }

 private:
  void fork_child(std::string what, int when_parent_dies, const std::function<Exit()>& body) {
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) throw SystemError{errno, "forking the " + what};
    if (pid > 0) {
      children_.push_back({std::move(what), pid});
      return;
    }
    int status = static_cast<int>(Exit::failed);
    try {
      ::prctl(PR_SET_PDEATHSIG, when_parent_dies);
      if (::getppid() != parent) ::_exit(status);  // it died before the line above
      reports_.read_end = Descriptor();
      status = static_cast<int>(body());
    } catch (const std::exception& error) {
      complain(what + ": " + error.what());
    }
    ::_exit(status);  // never back into the parent's code
  }

  static bool has_lost_publisher(const Child& child) {
    return !child.running && WIFEXITED(child.status) &&
           WEXITSTATUS(child.status) == static_cast<int>(Exit::peer_died);
  }

  // Why a publisher is gone, its own end tells; it may be noticed a little later.
  void await_trainer() {
    const detail::Deadline deadline(std::chrono::seconds(1));
    Child& trainer = children_.front();
    while (trainer.running && !deadline.passed()) {
      trainer.running = ::waitpid(trainer.pid, &trainer.status, WNOHANG) != trainer.pid;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  static void check_status(const Child& child) {
    if (child.running || child.status == 0) return;
    if (WIFSIGNALED(child.status)) {
      throw Error(
          Errc::PublisherGone,
          fmt::format("the {} (process {}) was killed by signal {} ({})", child.what, child.pid,
                      WTERMSIG(child.status), ::strsignal(WTERMSIG(child.status))));
    }
    const int exit = WEXITSTATUS(child.status);
    if (exit == static_cast<int>(Exit::interrupted)) throw Interrupted{};
    throw Error(Errc::PublisherGone, fmt::format("the {} (process {}) ended with status {}",
                                                 child.what, child.pid, exit));
  }

  // The trainer is asked, so that it can clean up; the others have nothing to clean up.
  void stop() noexcept {
    for (const Child& child : children_) {
      if (child.running) ::kill(child.pid, &child == &children_.front() ? SIGTERM : SIGKILL);
    }
    const detail::Deadline deadline(std::chrono::seconds(10));
    for (Child& child : children_) {
      while (child.running) {
        const pid_t ended = ::waitpid(child.pid, &child.status, WNOHANG);
        if (ended == child.pid || (ended < 0 && errno == ECHILD)) {
          child.running = false;
          break;
        }
        if (deadline.passed()) ::kill(child.pid, SIGKILL);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    }
    if (!children_.empty() && WIFSIGNALED(children_.front().status)) remove_leftovers();
  }

  // A trainer that was killed could not clean up. Taking its name does, and leaves other
  // publications alone.
  void remove_leftovers() noexcept {
    try {
      const Parameter nothing{.name = "nothing", .dtype = Dtype::u8, .shape = {0}};
      (void)Publisher::create(publication_, plan({&nothing, 1}));
    } catch (const std::exception& error) {
      complain(error.what());
    }
  }

  std::string publication_;
  Pipe reports_;
  Pipe go_;
  std::vector<Child> children_;
};

/// What is known of the version that is being handed over.
class Collector {
 public:
  Collector(const DemoPlan& plan, DemoReport& report) : plan_(plan), report_(report) {}

  /// True when the report was the last that its version waited for.
  bool take(const Report& report) {
    if (report.kind == ReportKind::copied) {
      report_.set_copy_speed(static_cast<double>(report.bytes) /
                             static_cast<double>(std::max<std::uint64_t>(report.took_ns, 1)));
      return false;
    }
    Version& version = versions_[report.version];
    if (report.kind == ReportKind::published) {
      version.published = report;
      checking_.emplace("checking every byte", !plan_.quiet);
    } else {
      version.seen.push_back(report);
    }
    if (!version.published || version.seen.size() < plan_.subscribers) return false;
    checking_.reset();
    report_.add(row_of(version));
    versions_.erase(report.version);
    return true;
  }

 private:
  struct Version {
    std::optional<Report> published;
    std::vector<Report> seen;
  };

  static DemoRow row_of(const Version& version) {
    DemoRow row{.version = version.published->version, .gather_ns = version.published->took_ns};
    for (const Report& seen : version.seen) {
      // Streaming: the last bucket may have been copied before the trainer got to its commit.
      const std::uint64_t committed = version.published->at_ns;
      row.visible_ns = std::max(row.visible_ns, std::max(seen.at_ns, committed) - committed);
      row.verify_ns = std::max(row.verify_ns, seen.took_ns);
      row.wrong += seen.wrong;
    }
    return row;
  }

  const DemoPlan& plan_;
  DemoReport& report_;
  std::map<std::uint64_t, Version> versions_;
  std::optional<Waiting> checking_;  ///< what the subscribers do with a version, shown
};

}  // namespace

void send_report(int fd, const Report& report) {
  if (::write(fd, &report, sizeof(report)) == sizeof(report)) return;
  throw SystemError{errno, "reporting to the parent"};
}

void run_family(const DemoPlan& plan, DemoReport& report) {
  Family family(plan);
  Collector collector(plan, report);
  bool running = true;
  for (bool idle = false; running || !idle;) {
    const std::optional<Report> received = family.receive();
    idle = !received;
    if (received && collector.take(*received)) family.go();
    if (idle) running = family.is_running();
  }
  if (report.rows() == plan.versions) return;
  throw Error(Errc::PublisherGone, fmt::format("all processes ended after {} of {} versions",
                                               report.rows(), plan.versions));
}

}  // namespace tenon::cli
