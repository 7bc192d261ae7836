#include "gpu_payload.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <tenon/checksum.hpp>
#include <thread>

#include "copy_pool.hpp"

namespace tenon::bench {
namespace {

namespace cuda = detail::cuda;

constexpr std::uint64_t kStampEvery = 64ULL << 10U;
constexpr std::uint64_t kStampBytes = sizeof(std::uint64_t);
constexpr std::uint64_t kSharedBlock = 2ULL << 20U;
// Not a multiple of anything, so that equal bytes never lie a round distance apart.
constexpr std::uint64_t kRandomBytes = (16ULL << 20U) + 12345 * kStampBytes;

std::uint64_t room(const Layout& layout, std::size_t i, GpuStorage::Order order,
                   std::uint64_t factor) {
  const std::uint64_t bytes = std::max<std::uint64_t>(layout[i].bytes * factor, 1);
  return format::round_up(bytes, order == GpuStorage::Order::apart ? kSharedBlock : 256);
}

std::vector<std::uint64_t> random_words(std::uint64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> words(count);
  for (std::uint64_t& word : words) word = random();
  return words;
}

}  // namespace

std::vector<std::uint64_t> GpuSums::take(std::span<const device::ChecksumItem> items,
                                         const GpuStream& stream) {
  std::copy(items.begin(), items.end(), items_.host());
  items_.upload(0, items.size(), stream.get());
  cuda::check(device::launch_checksum(items_.device(), static_cast<std::uint32_t>(items.size()),
                                      sums_.device(), stream.get()),
              "launching the checksum kernel");
  sums_.download(0, items.size(), stream.get());
  stream.synchronize();
  return {sums_.host(), sums_.host() + items.size()};
}

std::vector<std::uint64_t> GpuSums::take(
    const Layout& layout, const std::function<const std::byte*(std::size_t)>& data_of,
    const GpuStream& stream) {
  std::vector<device::ChecksumItem> items(layout.size());
  for (std::size_t i = 0; i < layout.size(); ++i) items[i] = {data_of(i), layout[i].bytes};
  return take(items, stream);
}

std::uint64_t count_different(std::span<const std::uint64_t> expected,
                              std::span<const std::uint64_t> got) noexcept {
  std::uint64_t different = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) different += expected[i] != got[i] ? 1U : 0U;
  return different;
}

std::uint64_t GpuStorage::bytes(const Layout& layout, Order order, std::uint64_t factor) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) total += room(layout, i, order, factor);
  return total;
}

GpuStorage::GpuStorage(const Layout& layout, Order order, std::uint64_t factor)
    : places_(layout.size()) {
  if (order == Order::apart) {
    allocations_.reserve(layout.size());
    for (std::size_t i = 0; i < layout.size(); ++i)
      places_[i] = allocations_.emplace_back(room(layout, i, order, factor)).data();
    return;
  }
  std::vector<std::size_t> sequence(layout.size());
  std::iota(sequence.begin(), sequence.end(), std::size_t{0});
  if (order == Order::shuffled)
    std::shuffle(sequence.begin(), sequence.end(), std::mt19937_64(layout.size()));
  std::byte* at = allocations_.emplace_back(bytes(layout, order, factor)).data();
  for (const std::size_t i : sequence) {
    places_[i] = at;
    at += room(layout, i, order, factor);
  }
}

void GpuStorage::poison() const {
  for (const DeviceMemory& memory : allocations_) memory.poison();
}

GpuPayload::GpuPayload(const Options& options, const Layout& layout, GpuStorage::Order order,
                       const GpuStream& stream, std::optional<Dtype> dtype)
    : device_(*options.device),
      stream_(stream),
      layout_(layout),
      factor_(dtype ? info(*dtype).bytes / info(layout[0].dtype).bytes : 1),
      storage_(layout, order, factor_),
      block_(storage_[0]),
      sources_(layout.size()),
      sums_(*options.device, layout.size()),
      words_(*options.device, layout.size()),
      stamps_(*options.device, layout.size()) {
  for (std::size_t i = 0; i < layout.size(); ++i) {
    block_ = std::min<const std::byte*>(block_, storage_[i]);
    sources_[i] = {.data = storage_[i],
                   .dtype = dtype.value_or(layout[i].dtype),
                   .bytes = layout[i].bytes * factor_};
  }
  fill();
  plan_stamps();
}

void GpuPayload::fill() {
  const std::vector<std::uint64_t> words = random_words(kRandomBytes / kStampBytes, layout_.hash());
  const DeviceMemory random(kRandomBytes);
  cuda::check(cudaMemcpyAsync(random.data(), words.data(), kRandomBytes, cudaMemcpyHostToDevice,
                              stream_.get()),
              "cudaMemcpyAsync");
  std::uint64_t from = 0;
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    const std::uint64_t bytes = layout_[i].bytes * factor_;
    for (std::uint64_t done = 0; done < bytes;) {
      const std::uint64_t piece = std::min(bytes - done, kRandomBytes - from);
      copy_on_device(storage_[i] + done, random.data() + from, piece, stream_);
      done += piece;
      from = (from + piece) % kRandomBytes;
    }
  }
  stream_.synchronize();
}

void GpuPayload::plan_stamps() {
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    const std::uint64_t bytes = layout_[i].bytes * factor_;
    if (bytes < kStampBytes) continue;
    stamp_bytes_ += (1 + (bytes - kStampBytes) / kStampEvery) * kStampBytes;
    stamps_.host()[stamp_items_++] = {
        .from = reinterpret_cast<const std::byte*>(words_.device() + i),
        .to = storage_[i],
        .row_bytes = kStampBytes,
        .from_pitch = 0,
        .to_pitch = kStampEvery,
        .end = stamp_bytes_,
        .cast = Cast::none,
        .reserved = 0,
        .reserved2 = 0};
  }
  stamps_.upload(0, stamp_items_, stream_.get());
  stream_.synchronize();
}

void GpuPayload::stamp(std::uint64_t version) {
  const std::vector<std::uint64_t> words = random_words(layout_.size(), version);
  std::copy(words.begin(), words.end(), words_.host());
  words_.upload(0, words.size(), stream_.get());
  const device::CopyTable stamps{stamps_.device(), static_cast<std::uint32_t>(stamp_items_),
                                 stamp_bytes_, true};
  cuda::check(device::launch_copy(device_, stamps, {}, stream_.get()), "launching the stamps");
  stream_.synchronize();
}

std::vector<Source> GpuPayload::unchanged() const {
  std::vector<Source> all = sources_;
  for (Source& source : all) source.unchanged = true;
  return all;
}

std::vector<std::uint64_t> GpuPayload::sums() {
  if (*sources_[0].dtype != layout_[0].dtype) return sums_of_casts();
  return sums_.take(
      layout_, [this](std::size_t i) { return storage_[i]; }, stream_);
}

// By the host's code, which is not what cast on the GPU.
std::vector<std::uint64_t> GpuPayload::sums_of_casts() const {
  std::vector<std::uint64_t> sums(layout_.size());
  CopyPool pool(std::max(std::thread::hardware_concurrency(), 1U));
  std::vector<std::byte> source;
  std::vector<std::byte> cast;
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    const std::uint64_t bytes = layout_[i].bytes;
    source.resize(std::max(source.size(), bytes * factor_));
    cast.resize(std::max(cast.size(), bytes));
    cuda::check(cudaMemcpyAsync(source.data(), storage_[i], bytes * factor_, cudaMemcpyDeviceToHost,
                                stream_.get()),
                "cudaMemcpyAsync");
    stream_.synchronize();
    const CopyItem item{.from = source.data(),
                        .to = cast.data(),
                        .row_bytes = bytes,
                        .from_pitch = 0,
                        .to_pitch = 0,
                        .end = bytes,
                        .cast = *cast_between(*sources_[i].dtype, layout_[i].dtype),
                        .reserved = 0,
                        .reserved2 = 0};
    pool.run(std::span(&item, 1));
    sums[i] = checksum(cast.data(), bytes);
  }
  return sums;
}

}  // namespace tenon::bench
