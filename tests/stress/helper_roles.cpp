// Cleaners, lookers, and the auditor that counts what is left at the end.
#include <dirent.h>
#include <fmt/core.h>

#include <memory>
#include <support/memory.hpp>
#include <tenon/inspect.hpp>
#include <vector>

#include "role.hpp"

namespace tenon::stress {
namespace {

using namespace std::chrono_literals;

std::vector<std::string> objects_with(const std::string& prefix) {
  std::vector<std::string> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir("/dev/shm"), ::closedir);
  while (const struct ::dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    if (name.starts_with(prefix)) found.push_back(name);
  }
  return found;
}

void collect(Role& role) {
  const Role::During during(role, Doing::cleaning, 5s);
  const std::vector<Leftover> removed = gc(false);
  role.board.collected += removed.size();
  for (const Leftover& l : removed) role.detail("removed " + l.object + ", " + l.why);
}

// In a /dev/shm of its own, every slot that is left is this run's.
std::vector<std::string> left_over(const Role& role) {
  std::vector<std::string> left =
      objects_with(tenon::detail::publication_prefix(::geteuid()) + role.options.names);
  if (role.options.own_shm)
    for (const std::string& slot : objects_with(tenon::detail::slot_prefix(::geteuid())))
      left.push_back(slot);
  return left;
}

void check_simulated_node(Role& role) {
#if TENON_TEST_SIM
  if (role.options.memory != MemoryKind::cuda) return;
  if (sim::live_allocations() != 0 || sim::bytes_in_use(0) != 0)
    role.problem(role.board.leaked_memory,
                 fmt::format("{} allocations, {} bytes of device memory are left",
                             sim::live_allocations(), sim::bytes_in_use(0)));
  for (const std::string& what : sim::violation_log()) role.problem(role.board.violations, what);
  sim::remove_node();
#else
  (void)role;
#endif
}

}  // namespace

int run_cleaner(Role& role) {
  collect(role);
  ++role.board.cleaned;
  return 0;
}

int run_looker(Role& role) {
  const Role::During during(role, Doing::looking, 5s);
  for (int i = 0; i < 5; ++i) {
    for (const PublicationInfo& p : list())
      if (p.name == role.name() && p.state == Attach::ready && p.subscribers.size() > 64)
        role.problem(role.board.unexpected, "more than 64 subscribers");
    (void)inspect(role.name());
    ++role.board.looked;
    role.sleep_up_to_us(2000);
  }
  return 0;
}

int run_auditor(Role& role) {
  const Role::During during(role, Doing::auditing, 10s);
  collect(role);
  for (const std::string& object : left_over(role))
    role.problem(role.board.leaked_segments, "left in /dev/shm after gc: " + object);
  check_simulated_node(role);
  return 0;
}

}  // namespace tenon::stress
