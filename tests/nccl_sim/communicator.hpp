// A communicator: what it was asked last, what runs on streams for it, and its peers.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "failure.hpp"
#include "mesh.hpp"

namespace tenon::nccl_sim {

class Communicator;

/// One collective or half of a pair, staged through host memory, as the double has no kernels.
struct Operation {
  enum class Kind : std::uint32_t { broadcast = 1, all_gather, reduce_scatter, all_reduce, pair };

  const char* name;
  Kind kind;
  const void* from;  ///< device memory; null: this rank gives nothing
  void* to;          ///< device memory; null: this rank takes nothing
  std::size_t from_bytes;
  std::size_t to_bytes;
  int peer = -1;  ///< a broadcast's root; of a pair, the other one
  ncclDataType_t type = ncclUint8;
  ncclRedOp_t op = ncclSum;
};

/// Threads:  begin(), state() and finish(): one at a time, as NCCL asks it of programs.
/// Lifetime: shared with the work it has on streams, which may end later than it is aborted.
class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(Mesh::Self self, int device) : self_(std::move(self)), device_(device) {}
  ~Communicator();

  void connect(const ncclUniqueId& id);
  /// Enqueues the operation some time later, as non-blocking communicators do.
  void launch(const Operation& operation, cudaStream_t stream);
  void finalize();
  /// In progress until it is aborted.
  void stall();
  /// Whatever it does ends; its peers see it gone.
  void abort();

  void fail(const Failure& failure) noexcept;
  [[nodiscard]] ncclResult_t state() const noexcept { return state_; }
  [[nodiscard]] bool finalized() const noexcept { return finalized_; }
  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] int rank() const noexcept { return self_.rank; }
  [[nodiscard]] int size() const noexcept { return self_.size; }

  std::atomic<int> callers{0};  ///< threads inside a call on it

 private:
  struct Staged;

  void begin(std::function<void()> job);
  void enqueue(const Operation& operation, cudaStream_t stream);
  void perform(Staged& staged) noexcept;
  void move(Staged& staged);
  [[nodiscard]] std::vector<std::vector<std::byte>> collect(Staged& staged);

  const Mesh::Self self_;
  const int device_;
  Mesh mesh_;
  std::thread worker_;
  AbortFlag aborted_{false};
  std::atomic<ncclResult_t> state_{ncclSuccess};
  std::atomic<int> running_{0};  ///< operations that are on a stream
  bool finalized_ = false;
};

/// What ncclGetLastError tells; one for the process, as NCCL's.
void set_last_error(const std::string& text);
[[nodiscard]] const char* last_error();

}  // namespace tenon::nccl_sim
