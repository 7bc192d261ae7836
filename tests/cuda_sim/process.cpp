#include "process.hpp"

#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "journal.hpp"

namespace tenon::sim {
namespace {

// Never destroyed: workers may outlive main().
struct Current {
  std::mutex mutex;
  std::atomic<Process*> process{nullptr};
  std::atomic<bool> forked_after_use{false};
  std::atomic<std::uint64_t> number{0};
  std::vector<Process*> ended;  // kept: a thread may still be in one
};
Current& current() {
  static Current* const kOnly = new Current;
  return *kOnly;
}

void after_fork_in_child() {
  Process* inherited = current().process.exchange(nullptr);
  if (inherited == nullptr) return;
  current().ended.push_back(inherited);
  if (inherited->used) current().forked_after_use = true;
}

/// A process that exits in order leaves nothing behind; its streams may still be running.
void at_exit() {
  Process* process = current().process;
  if (process != nullptr && process->id.pid == ::getpid()) process->node.leave();
}

}  // namespace

Process::Process(std::uint64_t process_number)
    : number(process_number),
      node({.name = config.node, .make = true, .keep_stale = config.stale_handles_open}),
      streams(pacing) {
  pacing.max_delay = config.max_delay;
  pacing.seed = config.seed;
  journal().add_failures(config.failures);
}

bool Process::make_context(int ordinal) {
  const std::lock_guard lock(mutex_);
  if (contexts_.count(ordinal) != 0) return true;
  if (config.compute_mode == cudaComputeModeProhibited) return false;
  const bool exclusive = config.compute_mode == cudaComputeModeExclusiveProcess;
  if (!node.claim(device_of(ordinal), exclusive)) return false;
  contexts_.insert(ordinal);
  return true;
}

bool Process::has_context(int ordinal) {
  const std::lock_guard lock(mutex_);
  return contexts_.count(ordinal) != 0;
}

bool Process::enable_peer(int ordinal, int peer) {
  const std::lock_guard lock(mutex_);
  return peers_.insert({ordinal, peer}).second;
}

void Process::break_context(int ordinal) {
  pacing.broken[static_cast<std::size_t>(ordinal)] = true;
  streams.wake();
}

void Process::end() {
  pacing.ended = true;
  streams.wake();
  streams.close_all();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (pacing.workers != 0) {
    if (std::chrono::steady_clock::now() > deadline)
      die("reset_process: a host function or kernel does not return");
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  events.clear();
  regions.clear();
  node.leave();
}

Process& process() {
  Current& now = current();
  Process* found = now.process.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  const std::lock_guard lock(now.mutex);
  found = now.process.load();
  if (found != nullptr) return *found;
  static const bool kRegistered =
      ::pthread_atfork(nullptr, nullptr, after_fork_in_child) == 0 && std::atexit(at_exit) == 0;
  if (!kRegistered) die("cannot register for fork and exit");
  found = new Process(++now.number);
  now.process.store(found, std::memory_order_release);
  return *found;
}

Process* process_if_any() { return current().process; }

bool forked_after_use() { return current().forked_after_use; }

void forget_process() {
  Current& now = current();
  const std::lock_guard lock(now.mutex);
  Process* last = now.process.exchange(nullptr);
  if (last != nullptr) now.ended.push_back(last);
  now.forked_after_use = false;
}

ThreadState& this_thread() {
  static thread_local ThreadState state;
  const std::uint64_t number = process().number;
  if (state.process != number) {
    state = {};
    state.process = number;
  }
  return state;
}

}  // namespace tenon::sim
