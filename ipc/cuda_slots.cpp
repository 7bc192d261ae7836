// Slots in GPU memory: one cudaMalloc each, exported once. Or the trainer's own allocations.
//
// CUDA shares whole 2 MiB blocks of device memory, hence sizes are multiples of that: a slot never
// lies in one block with something that is nobody's business.
#include <algorithm>
#include <map>
#include <string>
#include <tenon/cuda.hpp>
#include <tenon/detail/crash_point.hpp>
#include <tenon/detail/keep.hpp>
#include <utility>

#include "slot_memory.hpp"

namespace tenon::ipc {
namespace {

namespace cuda = detail::cuda;

std::string mib(std::uint64_t bytes) { return std::to_string(bytes >> 20U) + " MiB"; }

struct FreeMemory {
  int device;
  void operator()(const std::byte* memory) const noexcept {
    cuda::give_back(device, "cudaFree",
                    [memory] { return cudaFree(const_cast<std::byte*>(memory)); });
  }
};

class CudaSlots final : public SlotMemory {
 public:
  CudaSlots(int device, std::vector<OwnSlot> own) : device_(device), own_(std::move(own)) {
    cuda::check_ordinal(device);
    cuda::check_compute_mode(device);
    int driver = 0;
    int runtime = 0;
    cuda::check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    cuda::check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    identity_ = {MemoryKind::cuda, cuda::uuid_of(device), static_cast<std::uint32_t>(driver),
                 static_cast<std::uint32_t>(runtime)};
  }

  [[nodiscard]] MemoryIdentity identity() const override { return identity_; }
  [[nodiscard]] int device() const override { return device_; }

  void allocate(const detail::Facts&, std::span<const std::uint64_t> sizes,
                const Progress& progress) override {
    const cuda::DeviceScope scope(device_);
    std::uint64_t total = 0;
    for (const std::uint64_t size : sizes) {
      if (__builtin_add_overflow(total, size, &total)) throw_out_of_space(0, sizes.size(), ~0ULL);
    }
    try {
      std::uint64_t done = 0;
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        const bool is_own = !own_.empty() && own_[i].allocation != nullptr;
        slots_.push_back(is_own ? adopt(own_[i]) : make(i, sizes));
        detail::crash_point(detail::CrashPoint::create_slot);
        done += sizes[i];
        if (progress) progress(done, total);
      }
      cuda::check(cudaStreamSynchronize(stream()), "clearing slots");
    } catch (...) {
      slots_.clear();
      throw;
    }
  }

  [[nodiscard]] format::Slot describe(std::size_t i) const override {
    format::Slot slot{};
    slot.handle_kind = static_cast<std::uint32_t>(format::HandleKind::cuda_ipc);
    slot.allocation = slots_[i].allocation;
    std::memcpy(slot.handle, &slots_[i].handle, sizeof(slot.handle));
    slot.offset = slots_[i].offset;
    slot.bytes = slots_[i].bytes;
    slot.mapped_bytes = slots_[i].allocation_bytes;
    return slot;
  }
  [[nodiscard]] std::byte* data(std::size_t i) const override {
    return const_cast<std::byte*>(slots_[i].memory.get());
  }
  [[nodiscard]] detail::SlotPointer pointer(std::size_t i) const override {
    return slots_[i].memory;
  }
  void withdraw() noexcept override {}
  [[nodiscard]] bool outlived_by_readers() const override { return false; }
  void keep_for_ever() noexcept override {
    for (Slot& slot : slots_) detail::keep_for_ever(std::move(slot.memory));
    slots_.clear();
  }

 private:
  struct Slot {
    detail::SlotPointer memory;
    std::uint64_t bytes;
    cudaIpcMemHandle_t handle;
    std::uint32_t allocation;  ///< number of the first slot in the same one
    std::uint64_t allocation_bytes;
    std::uint64_t offset = 0;
  };

  [[nodiscard]] cudaStream_t stream() const {
    return detail::per_process<cuda::Devices>().stream(device_);
  }

  [[nodiscard]] Slot make(std::size_t i, std::span<const std::uint64_t> sizes) const {
    void* memory = nullptr;
    const cudaError_t error = cuda::forgotten(cudaMalloc(&memory, sizes[i]));
    if (error == cudaErrorMemoryAllocation) throw_out_of_space(i, sizes.size(), sizes[i]);
    cuda::check(error, "cudaMalloc");
    detail::SlotPointer owner(static_cast<const std::byte*>(memory), FreeMemory{device_});
    // Memory comes as its last owner left it, which no subscriber is to see.
    cuda::check(cudaMemsetAsync(memory, 0, sizes[i], stream()), "clearing a slot");
    return {std::move(owner), sizes[i], export_handle(memory), static_cast<std::uint32_t>(i),
            sizes[i]};
  }

  // Not freed: it is the trainer's. Exported once, however many slots lie in it.
  [[nodiscard]] Slot adopt(const OwnSlot& own) {
    const auto number = static_cast<std::uint32_t>(slots_.size());
    const auto [known, is_new] = exported_.try_emplace(own.allocation, number);
    return {detail::SlotPointer(own.allocation + own.offset, [](const std::byte*) {}),
            own.bytes,
            is_new ? export_handle(const_cast<std::byte*>(own.allocation))
                   : slots_[known->second].handle,
            known->second,
            own.allocation_bytes,
            own.offset};
  }

  [[nodiscard]] static cudaIpcMemHandle_t export_handle(void* memory) {
    cudaIpcMemHandle_t handle{};
    const cudaError_t error = cuda::forgotten(cudaIpcGetMemHandle(&handle, memory));
    if (error == cudaSuccess) return handle;
    throw Error(Errc::NotShareable,
                std::string("this GPU's memory cannot be shared between processes: "
                            "cudaIpcGetMemHandle: ") +
                    cudaGetErrorName(error) + ", " + cudaGetErrorString(error) +
                    " (Tegra and some virtual machines have no CUDA IPC; host memory needs none)");
  }

  [[noreturn]] void throw_out_of_space(std::size_t i, std::size_t count,
                                       std::uint64_t bytes) const {
    std::size_t free = 0;
    std::size_t total = 0;
    (void)cuda::forgotten(cudaMemGetInfo(&free, &total));
    throw Error(Errc::OutOfSpace,
                "allocating slots: slot " + std::to_string(i) + " of " + std::to_string(count) +
                    " needs " + mib(bytes) + " and device " + std::to_string(device_) + " has " +
                    mib(free) + " of " + mib(total) +
                    " left; publish in place or streaming, or use smaller buckets");
  }

  int device_;
  std::vector<OwnSlot> own_;
  MemoryIdentity identity_;
  std::vector<Slot> slots_;
  std::map<const std::byte*, std::uint32_t> exported_;  ///< the trainer's allocations
};

}  // namespace

std::unique_ptr<SlotMemory> make_cuda_slots(int device, std::vector<OwnSlot> own) {
  return std::make_unique<CudaSlots>(device, std::move(own));
}

}  // namespace tenon::ipc
