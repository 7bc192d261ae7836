// The functions of device_kernels.hpp for the simulated runtime: host code on the stream's worker.
#include <copy_items.hpp>
#include <cstdio>
#include <device_kernels.hpp>
#include <functional>
#include <tenon/checksum.hpp>
#include <utility>
#include <vector>

#include "cuda_sim.hpp"

namespace tenon::device {
namespace {

// Anything but 0: the real size depends on the toolkit.
constexpr std::size_t kScratchBytes = 4096;

template <class T>
T* view(const T* pointer) {
  return static_cast<T*>(sim::host_view(pointer));
}

cudaError_t launch(cudaStream_t stream, std::function<void()> body) {
  const cudaError_t error = sim::launch(stream, std::move(body));
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

// What a GPU would answer with a fault, at best.
void fault(const char* what) {
  std::fprintf(stderr, "simulated kernel: %s\n", what);
  sim::break_context();
}

const char* wrong_with(const std::vector<CopyItem>& items, std::uint64_t bytes) {
  std::uint64_t done = 0;
  for (const CopyItem& item : items) {
    if (item.row_bytes == 0 || item.end <= done || (item.end - done) % item.row_bytes != 0)
      return "an item is not whole rows";
    done = item.end;
  }
  return done == bytes ? nullptr : "the items end elsewhere than was said";
}

// The table as it is now, which is when the kernel runs, with pointers for the host.
std::vector<CopyItem> read_table(const CopyItem* table, std::uint32_t count, CopyBase base) {
  const CopyItem* const first = view(table);
  std::vector<CopyItem> items(first, first + count);
  for (CopyItem& item : items) {
    item = base.resolve(item);
    item.from = view(item.from);
    item.to = view(item.to);
  }
  return items;
}

}  // namespace

cudaError_t launch_copy(int, const CopyTable& table, CopyBase base, cudaStream_t stream) noexcept {
  if (table.count == 0 || table.bytes == 0) return cudaSuccess;
  return launch(stream, [table, base] {
    const std::vector<CopyItem> items = read_table(table.items, table.count, base);
    if (const char* const wrong = wrong_with(items, table.bytes)) return fault(wrong);
    if (has_rows(items) && !table.rows) return fault("an item has rows, which was not said");
    copy_items(items);
  });
}

cudaError_t launch_copy_cub(const CopyItem* table, std::uint32_t count, CopyBase base,
                            void* scratch, std::size_t& scratch_bytes,
                            cudaStream_t stream) noexcept {
  if (scratch == nullptr) {
    scratch_bytes = kScratchBytes;
    return cudaSuccess;
  }
  if (scratch_bytes < kScratchBytes) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  return launch(stream, [table, count, base] {
    const std::vector<CopyItem> items = read_table(table, count, base);
    if (const char* const wrong = wrong_with(items, items.back().end)) return fault(wrong);
    std::uint64_t done = 0;
    for (const CopyItem& item : items) {
      // CUB copies as many bytes in one run, whatever the item says: silently wrong.
      if (item.cast != Cast::none || item.end - done != item.row_bytes)
        return fault("CUB was given a cast or rows");
      done = item.end;
    }
    copy_items(items);
  });
}

cudaError_t launch_checksum(const ChecksumItem* table, std::uint32_t count, std::uint64_t* sums,
                            cudaStream_t stream) noexcept {
  if (count == 0) return cudaSuccess;
  return launch(stream, [table, count, sums] {
    for (std::uint32_t i = 0; i < count; ++i)
      view(sums)[i] = checksum(view(view(table)[i].data), view(table)[i].bytes);
  });
}

}  // namespace tenon::device
