// This process as a user of CUDA: what its first call makes and reset_process() ends.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "config.hpp"
#include "event.hpp"
#include "node.hpp"
#include "process_id.hpp"
#include "regions.hpp"
#include "streams.hpp"

namespace tenon::sim {

class Process {
 public:
  explicit Process(std::uint64_t number);

  const std::uint64_t number;  // tells the processes before and after a reset apart
  const Config config = Config::read();
  const ProcessId id = ProcessId::self();
  Pacing pacing;
  Node node;
  Regions regions;
  Streams streams;
  Events events;
  std::mutex importing;           // one cudaIpcOpenMemHandle or Close at a time
  std::atomic<bool> used{false};  // called anything a fork must not follow
  std::atomic<std::uint64_t> bytes_copied{0};

  /// Makes a context on an ordinal unless there is one; false when the compute mode forbids it.
  [[nodiscard]] bool make_context(int ordinal);
  [[nodiscard]] bool has_context(int ordinal);
  /// False when it was enabled before.
  [[nodiscard]] bool enable_peer(int ordinal, int peer);
  [[nodiscard]] int device_of(int ordinal) const {
    return config.visible[static_cast<std::size_t>(ordinal)];
  }
  [[nodiscard]] bool is_ordinal(int ordinal) const {
    return ordinal >= 0 && ordinal < static_cast<int>(config.visible.size());
  }
  /// Until all queued work is done; see cuda_sim.hpp for the calls that do so.
  void drain() { streams.drain(-1); }
  /// As a kernel that faulted does. Contexts of other devices go on.
  void break_context(int ordinal);
  [[nodiscard]] bool is_broken(int ordinal) const {
    return pacing.broken[static_cast<std::size_t>(ordinal)];
  }
  /// Ends the workers and gives everything back.
  void end();

 private:
  std::mutex mutex_;
  std::set<int> contexts_;
  std::set<std::pair<int, int>> peers_;
};

/// The process, made by the first use.
[[nodiscard]] Process& process();
/// Null before the first use.
[[nodiscard]] Process* process_if_any();
/// Whether this is the child of a fork after the first use: it can do nothing.
[[nodiscard]] bool forked_after_use();
/// The next use makes a new one.
void forget_process();

/// What CUDA keeps per host thread.
struct ThreadState {
  std::uint64_t process = 0;  // the number of the one it belongs to
  cudaError_t last_error = cudaSuccess;
  int device = 0;
  bool has_context = false;                   // a driver call finds a current context
  std::vector<std::pair<int, bool>> covered;  // device and has_context below cuCtxPushCurrent
};
/// Of this thread in the current process.
[[nodiscard]] ThreadState& this_thread();

}  // namespace tenon::sim
