#include "role.hpp"

#include <dirent.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/prctl.h>

#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <thread>

namespace tenon::stress {
namespace {

volatile ::sig_atomic_t told_to_leave = 0;

std::uint64_t grace(const Options& options) { return options.patience * 1'000'000'000ULL; }

bool is_publications(const std::string& path) {
  return path.find("/dev/shm/tenon.") != std::string::npos ||
         path.find("/dev/shm/tenon-slot.") != std::string::npos;
}

void prepare() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct ::sigaction action {};
  action.sa_handler = [](int) { told_to_leave = 1; };
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigset_t terminate;  // blocked by the supervisor until there is a handler
  ::sigemptyset(&terminate);
  ::sigaddset(&terminate, SIGTERM);
  ::sigprocmask(SIG_UNBLOCK, &terminate, nullptr);
}

}  // namespace

Role::Role(const Options& o, Board& b)
    : options(o),
      board(b),
      me(b.actors[o.actor]),
      index(me.name),
      publication(b.names[index]),
      log(STDERR_FILENO, b,
          o.role + " " + std::to_string(o.actor) + " life " + std::to_string(o.life)),
      random(mix(o.seed) ^ mix(o.life)) {}

bool Role::should_leave() const noexcept { return told_to_leave != 0 || board.ending != 0; }

void Role::problem(Word& count, const std::string& what) const {
  ++count;
  log.problem(what);
}

void Role::refused(const Error& error, std::initializer_list<Errc> expected,
                   const char* doing) const {
  ++board.errors[static_cast<std::size_t>(error.code())];
  const std::string text =
      fmt::format("{}: {}: {}", doing, tenon::name_of(error.code()), error.what());
  if (std::find(expected.begin(), expected.end(), error.code()) == expected.end())
    problem(board.unexpected, text);
  else
    detail(text);
}

void Role::sleep_us(std::uint64_t us) const {
  std::this_thread::sleep_for(std::chrono::microseconds(us));
}

Role::During::During(Role& role, Doing what, std::chrono::nanoseconds timeout)
    : role_(role), doing_before_(role.me.doing), deadline_before_(role.me.deadline) {
  role_.me.since = since_;
  role_.me.deadline = since_ + ns(timeout) + grace(role_.options);
  role_.me.doing = static_cast<std::uint64_t>(what);
}

Role::During::~During() {
  const std::uint64_t now = now_ns();
  role_.me.since = now;
  role_.me.deadline = std::max(deadline_before_, now + grace(role_.options));
  role_.me.doing = doing_before_;
}

unsigned mappings_of_publications() {
  unsigned count = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) count += is_publications(line) ? 1 : 0;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir("/proc/self/fd"), ::closedir);
  while (const struct ::dirent* entry = ::readdir(dir.get())) {
    std::array<char, 256> target{};
    const std::string link = std::string("/proc/self/fd/") + entry->d_name;
    if (::readlink(link.c_str(), target.data(), target.size() - 1) > 0)
      count += is_publications(target.data()) ? 1 : 0;
  }
  return count;
}

int run_role(const Options& options) {
  static const std::map<std::string, int (*)(Role&)> kRoles{{"publisher", run_publisher},
                                                            {"subscriber", run_subscriber},
                                                            {"cleaner", run_cleaner},
                                                            {"looker", run_looker},
                                                            {"auditor", run_auditor}};
  prepare();
  Role role(options, Board::map(options.board));
  try {
    const Role::During during(role, Doing::starting);
    return kRoles.at(options.role)(role);
  } catch (const std::exception& e) {
    role.problem(role.board.unexpected, std::string("ended by: ") + e.what());
    return 1;
  }
}

}  // namespace tenon::stress
