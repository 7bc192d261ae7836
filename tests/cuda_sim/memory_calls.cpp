// Memory of one process: device, pool, managed and pinned host memory, and what a pointer is.
#include <cstring>

#include "call.hpp"

using namespace tenon::sim;

namespace {

/// Allocates `region` (kind and bytes set) on the current device.
cudaError_t allocate(Process& here, Region& region, void** pointer) {
  if (pointer == nullptr) return cudaErrorInvalidValue;
  *pointer = nullptr;
  if (region.bytes == 0) return cudaSuccess;
  const bool object = region.kind == Region::Kind::device;
  const bool counted = object || region.kind == Region::Kind::pool;
  region.context = this_thread().device;
  region.device = here.device_of(region.context);
  std::string name;
  if (counted) {
    const auto id = here.node.allocate({.device = region.device,
                                        .bytes = region.bytes,
                                        .limit = here.config.memory,
                                        .object = object});
    if (!id) return cudaErrorMemoryAllocation;
    region.allocation.id = *id;
    if (object) name = here.node.memory_object(*id);
  }
  if (!here.regions.map(region, name, object, !counted || here.config.host_access)) {
    if (counted) here.node.release(region.allocation.id);
    return cudaErrorMemoryAllocation;
  }
  if (here.config.poison) std::memset(region.alias, std::to_integer<int>(kPoison), region.bytes);
  *pointer = region.base;
  return cudaSuccess;
}

/// Gives an allocation back, once nothing queued can touch it.
void give_back(Process& here, const Region& region) {
  const auto now = here.regions.find(region.base);
  if (!now || now->number != region.number) {
    here.node.violation("freed memory twice");
    return;
  }
  const bool counted = region.kind == Region::Kind::device || region.kind == Region::Kind::pool;
  const int importers = counted ? here.node.release(region.allocation.id) : 0;
  if (importers > 0) {
    std::memset(region.alias, std::to_integer<int>(kFreedUnderReader), region.bytes);
    here.node.violation("freed " + std::to_string(region.bytes) + " bytes that " +
                        std::to_string(importers) + " other process(es) have open");
  }
  here.regions.remove(region.base);
}

/// The allocation of this process that begins at `pointer`.
std::optional<Region> own_base(const Process& here, const void* pointer) {
  auto region = here.regions.find(pointer);
  if (!region || region->base != pointer || region->kind == Region::Kind::imported)
    return std::nullopt;
  return region;
}

}  // namespace

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  return enter("cudaMalloc", Needs::context, [&](Process& here) {
    Region region{.kind = Region::Kind::device, .bytes = bytes};
    return allocate(here, region, pointer);
  });
}

cudaError_t cudaMallocManaged(void** pointer, std::size_t bytes, unsigned flags) {
  return enter("cudaMallocManaged", Needs::context, [&](Process& here) {
    if (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost) return cudaErrorInvalidValue;
    if (bytes == 0) return cudaErrorInvalidValue;
    Region region{.kind = Region::Kind::managed, .bytes = bytes};
    return allocate(here, region, pointer);
  });
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned flags) {
  return enter("cudaHostAlloc", Needs::context, [&](Process& here) {
    constexpr unsigned known =
        cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
    if ((flags & ~known) != 0) return cudaErrorInvalidValue;
    Region region{.kind = Region::Kind::host, .bytes = bytes};
    return allocate(here, region, pointer);
  });
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  return enter("cudaMallocHost", Needs::context, [&](Process& here) {
    Region region{.kind = Region::Kind::host, .bytes = bytes};
    return allocate(here, region, pointer);
  });
}

cudaError_t cudaFree(void* pointer) {
  return enter("cudaFree", Needs::context, [&](Process& here) {
    if (pointer == nullptr) return cudaSuccess;
    const auto region = own_base(here, pointer);
    if (!region || region->kind == Region::Kind::host) return cudaErrorInvalidValue;
    if (region->kind != Region::Kind::pool) here.drain();
    if (const cudaError_t error = after_waiting(here)) return error;
    give_back(here, *region);
    return cudaSuccess;
  });
}

cudaError_t cudaFreeHost(void* pointer) {
  return enter("cudaFreeHost", Needs::context, [&](Process& here) {
    if (pointer == nullptr) return cudaSuccess;
    const auto region = own_base(here, pointer);
    if (!region || region->kind != Region::Kind::host) return cudaErrorInvalidValue;
    here.drain();
    if (const cudaError_t error = after_waiting(here)) return error;
    give_back(here, *region);
    return cudaSuccess;
  });
}

cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t stream) {
  return enter("cudaMallocAsync", Needs::context, [&](Process& here) {
    if (stream_of(here, stream) == nullptr) return cudaErrorInvalidResourceHandle;
    Region region{.kind = Region::Kind::pool, .bytes = bytes};
    return allocate(here, region, pointer);
  });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return enter("cudaFreeAsync", Needs::context, [&](Process& here) {
    if (pointer == nullptr) return cudaSuccess;
    const auto region = own_base(here, pointer);
    if (!region || region->kind == Region::Kind::host) return cudaErrorInvalidValue;
    return enqueue(here, stream, Stream::Kind::device_work,
                   [&here, region = *region] { give_back(here, region); });
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return enter("cudaPointerGetAttributes", Needs::context, [&](Process& here) {
    if (attributes == nullptr) return cudaErrorInvalidValue;
    *attributes = {};
    auto* at = const_cast<void*>(pointer);
    const auto region = here.regions.find(pointer);
    if (!region) {
      attributes->type = cudaMemoryTypeUnregistered;
      attributes->device = cudaInvalidDeviceId;
      attributes->hostPointer = at;
      return cudaSuccess;
    }
    attributes->device = region->context;
    for (int i = 0; i < static_cast<int>(here.config.visible.size()); ++i) {
      if (here.device_of(i) == region->device) attributes->device = i;
    }
    attributes->devicePointer = at;
    switch (region->kind) {
      case Region::Kind::device:
      case Region::Kind::pool:
      case Region::Kind::imported:
        attributes->type = cudaMemoryTypeDevice;
        break;
      case Region::Kind::managed:
        attributes->type = cudaMemoryTypeManaged;
        attributes->hostPointer = at;
        break;
      case Region::Kind::host:
        attributes->type = cudaMemoryTypeHost;
        attributes->hostPointer = at;
        break;
    }
    return cudaSuccess;
  });
}
