#include "bulk_copy.hpp"

#include <utility>

#include "copy_items.hpp"
#include "load_items.hpp"
#include "no_cuda.hpp"

namespace tenon {
namespace {

class HostBulkCopy final : public detail::BulkCopy {
 public:
  explicit HostBulkCopy(BucketItems buckets) : buckets_(std::move(buckets)) {}
  void copy(std::size_t bucket, const std::byte* from, Stream) override {
    copy_items(buckets_[bucket], {from, nullptr});
  }

 private:
  BucketItems buckets_;
};

BucketItems items_of(const Layout& layout, const std::vector<LoadTarget>& targets) {
  BucketItems buckets(layout.bucket_count());
  for (const LoadTarget& target : targets) {
    for (const LoadItem& load : load_items(layout, target)) {
      std::vector<CopyItem>& items = buckets[load.bucket];
      items.push_back(load.item);
      if (items.size() > 1) items.back().end += items[items.size() - 2].end;
    }
  }
  return buckets;
}

}  // namespace

namespace detail {

void check_target(const Layout& layout, const LoadTarget& target) {
  (void)load_items(layout, target);
}

std::shared_ptr<BulkCopy> make_bulk_copy(const Layout& layout,
                                         const std::vector<LoadTarget>& targets, SlotsAt slots) {
  BucketItems buckets = items_of(layout, targets);
  if (slots.memory == MemoryKind::host) return std::make_shared<HostBulkCopy>(std::move(buckets));
#if TENON_WITH_CUDA
  return make_cuda_bulk_copy(buckets, slots.device);
#else
  throw Error(Errc::NoMemoryKind, kNoCuda);
#endif
}

}  // namespace detail
}  // namespace tenon
