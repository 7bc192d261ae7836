// Copies and fills. All but those of sources read "during the call" touch memory when they run.
#include <cstring>
#include <memory>
#include <vector>

#include "call.hpp"

using namespace tenon::sim;

namespace {

struct Copy {
  void* to = nullptr;
  const void* from = nullptr;
  std::size_t bytes = 0;
};

void run_copy(Process& here, const Copy& copy) {
  if (copy.bytes == 0) return;
  std::memmove(here.regions.reach(copy.to), here.regions.reach(copy.from), copy.bytes);
  here.bytes_copied += copy.bytes;
}

/// What one side of a copy has to be.
enum class Side { any, device, host };

/// Whether a pointer can be that side; memory CUDA does not know is host memory.
bool fits(const Process& here, const void* pointer, std::size_t bytes, Side side) {
  const auto region = here.regions.find(pointer);
  if (!region) return side != Side::device;
  const bool managed = region->kind == Region::Kind::managed;
  if (side == Side::device && !region->on_device()) return false;
  if (side == Side::host && region->on_device() && !managed) return false;
  return region->contains(pointer, bytes);
}

cudaError_t check(const Process& here, const Copy& copy, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
    return cudaErrorInvalidMemcpyDirection;
  if (copy.bytes == 0) return cudaSuccess;
  if (copy.to == nullptr || copy.from == nullptr) return cudaErrorInvalidValue;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const auto side = [&](bool device) {
    if (kind == cudaMemcpyDefault) return Side::any;
    return device ? Side::device : Side::host;
  };
  const bool good = fits(here, copy.to, copy.bytes, side(to_device)) &&
                    fits(here, copy.from, copy.bytes, side(from_device));
  return good ? cudaSuccess : cudaErrorInvalidValue;
}

/// Whose default stream a synchronous call uses.
enum class Default { legacy, per_thread };

/// Work on a default stream, waited for where CUDA promises that and nowhere else.
cudaError_t run_there(Process& here, Default which, bool waits, Stream::Work work) {
  const auto stream = which == Default::legacy ? here.streams.legacy(this_thread().device)
                                               : stream_of(here, cudaStreamPerThread);
  const auto ticket = here.streams.submit(stream, Stream::Kind::device_work, std::move(work));
  if (!waits) return cudaSuccess;
  stream->wait(ticket);
  return after_waiting(here);
}

/// Memory that only work on a device reaches, as that of cudaMalloc.
bool is_device_memory(const Process& here, const void* pointer) {
  const auto region = here.regions.find(pointer);
  return region && region->on_device() && region->kind != Region::Kind::managed;
}
bool is_pageable(const Process& here, const void* pointer) {
  return !here.regions.find(pointer).has_value();
}

/// Pageable memory to a device's: its bytes have been read when the call returns, and perhaps none
/// has arrived. Work on streams that do not wait for the default stream can be before them.
cudaError_t copy_staged(Process& here, Default which, const Copy& copy) {
  const auto staged = std::make_shared<std::vector<std::byte>>(copy.bytes);
  const cudaError_t error = run_there(here, which, true, [staged, copy] {
    if (copy.bytes != 0) std::memcpy(staged->data(), copy.from, copy.bytes);
  });
  if (error != cudaSuccess) return error;
  return run_there(here, which, false, [&here, copy, staged] {
    run_copy(here, {copy.to, staged->data(), copy.bytes});
  });
}

cudaError_t copy_now(const Copy& copy, cudaMemcpyKind kind, Default which) {
  return enter("cudaMemcpy", Needs::context, [&](Process& here) {
    const cudaError_t error = check(here, copy, kind);
    if (error != cudaSuccess) return error;
    const bool to_device = is_device_memory(here, copy.to);
    if (to_device && is_pageable(here, copy.from)) return copy_staged(here, which, copy);
    const bool waits = !to_device || !is_device_memory(here, copy.from);
    return run_there(here, which, waits, [&here, copy] { run_copy(here, copy); });
  });
}

cudaError_t fill_now(void* to, int value, std::size_t bytes, Default which) {
  return enter("cudaMemset", Needs::context, [&](Process& here) {
    if (bytes != 0 && !fits(here, to, bytes, Side::device)) return cudaErrorInvalidValue;
    return run_there(here, which, !is_device_memory(here, to), [&here, to, value, bytes] {
      if (bytes != 0) std::memset(here.regions.reach(to), value, bytes);
    });
  });
}

/// The attributes of each copy of a batch; empty when they are not as they must be.
std::vector<cudaMemcpyAttributes> spread(const cudaMemcpyAttributes* attributes,
                                         const std::size_t* first, std::size_t sets,
                                         std::size_t count) {
  std::vector<cudaMemcpyAttributes> all;
  if (attributes == nullptr || first == nullptr || sets == 0 || sets > count) return all;
  for (std::size_t set = 0; set < sets; ++set) {
    const cudaMemcpySrcAccessOrder order = attributes[set].srcAccessOrder;
    const bool good =
        first[set] < count && (set == 0 ? first[0] == 0 : first[set] > first[set - 1]);
    if (!good || order < cudaMemcpySrcAccessOrderStream || order > cudaMemcpySrcAccessOrderAny)
      return {};
    all.resize(set + 1 < sets ? first[set + 1] : count, attributes[set]);
  }
  return all;
}

/// A batch on its way; what was read during the call is held here.
struct Batch {
  std::vector<Copy> copies;
  std::vector<std::unique_ptr<std::byte[]>> staged;
};

void stage(Process& here, Batch& batch, Copy& copy) {
  batch.staged.emplace_back(new std::byte[copy.bytes]);
  std::memcpy(batch.staged.back().get(), here.regions.reach(copy.from), copy.bytes);
  copy.from = batch.staged.back().get();
}

/// CUDA promises no order within a batch.
void shuffle(std::vector<Copy>& copies, std::uint64_t seed) {
  Random random(seed + copies.size());
  for (std::size_t i = copies.size(); i > 1; --i)
    std::swap(copies[i - 1], copies[static_cast<std::size_t>(random.below(i))]);
}

}  // namespace

// What a compiler with --default-stream per-thread calls instead.
extern "C" decltype(cudaMemcpy) cudaMemcpy_ptds;
extern "C" decltype(cudaMemset) cudaMemset_ptds;

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return copy_now({to, from, bytes}, kind, Default::legacy);
}

cudaError_t cudaMemcpy_ptds(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return copy_now({to, from, bytes}, kind, Default::per_thread);
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return fill_now(to, value, bytes, Default::legacy);
}

cudaError_t cudaMemset_ptds(void* to, int value, std::size_t bytes) {
  return fill_now(to, value, bytes, Default::per_thread);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return enter("cudaMemcpyAsync", Needs::context, [&](Process& here) {
    const Copy copy{to, from, bytes};
    const cudaError_t error = check(here, copy, kind);
    if (error != cudaSuccess) return error;
    return enqueue(here, stream, Stream::Kind::device_work,
                   [&here, copy] { run_copy(here, copy); });
  });
}

cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const std::size_t* bytes,
                                 std::size_t count, cudaMemcpyAttributes* attributes,
                                 std::size_t* first, std::size_t sets, cudaStream_t stream) {
  return enter("cudaMemcpyBatchAsync", Needs::context, [&](Process& here) {
    if (to == nullptr || from == nullptr || bytes == nullptr) return cudaErrorInvalidValue;
    const auto each = spread(attributes, first, sets, count);
    if (each.empty()) return cudaErrorInvalidValue;
    if (stream == nullptr || stream == cudaStreamLegacy) return cudaErrorInvalidValue;
    const auto batch = std::make_shared<Batch>();
    for (std::size_t i = 0; i < count; ++i) {
      Copy copy{to[i], from[i], bytes[i]};
      const cudaError_t error = check(here, copy, cudaMemcpyDefault);
      if (error != cudaSuccess) return error;
      if (copy.bytes != 0 && each[i].srcAccessOrder == cudaMemcpySrcAccessOrderDuringApiCall)
        stage(here, *batch, copy);
      batch->copies.push_back(copy);
    }
    shuffle(batch->copies, here.config.seed);
    return enqueue(here, stream, Stream::Kind::device_work, [&here, batch] {
      for (const Copy& copy : batch->copies) run_copy(here, copy);
    });
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return enter("cudaMemsetAsync", Needs::context, [&](Process& here) {
    if (bytes != 0 && !fits(here, to, bytes, Side::device)) return cudaErrorInvalidValue;
    return enqueue(here, stream, Stream::Kind::device_work, [&here, to, value, bytes] {
      if (bytes != 0) std::memset(here.regions.reach(to), value, bytes);
    });
  });
}
