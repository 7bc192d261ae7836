// Driver functions, which programs that do not link libcuda ask the runtime for.
#include <cuda.h>

#include <cstring>
#include <string_view>
#include <tuple>

#include "call.hpp"

using namespace tenon::sim;

namespace {

CUresult address_range(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr pointer) {
  const cudaError_t rc = perform("cuMemGetAddressRange", Needs::driver, [&](Process& here) {
    // A thread that made no runtime call has no context yet.
    if (!this_thread().has_context) return cudaErrorDeviceUninitialized;
    const auto region = here.regions.find(reinterpret_cast<void*>(pointer));
    if (!region || !region->on_device()) return cudaErrorSymbolNotFound;
    if (base != nullptr) *base = reinterpret_cast<CUdeviceptr>(region->base);
    if (bytes != nullptr) *bytes = region->bytes;
    return cudaSuccess;
  });
  return static_cast<CUresult>(rc);  // the same numbers
}

CUresult pointer_attribute(void* value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  const cudaError_t rc = perform("cuPointerGetAttribute", Needs::driver, [&](Process& here) {
    if (value == nullptr) return cudaErrorInvalidValue;
    const auto region = here.regions.find(reinterpret_cast<void*>(pointer));
    if (!region) return cudaErrorInvalidValue;
    switch (attribute) {
      case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        std::memcpy(value, &region->number, sizeof region->number);
        return cudaSuccess;
      case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      case CU_POINTER_ATTRIBUTE_IS_MANAGED: {
        const Region::Kind asked = attribute == CU_POINTER_ATTRIBUTE_IS_MANAGED
                                       ? Region::Kind::managed
                                       : Region::Kind::device;
        const unsigned yes = region->kind == asked ? 1 : 0;
        std::memcpy(value, &yes, sizeof yes);
        return cudaSuccess;
      }
      default:
        return cudaErrorNotSupported;
    }
  });
  return static_cast<CUresult>(rc);
}

CUresult device_uuid_of(CUuuid* uuid, CUdevice device) {
  const cudaError_t rc = perform("cuDeviceGetUuid", Needs::driver, [&](Process& here) {
    if (uuid == nullptr) return cudaErrorInvalidValue;
    if (!here.is_ordinal(device)) return cudaErrorInvalidDevice;
    const Uuid bytes = uuid_of(here.config.node, here.device_of(device));
    std::memcpy(uuid, bytes.data(), bytes.size());
    return cudaSuccess;
  });
  return static_cast<CUresult>(rc);
}

CUcontext context_of(int ordinal) {
  return reinterpret_cast<CUcontext>(std::intptr_t{16} + ordinal);
}
int ordinal_of(CUcontext context) {
  return static_cast<int>(reinterpret_cast<std::intptr_t>(context) - 16);
}

CUresult retain_primary_context(CUcontext* context, CUdevice device) {
  const cudaError_t rc = perform("cuDevicePrimaryCtxRetain", Needs::driver, [&](Process& here) {
    if (context == nullptr) return cudaErrorInvalidValue;
    if (!here.is_ordinal(device)) return cudaErrorInvalidDevice;
    if (!here.make_context(device)) return cudaErrorDevicesUnavailable;
    *context = context_of(device);
    return cudaSuccess;
  });
  return static_cast<CUresult>(rc);
}

CUresult push_context(CUcontext context) {
  const cudaError_t rc = perform("cuCtxPushCurrent", Needs::covered, [&](Process& here) {
    if (!here.is_ordinal(ordinal_of(context))) return cudaErrorDeviceUninitialized;
    ThreadState& thread = this_thread();
    thread.covered.emplace_back(thread.device, thread.has_context);
    thread.device = ordinal_of(context);
    thread.has_context = true;
    return cudaSuccess;
  });
  return static_cast<CUresult>(rc);
}

CUresult pop_context(CUcontext* context) {
  const cudaError_t rc = perform("cuCtxPopCurrent", Needs::covered, [&](Process&) {
    ThreadState& thread = this_thread();
    if (thread.covered.empty()) return cudaErrorDeviceUninitialized;
    if (context != nullptr) *context = context_of(thread.device);
    std::tie(thread.device, thread.has_context) = thread.covered.back();
    thread.covered.pop_back();
    return cudaSuccess;
  });
  return static_cast<CUresult>(rc);
}

void* driver_function(std::string_view name) {
  if (name == "cuMemGetAddressRange") return reinterpret_cast<void*>(&address_range);
  if (name == "cuPointerGetAttribute") return reinterpret_cast<void*>(&pointer_attribute);
  if (name == "cuDeviceGetUuid") return reinterpret_cast<void*>(&device_uuid_of);
  if (name == "cuDevicePrimaryCtxRetain") return reinterpret_cast<void*>(&retain_primary_context);
  if (name == "cuCtxPushCurrent") return reinterpret_cast<void*>(&push_context);
  if (name == "cuCtxPopCurrent") return reinterpret_cast<void*>(&pop_context);
  return nullptr;
}

}  // namespace

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* found) {
  if (function != nullptr) *function = nullptr;  // also without a driver
  return enter("cudaGetDriverEntryPointByVersion", Needs::driver, [&](Process& here) {
    if (symbol == nullptr || function == nullptr || flags > cudaEnablePerThreadDefaultStream)
      return cudaErrorInvalidValue;
    if (version > static_cast<unsigned>(here.config.driver)) return cudaErrorInvalidValue;
    *function = driver_function(symbol);
    if (found != nullptr)
      *found =
          *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
  });
}
