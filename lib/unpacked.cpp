#include <map>
#include <optional>
#include <tenon/unpacked.hpp>
#include <utility>

#include "no_cuda.hpp"
#include "plan_at.hpp"

#if TENON_WITH_CUDA
#include <tenon/cuda.hpp>
#endif

namespace tenon {
#if TENON_WITH_CUDA
namespace {

namespace cuda = detail::cuda;

/// Why another process cannot open the memory behind a pointer; nothing when it can.
std::optional<std::string> why_not_exportable(const void* pointer, int device) {
  cudaPointerAttributes attributes{};
  cuda::check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  switch (attributes.type) {
    case cudaMemoryTypeManaged:
      return "managed memory";
    case cudaMemoryTypeHost:
    case cudaMemoryTypeUnregistered:
      return "host memory";
    case cudaMemoryTypeDevice:
      break;
  }
  if (attributes.device != device)
    return "memory of device " + std::to_string(attributes.device) + ", not " +
           std::to_string(device);
  unsigned capable = 0;
  const auto ask =
      cuda::driver_function<PFN_cuPointerGetAttribute_v4000>("cuPointerGetAttribute", 4000);
  cuda::check(
      static_cast<cudaError_t>(ask(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
                                   reinterpret_cast<CUdeviceptr>(pointer))),
      "cuPointerGetAttribute");
  if (capable != 0) return std::nullopt;
  return "memory of a pool or mapped (cudaMallocAsync, cuMemCreate, expandable segments), which "
         "has no IPC handle";
}

void check_source(const Parameter& p, const Source& source) {
  const auto refuse = [&](const std::string& why) {
    throw Error(Errc::InvalidArgument, "unpacked parameter '" + p.name + "': " + why);
  };
  if (source.dtype.value_or(p.dtype) != p.dtype)
    refuse("its source is " + std::string(info(*source.dtype).name) + ", not " +
           std::string(info(p.dtype).name) + ": what is not copied is not cast");
  if (source.data == nullptr) refuse("its pointer is null");
  if (reinterpret_cast<std::uintptr_t>(source.data) % info(p.dtype).bytes != 0)
    refuse("its pointer is not aligned to its elements");
}

class Planner {
 public:
  explicit Planner(const UnpackedOptions& options) : options_(options), scope_(options.device) {}

  detail::Spot spot_of(const Parameter& p, const Source& source) {
    if (!p.tied_to.empty() || byte_size(p.dtype, Shape(p.shape.data(), p.shape.size())) == 0)
      return {};
    check_source(p, source);
    if (const auto why = why_not_exportable(source.data, options_.device)) {
      const std::string what = "'" + p.name + "': " + *why;
      if (options_.unexportable == Unexportable::refuse)
        throw Error(Errc::NotShareable, "unpacked parameter " + what);
      gathered_.push_back(what);
      return {};
    }
    const cuda::Allocation allocation = cuda::allocation_of(source.data);
    bytes_[allocation.base] = allocation.bytes;
    return {allocation.base, static_cast<std::uint64_t>(static_cast<const std::byte*>(source.data) -
                                                        allocation.base)};
  }

  UnpackedPlan finish(std::span<const Parameter> parameters, std::span<const detail::Spot> spots) {
    auto [layout, runs] = detail::plan_at(parameters, spots, {options_.bucket_bytes, {}});
    std::vector<OwnSlot> slots(runs.size());
    for (std::size_t b = 0; b < runs.size(); ++b) {
      if (runs[b].allocation == nullptr) continue;
      slots[b] = {runs[b].allocation, bytes_[runs[b].allocation], runs[b].offset,
                  layout.bucket_bytes(b)};
    }
    return {std::move(layout), std::move(slots), std::move(gathered_), options_.device};
  }

 private:
  const UnpackedOptions& options_;
  cuda::DeviceScope scope_;
  std::map<const std::byte*, std::uint64_t> bytes_;  ///< of each allocation
  std::vector<std::string> gathered_;
};

}  // namespace

UnpackedPlan plan_unpacked(std::span<const Parameter> parameters, std::span<const Source> sources,
                           const UnpackedOptions& options) {
  if (sources.size() != parameters.size()) {
    throw Error(Errc::InvalidArgument, std::to_string(sources.size()) + " sources for " +
                                           std::to_string(parameters.size()) + " parameters");
  }
  cuda::check_ordinal(options.device);
  Planner planner(options);
  std::vector<detail::Spot> spots;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    spots.push_back(planner.spot_of(parameters[i], sources[i]));
  return planner.finish(parameters, spots);
}

#else

UnpackedPlan plan_unpacked(std::span<const Parameter>, std::span<const Source>,
                           const UnpackedOptions&) {
  throw Error(Errc::NoMemoryKind, kNoCuda);
}

#endif
}  // namespace tenon
