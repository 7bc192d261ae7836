// Gathering on a GPU: one launch per bucket over a table that stays on the device and is uploaded
// again only when a source moved.
#include <algorithm>
#include <optional>
#include <string_view>
#include <tenon/cuda.hpp>
#include <utility>

#include "device_buffer.hpp"
#include "device_kernels.hpp"
#include "gather.hpp"

namespace tenon {
namespace {

namespace cuda = detail::cuda;

/// An event of a device, whatever thread ends it.
class DeviceEvent {
 public:
  DeviceEvent(int device, unsigned flags) : device_(device) {
    const cuda::DeviceScope scope(device);
    cuda::check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
  }
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;
  ~DeviceEvent() {
    cuda::give_back(device_, "cudaEventDestroy", [this] { return cudaEventDestroy(event_); });
  }
  void record(cudaStream_t stream) {
    cuda::check(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  [[nodiscard]] ::cudaEvent_t get() const noexcept { return event_; }

 private:
  int device_;
  ::cudaEvent_t event_ = nullptr;
};

/// Two events that keep the time; made at their first use.
class DeviceClock {
 public:
  explicit DeviceClock(int device) : device_(device) {}
  /// 0: begin; 1: end.
  void mark(std::size_t which, cudaStream_t stream) {
    if (which == 1 && !begun_) return;
    std::optional<DeviceEvent>& event = events_[which];
    if (!event) event.emplace(device_, cudaEventDefault);
    event->record(stream);
    begun_ = which == 0;
    marked_ = which == 1;
  }
  [[nodiscard]] std::optional<Duration> read() {
    if (!std::exchange(marked_, false)) return std::nullopt;
    float ms = 0;
    const cudaError_t error =
        cuda::forgotten(cudaEventElapsedTime(&ms, events_[0]->get(), events_[1]->get()));
    if (error != cudaSuccess) return std::nullopt;
    return Duration(static_cast<std::int64_t>(std::max(ms, 0.0F) * 1e6F));
  }

 private:
  int device_;
  std::optional<DeviceEvent> events_[2];
  bool begun_ = false;
  bool marked_ = false;
};

/// A stream for host functions behind another stream's work, which they do not hold up: each takes
/// 88 us of its stream (docs/hardware-notes.md). Made with the publication: a version that is under
/// way must not fail for want of it.
class SideStream {
 public:
  explicit SideStream(int device) : device_(device), reached_(device, cudaEventDisableTiming) {
    const cuda::DeviceScope scope(device);
    cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                "cudaStreamCreateWithFlags");
  }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  ~SideStream() {
    cuda::give_back(device_, "cudaStreamDestroy", [this] { return cudaStreamDestroy(stream_); });
  }
  /// That stream, behind what is enqueued on `other`, whose device is current. Throws
  /// Error(Capturing): it would become part of the caller's graph.
  [[nodiscard]] cudaStream_t behind(Stream other) {
    cuda::check_not_capturing(other);
    reached_.record(other.get());
    cuda::check(cudaStreamWaitEvent(stream_, reached_.get(), 0), "cudaStreamWaitEvent");
    return stream_;
  }

 private:
  int device_;
  DeviceEvent reached_;
  cudaStream_t stream_ = nullptr;
};

class CudaGather final : public Gather {
 public:
  CudaGather(Layout layout, int device, GatherMethod method)
      : layout_(std::move(layout)),
        device_(device),
        method_(method),
        table_(device, layout_.size()),
        plans_(layout_.bucket_count()),
        clock_(device),
        side_(device) {
    for (std::size_t i = 0; i < layout_.size(); ++i) dtypes_.push_back(layout_[i].dtype);
  }
  ~CudaGather() override {
    if (scratch_ != nullptr)
      cuda::give_back(device_, "cudaFree", [this] { return cudaFree(scratch_); });
  }
  CudaGather(const CudaGather&) = delete;
  CudaGather& operator=(const CudaGather&) = delete;

  Stream begin(std::optional<Stream> stream) override {
    const Stream used = stream.value_or(detail::per_process<cuda::Devices>().stream(device_));
    cuda::check_stream(used, device_);
    return used;
  }

  void check(std::size_t bucket, std::span<const Source> sources) override {
    if (!is_current(plans_[bucket], bucket, sources)) make_plan(bucket, sources);
  }

  bool run(std::size_t bucket, std::span<const Source>, std::byte* slot, Stream stream) override {
    const cuda::DeviceScope scope(device_);
    Plan& plan = plans_[bucket];  // check() has made it of these sources
    const std::size_t first = layout_.bucket_parameters(bucket).first;
    if (!plan.uploaded) upload(plan, slot, first, stream);
    for (const CopyItem& item : plan.copied) copy_one(item, slot, stream);
    launch_kernel(first, plan.by_kernel, slot, stream);
    launch_cub(first + plan.by_kernel.size(), plan.by_cub, slot, stream);
    return !plan.waits;
  }

  void sum(std::size_t bucket, const std::byte* slot, Stream stream) override {
    const cuda::DeviceScope scope(device_);
    const auto [first, last] = layout_.bucket_parameters(bucket);
    const std::size_t at = sum_table(bucket, slot, stream);
    cuda::check(
        device::launch_checksum(sum_items_.device() + at, static_cast<std::uint32_t>(last - first),
                                sums_.device() + first, stream.get()),
        "launching the checksum kernel");
  }
  const std::uint64_t* sums(Stream stream) override {
    const cuda::DeviceScope scope(device_);
    sums_.download(0, layout_.size(), stream.get());
    return sums_.host();
  }

  [[nodiscard]] bool is_idle(Stream stream) override {
    const cuda::DeviceScope scope(device_);
    const cudaError_t state = cuda::forgotten(cudaStreamQuery(stream.get()));
    if (state == cudaErrorNotReady) return false;
    cuda::check(state, "cudaStreamQuery");
    return true;
  }

  void after(Stream stream, Place place, void (*function)(void*), void* argument) override {
    const cuda::DeviceScope scope(device_);
    const cudaStream_t behind = place == Place::aside ? side_.behind(stream) : stream.get();
    cuda::check(cudaLaunchHostFunc(behind, function, argument), "cudaLaunchHostFunc");
  }
  void mark_begin(Stream stream) override {
    const cuda::DeviceScope scope(device_);
    clock_.mark(0, stream.get());
  }
  void mark_end(Stream stream) override {
    const cuda::DeviceScope scope(device_);
    clock_.mark(1, stream.get());
  }
  [[nodiscard]] std::optional<Duration> measured() override {
    const cuda::DeviceScope scope(device_);
    return clock_.read();
  }
  const char* broken() override {
    (void)detail::per_process<cuda::Devices>().stream(device_);
    return cuda::broken(device_);
  }

 private:
  using Key = std::vector<std::pair<const void*, Dtype>>;
  /// A bucket's sources, sorted by how they are copied.
  struct Plan {
    Key key;                          ///< what it was made of
    std::vector<CopyItem> by_kernel;  ///< one launch, whatever is cast
    std::vector<CopyItem> by_cub;
    std::vector<CopyItem> copied;  ///< a cudaMemcpyAsync each
    bool waits = false;            ///< some are in host memory or on another GPU
    bool uploaded = false;
    [[nodiscard]] std::size_t launched() const noexcept { return by_kernel.size() + by_cub.size(); }
  };

  [[nodiscard]] bool is_current(const Plan& plan, std::size_t bucket,
                                std::span<const Source> sources) const {
    if (plan.key.size() != sources.size()) return false;
    const Dtype* dtypes = &dtypes_[layout_.bucket_parameters(bucket).first];
    for (std::size_t k = 0; k < sources.size(); ++k)
      if (plan.key[k] != key_of(sources[k], dtypes[k])) return false;
    return true;
  }
  [[nodiscard]] static std::pair<const void*, Dtype> key_of(const Source& source, Dtype dtype) {
    return {source.data, source.dtype.value_or(dtype)};
  }

  void make_plan(std::size_t bucket, std::span<const Source> sources) {
    const cuda::DeviceScope scope(device_);
    plans_[bucket] = Plan{};  // also when what follows throws
    Plan plan;
    std::vector<CopyItem> items;
    append_items(layout_, bucket, sources, items);
    for (const CopyItem& item : items) {
      const bool is_here = kernel_reads(item.from);
      if (!is_here) refuse_cast(item, bucket);
      plan.waits |= !is_here;
      if (!is_here || (method_ == GatherMethod::memcpy && item.cast == Cast::none)) {
        plan.copied.push_back(item);
      } else if (method_ == GatherMethod::cub && item.cast == Cast::none) {
        plan.by_cub.push_back(item);
      } else {
        plan.by_kernel.push_back(item);
      }
    }
    const Dtype* dtypes = &dtypes_[layout_.bucket_parameters(bucket).first];
    for (std::size_t k = 0; k < sources.size(); ++k)
      plan.key.push_back(key_of(sources[k], dtypes[k]));
    plans_[bucket] = std::move(plan);
  }

  /// Memory of this GPU, whatever allocated it.
  [[nodiscard]] bool kernel_reads(const void* pointer) const {
    cudaPointerAttributes attributes{};
    cuda::check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
    return attributes.type == cudaMemoryTypeManaged ||
           (attributes.type == cudaMemoryTypeDevice && attributes.device == device_);
  }

  [[nodiscard]] std::string_view name_of(const CopyItem& item, std::size_t bucket) const {
    const auto [first, last] = layout_.bucket_parameters(bucket);
    for (std::size_t i = first; i < last; ++i)
      if (!layout_.tied_to(i) && CopyBase::offset<std::byte>(layout_[i].offset) == item.to)
        return layout_[i].name;
    return "?";
  }
  void refuse_cast(const CopyItem& item, std::size_t bucket) const {
    if (item.cast == Cast::none) return;
    throw Error(Errc::InvalidArgument,
                "the source of '" + std::string(name_of(item, bucket)) +
                    "' is to be cast and is in host memory or on another GPU: only what is on "
                    "device " +
                    std::to_string(device_) + " is cast on the way");
  }

  // Only in place are parameters born in a slot, and there a bucket's slot is always the same.
  void upload(Plan& plan, std::byte* slot, std::size_t first, Stream stream) {
    for (auto* items : {&plan.by_kernel, &plan.by_cub, &plan.copied}) settle_items(*items, slot);
    plan.uploaded = plan.launched() == 0;
    if (plan.uploaded) return;
    std::copy(plan.by_cub.begin(), plan.by_cub.end(),
              std::copy(plan.by_kernel.begin(), plan.by_kernel.end(), table_.host() + first));
    table_.upload(first, plan.launched(), stream.get());
    plan.uploaded = true;  // not when that failed
  }

  static void copy_one(const CopyItem& item, std::byte* slot, Stream stream) {
    const CopyItem i = CopyBase{nullptr, slot}.resolve(item);
    cuda::check(cudaMemcpyAsync(i.to, i.from, i.row_bytes, cudaMemcpyDefault, stream.get()),
                "copying a source");
  }

  void launch_kernel(std::size_t first, std::span<const CopyItem> items, std::byte* slot,
                     Stream stream) {
    if (items.empty()) return;
    // A source is one row.
    const device::CopyTable table{table_.device() + first, static_cast<std::uint32_t>(items.size()),
                                  items.back().end, false};
    cuda::check(device::launch_copy(device_, table, {nullptr, slot}, stream.get()),
                "launching the gather kernel");
  }
  void launch_cub(std::size_t first, std::span<const CopyItem> items, std::byte* slot,
                  Stream stream) {
    if (items.empty()) return;
    void* const room = scratch();
    cuda::check(
        device::launch_copy_cub(table_.device() + first, static_cast<std::uint32_t>(items.size()),
                                {nullptr, slot}, room, scratch_bytes_, stream.get()),
        "launching cub::DeviceMemcpy::Batched");
  }

  /// Where the table of a bucket in `slot` begins. A bucket has two slots at most; their tables are
  /// uploaded once.
  std::size_t sum_table(std::size_t bucket, const std::byte* slot, Stream stream) {
    if (sum_items_.device() == nullptr) {
      sum_items_ = device::Mirrored<device::ChecksumItem>(device_, 2 * layout_.size());
      sums_ = device::Mirrored<std::uint64_t>(device_, layout_.size());
      summed_.resize(2 * layout_.bucket_count());
    }
    const auto [first, last] = layout_.bucket_parameters(bucket);
    for (std::size_t set = 0; set < 2; ++set) {
      const std::byte*& known = summed_[set * layout_.bucket_count() + bucket];
      const std::size_t at = set * layout_.size() + first;
      if (known == slot) return at;
      if (known != nullptr) continue;
      for (std::size_t i = first; i < last; ++i) {
        const bool tied = layout_.tied_to(i).has_value();
        sum_items_.host()[at + i - first] = {slot + layout_[i].offset, tied ? 0 : layout_[i].bytes};
      }
      sum_items_.upload(at, last - first, stream.get());
      known = slot;  // not when that failed
      return at;
    }
    throw Error(Errc::ProtocolError, "a bucket is in a third slot");
  }

  // As large as the largest bucket needs; allocated at its first use.
  void* scratch() {
    if (scratch_ != nullptr) return scratch_;
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b) {
      const auto [first, last] = layout_.bucket_parameters(b);
      std::size_t bytes = 0;
      cuda::check(device::launch_copy_cub(table_.device(), static_cast<std::uint32_t>(last - first),
                                          {}, nullptr, bytes, nullptr),
                  "asking CUB for its size");
      scratch_bytes_ = std::max(scratch_bytes_, bytes);
    }
    cuda::check(cudaMalloc(&scratch_, scratch_bytes_), "cudaMalloc of CUB's memory");
    return scratch_;
  }

  Layout layout_;
  int device_;
  GatherMethod method_;
  device::Mirrored<CopyItem> table_;  ///< a bucket's items at the index of its first parameter
  std::vector<Dtype> dtypes_;         ///< per parameter
  std::vector<Plan> plans_;           ///< per bucket
  device::Mirrored<device::ChecksumItem> sum_items_;  ///< two sets, each by parameter
  device::Mirrored<std::uint64_t> sums_;              ///< by parameter
  std::vector<const std::byte*> summed_;              ///< the slots of the tables, two per bucket
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
  DeviceClock clock_;
  SideStream side_;
};

}  // namespace

std::unique_ptr<Gather> make_cuda_gather(const Layout& layout, int device, GatherMethod method) {
  return std::make_unique<CudaGather>(layout, device, method);
}

}  // namespace tenon
