#include "gpu_compare.hpp"

#include <algorithm>
#include <utility>

#include "gpu_calls.hpp"

namespace tenon::bench {
namespace {

Row row_of(std::string name, const Layout& layout) {
  return {.name = std::move(name), .bytes = layout.payload_bytes(), .tensors = layout.size()};
}

void note_memory(Row& gather, const Publisher& publisher, std::uint64_t free_before) {
  gather.gpu["extra_gpu_bytes"] = static_cast<std::int64_t>(free_before - free_gpu_memory()) -
                                  static_cast<std::int64_t>(publisher.slot_bytes());
}

}  // namespace

double hbm_tb_per_s(const Row& row, double moved_per_byte) {
  return moved_per_byte * static_cast<double>(row.bytes) / 1e6 / row.samples.p50();
}

std::optional<DeviceMemory> GpuComparison::target(std::uint64_t bytes) const {
  if (too_large(options_, 3 * bytes + bytes / 8, 1)) return std::nullopt;
  return std::optional<DeviceMemory>(std::in_place, bytes);
}

Compared GpuComparison::run(const Way& way, GpuPayload& payload,
                            const std::optional<DeviceMemory>& apart) {
  const std::uint64_t free_before = free_gpu_memory();
  Publisher publisher = Publisher::create(
      options_.publication(0), way.layout,
      {.memory = cuda(*options_.device), .mode = Mode::in_place, .gather = way.method});
  const std::vector<std::byte*> slots = poisoned_slots(publisher);
  const bool casts = payload.sources()[0].dtype != way.layout[0].dtype;
  GpuSums sums(*options_.device, way.layout.size());
  Row reference = row_of("R0 one cudaMemcpyAsync", way.layout);
  Row gather = row_of(way.name, way.layout);
  Samples host;
  const std::size_t warm_up = options_.warm_up(kGpuWarmUp);
  const std::size_t rounds = warm_up + options_.samples(kGpuRounds);
  for (std::size_t round = 0; round < rounds; ++round) {
    payload.stamp(round + 1);
    const auto copy = [&] {
      const double us = time([&] { copy_all(payload, slots, way.layout, apart); });
      if (round >= warm_up) reference.samples.add_us(us);
    };
    if (round % 2 == 0) copy();
    publish(publisher, payload, gather, host, round >= warm_up);
    // Into the slots it goes only while they are nobody's; now they are to be compared.
    if (!casts || round + 1 == rounds) gather.wrong += wrong_in(publisher, payload.sums(), sums);
    if (round % 2 == 1) copy();
    if (apart) reference.wrong += wrong_copy(payload, *apart);
    if (round == 0) note_memory(gather, publisher, free_before);
  }
  gather.gpu["host_us_p50"] = host.p50();
  gather.gpu["buckets"] = way.layout.bucket_count();
  gather.gpu["share_of_memcpy"] = paired_speed(reference.samples, gather.samples);
  gather.gpu["hbm_tb_per_s"] = hbm_tb_per_s(gather, 2);
  reference.gpu["hbm_tb_per_s"] = hbm_tb_per_s(reference, 2);
  return {std::move(reference), std::move(gather)};
}

void GpuComparison::publish(Publisher& publisher, const GpuPayload& payload, Row& gather,
                            Samples& host, bool counts) {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  std::optional<std::uint64_t> calls;
  const double us = time([&] {
    const auto before = cuda_calls();
    from = monotonic_ns();
    publisher.publish(payload.sources(), stream_);
    to = monotonic_ns();
    if (before) calls = *cuda_calls() - *before;
  });
  if (!counts) return;
  gather.samples.add_us(us);
  host.add_ns(from, to);
  if (calls) gather.gpu["cuda_calls_per_step"] = *calls;
}

double GpuComparison::time(const std::function<void()>& work) {
  timer_.begin(stream_);
  work();
  timer_.end(stream_);
  const double us = timer_.microseconds();
  stream_.synchronize();
  return us;
}

void GpuComparison::copy_all(const GpuPayload& payload, const std::vector<std::byte*>& slots,
                             const Layout& layout, const std::optional<DeviceMemory>& apart) const {
  if (apart) return copy_on_device(apart->data(), payload.block(), apart->bytes(), stream_);
  const std::byte* from = payload.block();
  for (std::size_t b = 0; b < slots.size(); ++b) {
    copy_on_device(slots[b], from, layout.bucket_bytes(b), stream_);
    from += layout.bucket_bytes(b);
  }
}

// Where the buckets lie; nobody is attached.
std::vector<std::byte*> GpuComparison::poisoned_slots(Publisher& publisher) const {
  std::vector<std::byte*> slots;
  Publisher::Update update = publisher.begin(stream_);
  for (std::size_t b = 0; b < publisher.layout().bucket_count(); ++b) {
    slots.push_back(update.open(b));
    detail::cuda::check(
        cudaMemsetAsync(slots.back(), 0xA5, publisher.layout().bucket_bytes(b), stream_.get()),
        "cudaMemsetAsync");
  }
  stream_.synchronize();
  update.abort();
  return slots;
}

std::uint64_t GpuComparison::wrong_in(Publisher& publisher,
                                      const std::vector<std::uint64_t>& expected,
                                      GpuSums& sums) const {
  const Layout& layout = publisher.layout();
  return count_different(
      expected,
      sums.take(
          layout, [&](std::size_t i) { return publisher.storage(layout[i].name); }, stream_));
}

// In pieces, for all of the GPU to sum them.
std::uint64_t GpuComparison::wrong_copy(const GpuPayload& payload, const DeviceMemory& apart) {
  const auto pieces_of = [&](const std::byte* data) {
    const std::uint64_t most = format::round_up(apart.bytes() / kPieces + 1, 4096);
    std::vector<device::ChecksumItem> pieces;
    for (std::uint64_t at = 0; at < apart.bytes(); at += most)
      pieces.push_back({data + at, std::min(most, apart.bytes() - at)});
    return pieces;
  };
  const std::vector<std::uint64_t> expected = piece_sums_.take(pieces_of(payload.block()), stream_);
  const std::vector<std::uint64_t> got = piece_sums_.take(pieces_of(apart.data()), stream_);
  return count_different(expected, got) == 0 ? 0 : 1;
}

}  // namespace tenon::bench
