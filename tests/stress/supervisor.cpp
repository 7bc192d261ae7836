#include "supervisor.hpp"

#include <fmt/core.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <support/namespaces.hpp>
#include <system_error>
#include <thread>

namespace tenon::stress {
namespace {

using namespace std::chrono_literals;

constexpr auto kTick = 2ms;
constexpr auto kZombie = 40ms;  // killed processes are left unreaped for a while
constexpr unsigned kFirstHelper = kPublishers + kSubscribers;

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// A role that is told to leave before it can hear it would die of it: a child inherits this, until
// it has its handler.
class TerminationBlocked {
 public:
  TerminationBlocked() noexcept {
    ::sigset_t terminate;
    ::sigemptyset(&terminate);
    ::sigaddset(&terminate, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &terminate, &before_);
  }
  ~TerminationBlocked() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  TerminationBlocked(const TerminationBlocked&) = delete;
  TerminationBlocked& operator=(const TerminationBlocked&) = delete;

 private:
  ::sigset_t before_;
};

}  // namespace

Supervisor::Supervisor(const Options& options, int board, int log)
    : options_(options),
      board_descriptor_(board),
      log_descriptor_(log),
      board_(Board::map(board)),
      log_(log, board_, "supervisor"),
      schedule_(options.seed, options.publishers, options.subscribers),
      names_("chaos-" + std::to_string(::getpid())),
      own_shm_(!options.shared_shm && test::take_private_shm()) {
  ::setenv("TENON_SIM_NODE", names_.c_str(), 1);
  board_.started_at = now_ns();
  log_(own_shm_ ? "has a /dev/shm of its own"
                : "shares /dev/shm: slots that are left cannot be told apart from others'");
}

Deeds Supervisor::run() {
  populate();
  const std::uint64_t end = board_.started_at + options_.seconds * 1'000'000'000ULL;
  Action next = schedule_.next();
  while (now_ns() < end) {
    tick();
    for (; now_ns() >= board_.started_at + ns(next.at); next = schedule_.next()) apply(next);
    std::this_thread::sleep_for(kTick);
  }
  finish();
  return deeds_;
}

void Supervisor::populate() {
  const auto place = [&](unsigned actor, const char* role, unsigned name) {
    processes_[actor].role = role;
    processes_[actor].start_at = now_ns();
    board_.actors[actor].name = name;
  };
  for (unsigned i = 0; i < options_.publishers; ++i) place(i, "publisher", i);
  for (unsigned i = 0; i < options_.subscribers; ++i)
    place(kPublishers + i, "subscriber", i % options_.publishers);
}

std::string Supervisor::who(unsigned actor) const {
  return fmt::format("{} {} (pid {}, life {})", processes_[actor].role, actor,
                     processes_[actor].pid, processes_[actor].life);
}

void Supervisor::tick() {
  reap();
  bury();
  for (unsigned i = 0; i < kActors; ++i) {
    Process& p = processes_[i];
    const std::uint64_t now = now_ns();
    if (p.pid == 0 && p.start_at != 0 && now >= p.start_at && board_.ending == 0) start(i);
    if (p.pid != 0 && p.kill_at != 0 && now >= p.kill_at) kill(i, p.away);
    if (p.pid != 0 && p.continue_at != 0 && now >= p.continue_at) resume(i);
    if (p.pid != 0) check_hang(i);
  }
}

void Supervisor::apply(const Action& action) {
  const unsigned actor = action.publisher ? action.target : kPublishers + action.target;
  Process& p = processes_[actor];
  const bool there = p.pid != 0 && !p.ending && p.kill_at == 0 && p.continue_at == 0;
  const bool about_somebody = action.fault <= Fault::end;
  log_(to_text(action) + (about_somebody && !there ? ": not there" : ""));
  if (about_somebody && !there) return;
  const std::uint64_t name = board_.actors[actor].name;
  if (!about_somebody && action.fault != Fault::look && action.publisher && there)
    kill(actor, ns(action.away));
  switch (action.fault) {
    case Fault::kill:
      return kill(actor, ns(action.away));
    case Fault::kill_young:
      kill(actor, 0);
      start(actor);
      p.kill_at = now_ns() + ns(action.lasts);
      p.away = ns(action.away);
      return;
    case Fault::stop:
    case Fault::stop_kill:
      return stop(actor, action);
    case Fault::end:
      disturb(actor);
      ::kill(p.pid, SIGTERM);
      p.ending = true;
      ++deeds_.ends;
      return;
    case Fault::clean_twice:
      help("cleaner", name, 0);
      [[fallthrough]];
    case Fault::clean:
      return help("cleaner", name, 0);
    case Fault::clean_killed:
      return help("cleaner", name, std::max<std::uint64_t>(ns(action.lasts), 1));
    case Fault::look:
      return help("looker", name, 0);
  }
}

void Supervisor::stop(unsigned actor, const Action& action) {
  Process& p = processes_[actor];
  board_.actors[actor].stopped_at = now_ns();
  disturb(actor);
  ::kill(p.pid, SIGSTOP);
  const std::uint64_t until = now_ns() + ns(action.lasts);
  (action.fault == Fault::stop ? p.continue_at : p.kill_at) = until;
  p.away = ns(action.away);
  ++deeds_.stops;
}

void Supervisor::resume(unsigned actor) {
  disturb(actor);
  board_.actors[actor].resumed_at = now_ns();
  ::kill(processes_[actor].pid, SIGCONT);
  processes_[actor].continue_at = 0;
}

// Readers of this publication cannot say how long its publisher alone let them wait.
void Supervisor::disturb(unsigned actor) { ++board_.names[board_.actors[actor].name].disturbed; }

void Supervisor::help(const char* role, std::uint64_t name, std::uint64_t killed_after) {
  for (unsigned i = kFirstHelper; i < kActors; ++i) {
    if (processes_[i].pid != 0) continue;
    processes_[i] = {.role = role};
    board_.actors[i].name = name;
    start(i);
    processes_[i].kill_at = killed_after == 0 ? 0 : now_ns() + killed_after;
    return;
  }
}

void Supervisor::start(unsigned actor) {
  Process& p = processes_[actor];
  Actor& row = board_.actors[actor];
  deeds_.restarts += p.life != 0 ? 1 : 0;
  p.life = ++deeds_.starts;
  p.ending = false;
  p.start_at = p.kill_at = p.continue_at = 0;
  row.holds = 0;
  row.doing = static_cast<std::uint64_t>(Doing::starting);
  row.since = now_ns();
  row.deadline = now_ns() + options_.patience * 1'000'000'000ULL;
  const TerminationBlocked blocked;
  p.pid = ::fork();
  if (p.pid < 0) throw std::system_error(errno, std::generic_category(), "starting a role");
  if (p.pid == 0) execute(actor);
}

void Supervisor::execute(unsigned actor) {
  std::vector<std::string> arguments{"chaos"};
  for (std::string& a : to_arguments(options_)) arguments.push_back(std::move(a));
  const Process& p = processes_[actor];
  for (const std::string& a :
       {std::string("--role"), p.role, std::string("--actor"), std::to_string(actor),
        std::string("--life"), std::to_string(p.life), std::string("--names"), names_,
        std::string("--board"), std::to_string(board_descriptor_)})
    arguments.push_back(a);
  if (own_shm_) arguments.emplace_back("--own-shm");
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  ::dup2(log_descriptor_, STDERR_FILENO);
  ::execv("/proc/self/exe", argv.data());
  std::perror("chaos: starting a role");
  ::_exit(127);
}

void Supervisor::kill(unsigned actor, std::uint64_t away) {
  Process& p = processes_[actor];
  Actor& row = board_.actors[actor];
  const std::uint64_t now = now_ns();
  disturb(actor);
  if (is_publisher(actor)) board_.names[row.name].died(p.life, now);
  row.killed_holding = row.holds.load();
  row.killed_pid = static_cast<std::uint64_t>(p.pid);
  row.killed_at = now;
  if (row.is_stopped()) row.resumed_at = now;
  ::kill(p.pid, SIGKILL);
  log_("killed " + who(actor) + ", " + name_of(static_cast<Doing>(row.doing.load())));
  ++deeds_.kills;
  graves_.push_back({p.pid, now + ns(kZombie)});
  p.pid = 0;
  p.kill_at = p.continue_at = 0;
  p.start_at = actor < kFirstHelper ? now + away : 0;
}

void Supervisor::reap() {
  for (unsigned i = 0; i < kActors; ++i) {
    Process& p = processes_[i];
    int status = 0;
    if (p.pid == 0 || ::waitpid(p.pid, &status, WNOHANG) == 0) continue;
    judge(p.pid, who(i), status);
    if (i < kFirstHelper && !p.ending) disturb(i);
    p.pid = 0;
    p.kill_at = p.continue_at = 0;
    p.start_at = i < kFirstHelper ? now_ns() : 0;
  }
}

void Supervisor::judge(pid_t pid, const std::string& who, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return;
  ++deeds_.crashes;
  log_.problem(fmt::format("{} (pid {}) ended with {} {}", who, pid,
                           WIFEXITED(status) ? "status" : "signal",
                           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status)));
}

void Supervisor::bury() {
  std::erase_if(graves_, [&](const Grave& g) {
    int status = 0;
    if (now_ns() < g.reap_at || ::waitpid(g.pid, &status, WNOHANG) == 0) return false;
    judge(g.pid, "killed", status);
    return true;
  });
}

// Who stands still is excused, and so is who has only just been let go on.
void Supervisor::check_hang(unsigned actor) {
  const Actor& row = board_.actors[actor];
  if (row.is_stopped()) return;
  const std::uint64_t now = now_ns();
  const std::uint64_t after_stop = row.resumed_at + options_.patience * 1'000'000'000ULL;
  if (now <= std::max(row.deadline.load(), after_stop)) return;
  ++deeds_.hangs;
  const std::string proc = "/proc/" + std::to_string(processes_[actor].pid);
  log_.problem(fmt::format(
      "{} hangs: {} for {:.1f} s, in {}", who(actor), name_of(static_cast<Doing>(row.doing.load())),
      static_cast<double>(now - row.since) / 1e9, first_line(proc + "/wchan")));
  kill(actor, 0);
}

void Supervisor::finish() {
  log_("the end");
  board_.ending = 1;
  for (unsigned i = 0; i < kActors; ++i) {
    if (processes_[i].pid == 0) continue;
    if (board_.actors[i].is_stopped()) resume(i);
    disturb(i);
    ::kill(processes_[i].pid, SIGTERM);
    processes_[i].ending = true;
    processes_[i].kill_at = 0;
  }
  wait_for_all();
  help("auditor", 0, 0);
  wait_for_all();
}

// Who does not come to an end hangs, and is killed for it.
void Supervisor::wait_for_all() {
  const auto somebody = [&] {
    return !graves_.empty() || std::any_of(processes_.begin(), processes_.end(),
                                           [](const Process& p) { return p.pid != 0; });
  };
  while (somebody()) {
    tick();
    std::this_thread::sleep_for(kTick);
  }
}

}  // namespace tenon::stress
