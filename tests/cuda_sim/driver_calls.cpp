// Driver functions, which programs that do not link libcuda ask the runtime for.
#include <cuda.h>

#include <cstring>
#include <string_view>

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

void* driver_function(std::string_view name) {
  if (name == "cuMemGetAddressRange") return reinterpret_cast<void*>(&address_range);
  if (name == "cuPointerGetAttribute") return reinterpret_cast<void*>(&pointer_attribute);
  if (name == "cuDeviceGetUuid") return reinterpret_cast<void*>(&device_uuid_of);
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
