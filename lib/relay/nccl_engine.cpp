// GPU memory between nodes, by NCCL.
//
// NCCL has no timeouts. What bounds every wait here: the communicator is non-blocking, so calls
// return at once; what they began is then watched from outside, by asking the communicator and the
// stream, never by synchronizing with either. An operation that must end before it is done takes
// its communicator with it (ncclCommAbort): NCCL knows no gentler way to stop a kernel that waits
// for a peer.
#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <device_buffer.hpp>
#include <optional>
#include <relay/engine.hpp>
#include <relay/nccl_library.hpp>
#include <tenon/cuda.hpp>
#include <thread>
#include <utility>

namespace tenon::relay {
namespace {

using detail::Deadline;
using detail::cuda::DeviceScope;

constexpr Duration kLongestPause = std::chrono::microseconds(200);
/// For what is still on its way when an engine is thrown away; then its communicator is aborted.
constexpr Duration kFarewell = std::chrono::seconds(1);
constexpr const char* kIdKey = "nccl-id";

Errc code_of(ncclResult_t result) noexcept {
  switch (result) {
    case ncclRemoteError:  // "a network error or a remote process exiting prematurely"
      return Errc::PeerGone;
    case ncclUnhandledCudaError:
      return Errc::Cuda;
    case ncclInvalidArgument:
    case ncclInvalidUsage:
      return Errc::InvalidArgument;
    default:
      return Errc::System;
  }
}

std::optional<ncclDataType_t> type_of(Dtype dtype) noexcept {
  switch (dtype) {
    case Dtype::i8:
      return ncclInt8;
    case Dtype::u8:
      return ncclUint8;
    case Dtype::i32:
      return ncclInt32;
    case Dtype::u32:
      return ncclUint32;
    case Dtype::i64:
      return ncclInt64;
    case Dtype::u64:
      return ncclUint64;
    case Dtype::f16:
      return ncclFloat16;
    case Dtype::bf16:
      return ncclBfloat16;
    case Dtype::f32:
      return ncclFloat32;
    case Dtype::f64:
      return ncclFloat64;
    default:  // 8-bit floats: not before NCCL 2.24 and sm_90; 16-bit integers and booleans: never
      return std::nullopt;
  }
}

std::size_t product(std::size_t a, std::size_t b, const char* what) {
  std::size_t result = 0;
  if (!__builtin_mul_overflow(a, b, &result)) return result;
  throw Error(Errc::InvalidArgument, std::string(what) + ": " + std::to_string(a) + " x " +
                                         std::to_string(b) + " bytes are more than there can be");
}

/// The elements of a reduction, as NCCL is told them.
struct Elements {
  Elements(std::size_t elements, Dtype dtype, ReduceOp reduce_op, const char* doing)
      : count(elements),
        bytes(product(elements, info(dtype).bytes, doing)),
        op(reduce_op == ReduceOp::mean ? ncclAvg : ncclSum) {
    const auto known = type_of(dtype);
    if (!known)
      throw Error(Errc::InvalidArgument,
                  std::string(doing) + ": NCCL cannot reduce " + std::string(info(dtype).name) +
                      "; it takes BF16, F16, F32, F64 and integers of 8, 32 and 64 bits");
    type = *known;
  }

  std::size_t count;
  std::size_t bytes;
  ncclRedOp_t op;
  ncclDataType_t type = ncclNumTypes;
};

class NcclEngine final : public Engine {
 public:
  NcclEngine(const Membership& membership, int device)
      : nccl_(NcclLibrary::load()),
        device_(device),
        rank_(membership.rank),
        size_(membership.size) {
    const DeviceScope scope(device_);
    detail::cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                        "cudaStreamCreateWithFlags");
  }
  ~NcclEngine() override;
  NcclEngine(const NcclEngine&) = delete;
  NcclEngine& operator=(const NcclEngine&) = delete;

  void connect(Store& store, const Deadline& deadline);
  [[nodiscard]] MemoryKind memory() const noexcept override { return MemoryKind::cuda; }
  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return size_; }

  /// The first collective makes NCCL's connections, buffers and kernels.
  void warm_up(const Deadline& deadline) override;
  void broadcast(std::byte* data, std::size_t bytes, int root, const Deadline& deadline) override;
  void all_gather(const std::byte* input, std::byte* output, std::size_t bytes,
                  const Deadline& deadline) override;
  void reduce_scatter(const std::byte* input, std::byte* output, std::size_t elements, Dtype dtype,
                      ReduceOp op, const Deadline& deadline) override;
  void all_reduce(std::byte* data, std::size_t elements, Dtype dtype, ReduceOp op,
                  const Deadline& deadline) override;
  void send(const std::byte* data, std::size_t bytes, int to, const Deadline& deadline) override;
  void receive(std::byte* data, std::size_t bytes, int from, const Deadline& deadline) override;

  /// Only asks: no thread may be in NCCL but the one that sees this, in run(). relaxed: a flag, and
  /// nothing that hangs on it.
  void abort() noexcept override { aborted_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t bytes_sent() const noexcept override { return sent_; }

 private:
  template <class Call>
  void run(const char* doing, const Deadline& deadline, Call call);
  template <class Done>
  void wait_until(const char* doing, const Deadline& deadline, Done done);
  [[nodiscard]] bool communicator_ready(const char* doing);
  [[nodiscard]] bool stream_idle(const char* doing);
  void check(ncclResult_t result, const char* doing) const;
  void check_usable(const char* doing) const;
  void check_rank(int rank, const char* doing) const;
  void check_other(int rank, const char* doing) const;
  [[nodiscard]] std::string who() const;
  void leave();
  void break_up() noexcept;

  const NcclLibrary nccl_;
  const int device_;
  const int rank_;
  const int size_;
  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;         ///< null before connect() and when the group has broken up
  std::optional<Error> broken_;       ///< why it did
  std::atomic<bool> aborted_{false};  ///< relaxed: nothing is read because of it
  std::atomic<std::uint64_t> sent_{0};
};

std::string NcclEngine::who() const {
  return " (rank " + std::to_string(rank_) + " of " + std::to_string(size_) + ")";
}

void NcclEngine::check(ncclResult_t result, const char* doing) const {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw Error(code_of(result), doing + who() + ": " + nccl_.text(result, comm_));
}

void NcclEngine::check_usable(const char* doing) const {
  if (aborted_.load(std::memory_order_relaxed))
    throw Error(Errc::Aborted, doing + who() + ": the group was broken up");
  if (broken_) throw Error(broken_->code(), doing + who() + ": after " + broken_->message());
}

void NcclEngine::check_rank(int rank, const char* doing) const {
  if (rank >= 0 && rank < size_) return;
  throw Error(Errc::InvalidArgument, std::string(doing) + ": there is no rank " +
                                         std::to_string(rank) + " among " + std::to_string(size_));
}

void NcclEngine::check_other(int rank, const char* doing) const {
  check_rank(rank, doing);
  if (rank == rank_)
    throw Error(Errc::InvalidArgument,
                std::string(doing) + ": rank " + std::to_string(rank) + " is this process itself");
}

/// False while NCCL is still at what it was asked last: connecting, or launching.
bool NcclEngine::communicator_ready(const char* doing) {
  ncclResult_t state = ncclSuccess;
  check(nccl_.get_async_error(comm_, &state), doing);
  check(state, doing);
  return state != ncclInProgress;
}

bool NcclEngine::stream_idle(const char* doing) {
  const cudaError_t error = detail::cuda::forgotten(cudaStreamQuery(stream_));
  if (error == cudaErrorNotReady) return false;
  detail::cuda::check(error, doing);
  return true;
}

template <class Done>
void NcclEngine::wait_until(const char* doing, const Deadline& deadline, Done done) {
  for (Duration pause = std::chrono::microseconds(2); !done();
       pause = std::min(pause * 2, kLongestPause)) {
    check_usable(doing);
    if (deadline.passed())
      throw Error(Errc::DeadlinePassed,
                  doing + who() +
                      " was not done in time: is every member of the group alive, and "
                      "at the same operation?");
    std::this_thread::sleep_for(pause);
  }
}

/// Makes `call`, which begins something on the communicator and the stream, and sees it to its end.
template <class Call>
void NcclEngine::run(const char* doing, const Deadline& deadline, Call call) {
  check_usable(doing);
  const DeviceScope scope(device_);
  try {
    check(call(), doing);
    // Wrong: asking the stream alone. Until the communicator is ready, nothing may be on it yet.
    wait_until(doing, deadline, [&] { return communicator_ready(doing); });
    wait_until(doing, deadline, [&] {
      const bool idle = stream_idle(doing);
      return communicator_ready(doing) && idle;  // an error counts, also of work that has ended
    });
  } catch (const Error& e) {
    broken_.emplace(e);
    break_up();
    throw;
  }
}

void NcclEngine::connect(Store& store, const Deadline& deadline) {
  const char* const doing = "connecting with NCCL";
  ncclUniqueId id;
  if (rank_ == 0) {
    check(nccl_.get_unique_id(&id), "making a group for NCCL");
    store.set(kIdKey, {id.internal, sizeof(id.internal)});
  } else {
    const std::string value = store.get(kIdKey, deadline);
    if (value.size() != sizeof(id.internal))
      throw Error(Errc::Mismatch, "the group's NCCL id has " + std::to_string(value.size()) +
                                      " bytes: is rank 0 a relay of GPU memory?");
    std::memcpy(id.internal, value.data(), value.size());
  }
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;  // NCCL older than our nccl.h reads what it knows
  config.blocking = 0;
  run(doing, deadline, [&] {
    const ncclResult_t begun = nccl_.init_rank(&comm_, size_, id, rank_, &config);
    check(begun, doing);
    // An engine that is being made is nobody's to abort. Who gives the group up cancels the store,
    // which throws from then on, also for what it has.
    wait_until(doing, deadline, [&] {
      (void)store.get(kIdKey, deadline);
      return communicator_ready(doing);
    });
    return begun;
  });
}

void NcclEngine::warm_up(const Deadline& deadline) {
  device::Mirrored<std::int32_t> zero(device_, 1);
  *zero.host() = 0;
  {
    const DeviceScope scope(device_);
    zero.upload(0, 1, stream_);
  }
  all_reduce(reinterpret_cast<std::byte*>(zero.device()), 1, Dtype::i32, ReduceOp::sum, deadline);
  sent_ = 0;
}

// What goes over the wire is NCCL's to choose, and it does not tell. Counted is what a ring of the
// ranks sends: all of them together, no algorithm without a switch's help sends less.

void NcclEngine::broadcast(std::byte* data, std::size_t bytes, int root, const Deadline& deadline) {
  const char* const doing = "a broadcast over NCCL";
  check_rank(root, doing);
  run(doing, deadline,
      [&] { return nccl_.broadcast(data, data, bytes, ncclUint8, root, comm_, stream_); });
  if ((rank_ + 1) % size_ != root) sent_ += bytes;
}

void NcclEngine::all_gather(const std::byte* input, std::byte* output, std::size_t bytes,
                            const Deadline& deadline) {
  const char* const doing = "an all-gather over NCCL";
  const std::size_t others = product(bytes, static_cast<std::size_t>(size_), doing) - bytes;
  run(doing, deadline,
      [&] { return nccl_.all_gather(input, output, bytes, ncclUint8, comm_, stream_); });
  sent_ += others;
}

void NcclEngine::reduce_scatter(const std::byte* input, std::byte* output, std::size_t elements,
                                Dtype dtype, ReduceOp op, const Deadline& deadline) {
  const char* const doing = "a reduce-scatter over NCCL";
  const Elements part(elements, dtype, op, doing);
  const std::size_t others =
      product(part.bytes, static_cast<std::size_t>(size_), doing) - part.bytes;
  run(doing, deadline, [&] {
    return nccl_.reduce_scatter(input, output, part.count, part.type, part.op, comm_, stream_);
  });
  sent_ += others;
}

void NcclEngine::all_reduce(std::byte* data, std::size_t elements, Dtype dtype, ReduceOp op,
                            const Deadline& deadline) {
  const char* const doing = "an all-reduce over NCCL";
  const Elements all(elements, dtype, op, doing);
  run(doing, deadline,
      [&] { return nccl_.all_reduce(data, data, all.count, all.type, all.op, comm_, stream_); });
  const auto size = static_cast<std::size_t>(size_);
  sent_ += all.bytes / size * (size - 1) * 2;
}

void NcclEngine::send(const std::byte* data, std::size_t bytes, int to, const Deadline& deadline) {
  const char* const doing = "a send over NCCL";
  check_other(to, doing);
  run(doing, deadline, [&] { return nccl_.send(data, bytes, ncclUint8, to, comm_, stream_); });
  sent_ += bytes;
}

void NcclEngine::receive(std::byte* data, std::size_t bytes, int from, const Deadline& deadline) {
  const char* const doing = "a receive over NCCL";
  check_other(from, doing);
  run(doing, deadline, [&] { return nccl_.receive(data, bytes, ncclUint8, from, comm_, stream_); });
}

void NcclEngine::break_up() noexcept {
  if (comm_ != nullptr) (void)nccl_.abort(std::exchange(comm_, nullptr));
}

/// What the last operation sent may still be in NCCL's own buffers: finalizing waits for that.
void NcclEngine::leave() {
  const char* const doing = "leaving a group over NCCL";
  const Deadline deadline(kFarewell);
  check_usable(doing);
  check(nccl_.finalize(comm_), doing);
  wait_until(doing, deadline, [&] { return communicator_ready(doing); });
  (void)nccl_.destroy(std::exchange(comm_, nullptr));
}

NcclEngine::~NcclEngine() {
  try {
    const DeviceScope scope(device_);
    if (comm_ != nullptr) leave();
  } catch (const Error&) {
    // A group that ends because a member is lost ends like this: no failure of this process.
  }
  break_up();
  detail::cuda::give_back(device_, "cudaStreamDestroy",
                          [this] { return cudaStreamDestroy(stream_); });
}

void check(const Membership& membership) {
  if (membership.store == nullptr || membership.size < 1 || membership.rank < 0 ||
      membership.rank >= membership.size)
    throw Error(Errc::InvalidArgument, "a group over NCCL needs a store and a rank below its size");
  const char* blocking =
      std::getenv("NCCL_COMM_BLOCKING");  // which NCCL puts above what we ask for
  if (blocking != nullptr && std::strcmp(blocking, "1") == 0)
    throw Error(Errc::InvalidArgument,
                "NCCL_COMM_BLOCKING=1 is set: a relay could not keep a deadline; unset it");
}

}  // namespace

std::unique_ptr<Engine> make_nccl_engine(const Membership& membership, int device,
                                         const detail::Deadline& deadline) {
  check(membership);
  detail::cuda::check_ordinal(device);
  auto engine = std::make_unique<NcclEngine>(membership, device);
  engine->connect(*membership.store, deadline);
  return engine;
}

std::string why_no_nccl() {
  try {
    (void)NcclLibrary::load();
    return {};
  } catch (const Error& e) {
    return e.message();
  }
}

}  // namespace tenon::relay
