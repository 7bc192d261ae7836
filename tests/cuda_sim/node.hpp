// What the processes of one node share: who allocated what, who has it open, what went wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "handles.hpp"
#include "process_id.hpp"

namespace tenon::sim {

struct Control;

/// An allocation of the node; the generation tells the users of one index apart.
struct AllocationId {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;
  friend bool operator==(const AllocationId&, const AllocationId&) = default;
};

/// The control segment of a node, mapped.
///
/// Each function is one step under a file lock, which the kernel takes back from a process that
/// dies. What dead processes left is cleared away when it is in the way or asked about.
///
/// Threads: safe.
class Node {
 public:
  struct Options {
    std::string name;
    bool make = true;         // else there() may be false, and nothing else may be called
    bool keep_stale = false;  // what is gone can still be opened (TENON_SIM_STALE)
  };
  explicit Node(Options options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  [[nodiscard]] bool there() const noexcept { return control_ != nullptr; }

  struct Request {
    int device = 0;
    std::uint64_t bytes = 0;
    std::uint64_t limit = 0;  // for all allocations of the device
    bool object = false;      // it has a shared-memory object
  };
  /// Nothing when the device is full.
  [[nodiscard]] std::optional<AllocationId> allocate(const Request& request);
  /// How many other living processes still have it open.
  int release(AllocationId id);

  struct Import {
    AllocationId id;
    std::uint32_t opening = 0;
    int device = 0;
    std::uint64_t bytes = 0;
  };
  /// What a handle of another process leads to, not yet opened. As a driver does, it looks for what
  /// is now where the exported memory was: as much, allocated again there, will do.
  [[nodiscard]] cudaError_t find(const MemoryHandle& handle, Import& import);
  /// Notes that this process has it open; fills in `opening`.
  void open(Import& import);
  void close(const Import& import);

  /// This process wants a context on `device`; false when `exclusive` and another has one.
  [[nodiscard]] bool claim(int device, bool exclusive);
  /// As if this process had died.
  void leave();

  void violation(const std::string& text);
  [[nodiscard]] std::uint64_t violations();
  [[nodiscard]] std::vector<std::string> violation_log();
  [[nodiscard]] std::uint64_t bytes_in_use(int device);
  [[nodiscard]] std::uint64_t live_allocations();

  [[nodiscard]] std::string memory_object(AllocationId id) const;
  [[nodiscard]] std::string event_object(const ProcessId& exporter, std::uint64_t number) const;
  /// Stands for the node in a handle.
  [[nodiscard]] std::uint64_t hash() const noexcept;

  /// Removes every object of a node.
  static void remove(const std::string& name);

 private:
  class Lock;
  using Dead = std::function<bool(const ProcessId&)>;

  void attach(bool make);
  void map_control(std::uint64_t bytes);
  void sweep_events();
  void reap();
  void bury(const Dead& dead);
  void retire(std::uint32_t index);
  [[nodiscard]] bool is_open_here(AllocationId id) const;
  [[nodiscard]] std::uint64_t used(int device) const;
  [[nodiscard]] std::uint32_t free_allocation() const;
  [[nodiscard]] std::uint32_t free_opening() const;

  Options options_;
  std::string prefix_;
  ProcessId self_ = ProcessId::self();
  std::mutex mutex_;
  int fd_ = -1;
  Control* control_ = nullptr;
};

}  // namespace tenon::sim
