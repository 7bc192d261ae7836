#include "communicator.hpp"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "reduce.hpp"

namespace tenon::nccl_sim {
namespace {

/// From a call to its work being on the stream: who looks at the stream alone finds it idle.
constexpr auto kLaunchDelay = std::chrono::microseconds(300);
constexpr auto kSlice = std::chrono::milliseconds(1);
/// What an operation that fails leaves in its destination.
constexpr std::byte kGarbage{0xBD};

void check(cudaError_t error, const char* doing) {
  if (error != cudaSuccess)
    throw Failure(ncclUnhandledCudaError, std::string("Cuda failure in ") + doing + ": '" +
                                              cudaGetErrorString(error) + "'");
}

struct LastError {
  std::mutex mutex;
  std::string text;
};
LastError& last() {
  static LastError error;
  return error;
}

}  // namespace

void set_last_error(const std::string& text) {
  const std::lock_guard lock(last().mutex);
  last().text = text;
}

const char* last_error() {
  thread_local std::string copy;
  const std::lock_guard lock(last().mutex);
  copy = last().text;
  return copy.c_str();
}

/// An operation on a stream: the copies around it read and write here.
struct Communicator::Staged {
  std::shared_ptr<Communicator> communicator;
  Operation operation;
  std::vector<std::byte> input;
  std::vector<std::byte> output;
};

Communicator::~Communicator() {
  if (worker_.joinable()) worker_.join();
}

void Communicator::begin(std::function<void()> job) {
  if (worker_.joinable()) worker_.join();  // done: the state was not "in progress"
  state_ = ncclInProgress;
  worker_ = std::thread([this, job = std::move(job)] {
    try {
      std::this_thread::sleep_for(kLaunchDelay);
      job();
      // An operation that was launched may have failed already.
      auto expected = ncclInProgress;
      state_.compare_exchange_strong(expected, ncclSuccess);
    } catch (const Failure& f) {
      fail(f);
    } catch (const Aborted&) {
    }
  });
}

void Communicator::fail(const Failure& failure) noexcept {
  set_last_error(failure.what());
  state_ = failure.result;
}

void Communicator::connect(const ncclUniqueId& id) {
  begin([this, id] { mesh_.connect(id, self_, aborted_); });
}

void Communicator::stall() {
  begin([this] {
    while (!aborted_) std::this_thread::sleep_for(kSlice);
    throw Aborted{};
  });
}

void Communicator::finalize() {
  finalized_ = true;
  begin([this] {
    while (running_ != 0) {
      if (aborted_) throw Aborted{};
      std::this_thread::sleep_for(kSlice);
    }
  });
}

void Communicator::abort() {
  aborted_ = true;
  if (worker_.joinable()) worker_.join();
  mesh_.shut_down();
}

void Communicator::launch(const Operation& operation, cudaStream_t stream) {
  begin([this, operation, stream] { enqueue(operation, stream); });
}

void Communicator::enqueue(const Operation& operation, cudaStream_t stream) {
  check(cudaSetDevice(device_), "cudaSetDevice");
  auto staged = std::make_unique<Staged>(Staged{shared_from_this(), operation, {}, {}});
  staged->input.resize(operation.from_bytes);
  staged->output.assign(operation.to_bytes, kGarbage);
  if (operation.from_bytes != 0)
    check(cudaMemcpyAsync(staged->input.data(), operation.from, operation.from_bytes,
                          cudaMemcpyDeviceToHost, stream),
          operation.name);
  Staged* const shared = staged.release();  // from here on the stream's, which has it until the end
  ++running_;
  const auto run = [](void* s) {
    auto* const it = static_cast<Staged*>(s);
    it->communicator->perform(*it);
  };
  check(cudaLaunchHostFunc(stream, run, shared), operation.name);
  if (operation.to_bytes != 0)
    check(cudaMemcpyAsync(operation.to, shared->output.data(), operation.to_bytes,
                          cudaMemcpyHostToDevice, stream),
          operation.name);
  const auto end = [](void* s) {
    const std::unique_ptr<Staged> it(static_cast<Staged*>(s));
    --it->communicator->running_;
  };
  check(cudaLaunchHostFunc(stream, end, shared), operation.name);
}

/// In stream order. What fails keeps the stream busy until it is aborted, as a kernel does that
/// waits for a peer.
void Communicator::perform(Staged& staged) noexcept {
  try {
    move(staged);
  } catch (const Aborted&) {
  } catch (const Failure& f) {
    fail(f);
    while (!aborted_) std::this_thread::sleep_for(kSlice);
  }
}

/// Everybody's part of a reduction, this rank's too, by rank.
std::vector<std::vector<std::byte>> Communicator::collect(Staged& staged) {
  const Operation& operation = staged.operation;
  const std::size_t part = operation.to_bytes;
  const bool scattered = operation.kind == Operation::Kind::reduce_scatter;
  std::vector<std::vector<std::byte>> parts(static_cast<std::size_t>(size()));
  std::vector<Message> out;
  std::vector<Message> in;
  for (int peer = 0; peer < size(); ++peer) {
    const auto p = static_cast<std::size_t>(peer);
    std::byte* const theirs = staged.input.data() + (scattered ? p * part : 0);
    parts[p].resize(part);
    if (peer == rank()) {
      std::copy(theirs, theirs + part, parts[p].begin());
      continue;
    }
    out.push_back({peer, theirs, part});
    in.push_back({peer, parts[p].data(), part});
  }
  mesh_.exchange(static_cast<std::uint32_t>(operation.kind), out, in, aborted_);
  return parts;
}

void Communicator::move(Staged& staged) {
  const Operation& operation = staged.operation;
  if (operation.kind == Operation::Kind::reduce_scatter ||
      operation.kind == Operation::Kind::all_reduce)
    return reduce(collect(staged), operation.type, operation.op, staged.output.data());
  const bool gathers = operation.kind == Operation::Kind::all_gather;
  const bool paired = operation.kind == Operation::Kind::pair;
  const std::size_t bytes = std::max(staged.input.size(), gathers ? 0 : staged.output.size());
  std::vector<Message> out;
  std::vector<Message> in;
  for (int peer = 0; peer < size(); ++peer) {
    std::byte* const place =
        staged.output.data() + (gathers ? static_cast<std::size_t>(peer) * bytes : 0);
    const bool gives = peer != rank() && operation.from != nullptr;
    if (gives && (!paired || peer == operation.peer))
      out.push_back({peer, staged.input.data(), bytes});
    if (operation.to == nullptr) continue;
    if (peer == rank())
      std::copy(staged.input.begin(), staged.input.end(), place);
    else if (gathers || peer == operation.peer)
      in.push_back({peer, place, bytes});
  }
  mesh_.exchange(static_cast<std::uint32_t>(operation.kind), out, in, aborted_);
}

}  // namespace tenon::nccl_sim
