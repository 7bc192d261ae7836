// Memory and events of another process.
#include "call.hpp"
#include "handles.hpp"

using namespace tenon::sim;

namespace {

/// Maps what a handle leads to and notes it on the node; the mapping of an earlier open if any.
cudaError_t import(Process& here, Node::Import found, void** pointer) {
  const int context = this_thread().device;
  if (const auto known = here.regions.find_import(found.id, context)) {
    here.regions.count_opens(known->base, 1);
    *pointer = known->base;
    return cudaSuccess;
  }
  const int device = here.device_of(context);
  if (found.device != device && !here.config.peers(found.device, device))
    return cudaErrorPeerAccessUnsupported;
  // Noted first: the exporter must not free it between the two.
  here.node.open(found);
  Region region{.kind = Region::Kind::imported,
                .bytes = found.bytes,
                .device = found.device,
                .context = context,
                .allocation = found,
                .opens = 1};
  if (!here.regions.map(region, here.node.memory_object(found.id), false,
                        here.config.host_access)) {
    here.node.close(found);
    return cudaErrorInvalidValue;  // freed in between
  }
  *pointer = region.base;
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* pointer) {
  return enter("cudaIpcGetMemHandle", Needs::context, [&](Process& here) {
    if (handle == nullptr) return cudaErrorInvalidValue;
    const auto region = here.regions.find(pointer);
    if (!region || region->kind != Region::Kind::device) return cudaErrorInvalidValue;
    MemoryHandle inside;
    inside.node = here.node.hash();
    inside.exporter = here.id;
    inside.index = region->allocation.id.index;
    inside.bytes = region->bytes;
    inside.generation = here.config.handle_reuse ? 0 : region->allocation.id.generation;
    write_handle(inside, *handle);
    return cudaSuccess;
  });
}

cudaError_t cudaIpcOpenMemHandle(void** pointer, cudaIpcMemHandle_t handle, unsigned flags) {
  return enter("cudaIpcOpenMemHandle", Needs::context, [&](Process& here) {
    if (pointer == nullptr || flags != cudaIpcMemLazyEnablePeerAccess) return cudaErrorInvalidValue;
    const auto inside = read_handle<MemoryHandle>(handle);
    if (!inside) return cudaErrorInvalidValue;
    if (inside->exporter == here.id) return cudaErrorDeviceUninitialized;
    const std::lock_guard lock(here.importing);
    Node::Import found;
    if (const cudaError_t error = here.node.find(*inside, found)) return error;
    return import(here, found, pointer);
  });
}

cudaError_t cudaIpcCloseMemHandle(void* pointer) {
  return enter("cudaIpcCloseMemHandle", Needs::context, [&](Process& here) {
    const auto region = here.regions.find(pointer);
    if (!region || region->kind != Region::Kind::imported || region->base != pointer)
      return cudaErrorInvalidValue;
    here.drain();  // also when it stays open
    if (const cudaError_t error = after_waiting(here)) return error;
    const std::lock_guard lock(here.importing);
    if (here.regions.count_opens(pointer, -1) > 0) return cudaSuccess;
    here.regions.remove(pointer);
    here.node.close(region->allocation);
    return cudaSuccess;
  });
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
  return enter("cudaIpcGetEventHandle", Needs::context, [&](Process& here) {
    if (handle == nullptr) return cudaErrorInvalidValue;
    const auto found = here.events.find(event);
    if (found == nullptr || found->imported || (found->flags & cudaEventInterprocess) == 0)
      return cudaErrorInvalidResourceHandle;
    EventHandle inside;
    inside.node = here.node.hash();
    inside.exporter = here.id;
    inside.number = found->number;
    write_handle(inside, *handle);
    return cudaSuccess;
  });
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
  return enter("cudaIpcOpenEventHandle", Needs::context, [&](Process& here) {
    if (event == nullptr) return cudaErrorInvalidValue;
    const auto inside = read_handle<EventHandle>(handle);
    if (!inside || inside->node != here.node.hash()) return cudaErrorInvalidResourceHandle;
    if (inside->exporter == here.id) return cudaErrorDeviceUninitialized;
    if (!inside->exporter.alive()) return cudaErrorInvalidResourceHandle;
    Event imported{.flags = cudaEventDisableTiming | cudaEventInterprocess,
                   .device = this_thread().device,
                   .imported = true};
    imported.state = shared_event(here.node.event_object(inside->exporter, inside->number), false);
    if (imported.state == nullptr) return cudaErrorInvalidResourceHandle;
    *event = here.events.add(std::move(imported));
    return cudaSuccess;
  });
}
