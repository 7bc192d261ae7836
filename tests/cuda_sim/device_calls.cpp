// Devices: how many, which, what they can do, who reaches whom.
#include <cstdio>
#include <cstring>
#include <map>

#include "call.hpp"

using namespace tenon::sim;

namespace {

constexpr int kMultiprocessors = 132;

std::map<int, int> attributes_of(const Process& here, int ordinal) {
  std::map<int, int> values = {
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMaxSharedMemoryPerBlock, 49152},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMultiProcessorCount, kMultiprocessors},
      {cudaDevAttrCanMapHostMemory, 1},
      {cudaDevAttrComputeMode, here.config.compute_mode},
      {cudaDevAttrConcurrentKernels, 1},
      {cudaDevAttrPciBusId, here.device_of(ordinal) + 1},
      {cudaDevAttrAsyncEngineCount, 3},
      {cudaDevAttrUnifiedAddressing, 1},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrComputeCapabilityMinor, 0},
      {cudaDevAttrManagedMemory, 1},
      {cudaDevAttrConcurrentManagedAccess, 1},
      {cudaDevAttrMemoryPoolsSupported, 1},
      {cudaDevAttrIpcEventSupport, 1},
  };
  for (const auto& [attribute, value] : here.config.attributes) values[attribute] = value;
  return values;
}

int attribute(const Process& here, int ordinal, cudaDeviceAttr which) {
  const auto values = attributes_of(here, ordinal);
  const auto found = values.find(which);
  return found == values.end() ? 0 : found->second;
}

void describe(const Process& here, int ordinal, cudaDeviceProp& properties) {
  const int device = here.device_of(ordinal);
  const auto value = [&](cudaDeviceAttr which) { return attribute(here, ordinal, which); };
  std::snprintf(properties.name, sizeof properties.name, "%s", here.config.device_name.c_str());
  const Uuid uuid = uuid_of(here.config.node, device);
  std::memcpy(&properties.uuid, uuid.data(), uuid.size());
  properties.totalGlobalMem = here.config.memory;
  properties.sharedMemPerBlock = 49152;
  properties.warpSize = value(cudaDevAttrWarpSize);
  properties.maxThreadsPerBlock = value(cudaDevAttrMaxThreadsPerBlock);
  properties.major = value(cudaDevAttrComputeCapabilityMajor);
  properties.minor = value(cudaDevAttrComputeCapabilityMinor);
  properties.multiProcessorCount = value(cudaDevAttrMultiProcessorCount);
  properties.canMapHostMemory = value(cudaDevAttrCanMapHostMemory);
  properties.concurrentKernels = value(cudaDevAttrConcurrentKernels);
  properties.pciBusID = value(cudaDevAttrPciBusId);
  properties.asyncEngineCount = value(cudaDevAttrAsyncEngineCount);
  properties.unifiedAddressing = value(cudaDevAttrUnifiedAddressing);
  properties.maxThreadsPerMultiProcessor = value(cudaDevAttrMaxThreadsPerMultiProcessor);
  properties.managedMemory = value(cudaDevAttrManagedMemory);
  properties.concurrentManagedAccess = value(cudaDevAttrConcurrentManagedAccess);
  properties.memoryPoolsSupported = value(cudaDevAttrMemoryPoolsSupported);
  properties.ipcEventSupported = value(cudaDevAttrIpcEventSupport);
  properties.mpsEnabled = value(cudaDevAttrMpsEnabled);
}

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  return enter("cudaGetDeviceCount", Needs::driver, [&](Process& here) {
    if (count == nullptr) return cudaErrorInvalidValue;
    *count = static_cast<int>(here.config.visible.size());
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return enter("cudaSetDevice", Needs::driver, [&](Process& here) {
    if (!here.is_ordinal(device)) return cudaErrorInvalidDevice;
    if (!here.make_context(device)) return cudaErrorDevicesUnavailable;
    this_thread().device = device;
    this_thread().has_context = true;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return enter("cudaGetDevice", Needs::covered, [&](Process&) {
    if (device == nullptr) return cudaErrorInvalidValue;
    *device = this_thread().device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return enter("cudaGetDeviceProperties", Needs::driver, [&](Process& here) {
    if (properties == nullptr) return cudaErrorInvalidValue;
    if (!here.is_ordinal(device)) return cudaErrorInvalidDevice;
    *properties = {};
    describe(here, device, *properties);
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  return enter("cudaDeviceGetAttribute", Needs::driver, [&](Process& here) {
    if (value == nullptr || which <= 0 || which >= cudaDevAttrMax) return cudaErrorInvalidValue;
    if (!here.is_ordinal(device)) return cudaErrorInvalidDevice;
    *value = attribute(here, device, which);
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  return enter("cudaDeviceCanAccessPeer", Needs::driver, [&](Process& here) {
    if (can == nullptr) return cudaErrorInvalidValue;
    if (!here.is_ordinal(device) || !here.is_ordinal(peer)) return cudaErrorInvalidDevice;
    *can = here.config.peers(here.device_of(device), here.device_of(peer)) ? 1 : 0;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  return enter("cudaDeviceEnablePeerAccess", Needs::context, [&](Process& here) {
    const int device = this_thread().device;
    if (flags != 0) return cudaErrorInvalidValue;
    if (!here.is_ordinal(peer) || peer == device) return cudaErrorInvalidDevice;
    if (!here.config.peers(here.device_of(device), here.device_of(peer)))
      return cudaErrorPeerAccessUnsupported;
    return here.enable_peer(device, peer) ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return enter("cudaMemGetInfo", Needs::context, [&](Process& here) {
    if (free == nullptr || total == nullptr) return cudaErrorInvalidValue;
    const std::uint64_t used = here.node.bytes_in_use(here.device_of(this_thread().device));
    *total = here.config.memory;
    *free = here.config.memory - std::min(here.config.memory, used);
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return enter("cudaDeviceSynchronize", Needs::context, [](Process& here) {
    here.streams.drain(this_thread().device);
    return after_waiting(here);
  });
}

cudaError_t cudaDeviceReset() {
  return enter("cudaDeviceReset", Needs::covered, [](Process& here) {
    const int device = this_thread().device;
    if (!here.is_broken(device)) return cudaErrorNotSupported;
    here.pacing.lost[static_cast<std::size_t>(device)] = true;
    return cudaSuccess;
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  return enter("cudaRuntimeGetVersion", Needs::nothing, [&](Process& here) {
    if (version == nullptr) return cudaErrorInvalidValue;
    *version = here.config.runtime;
    return cudaSuccess;
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  return enter("cudaDriverGetVersion", Needs::nothing, [&](Process& here) {
    if (version == nullptr) return cudaErrorInvalidValue;
    *version = here.config.driver;
    return cudaSuccess;
  });
}
