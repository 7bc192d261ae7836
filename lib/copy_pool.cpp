#include "copy_pool.hpp"

#include <algorithm>
#include <iterator>

#include "copy_items.hpp"

namespace tenon {
namespace {

constexpr std::uint64_t kShareGranularity = 64;  // shares meet at cache lines
constexpr std::uint64_t kWorthSharing = 1U << 20U;

}  // namespace

CopyPool::CopyPool(unsigned threads) {
  for (unsigned i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i](const std::stop_token& stop) { work(stop, i); });
  }
}

void CopyPool::run(std::span<const CopyItem> items, CopyBase base) {
  if (workers_.empty() || items.empty() || items.back().end < kWorthSharing) {
    copy_items(items, base);
    return;
  }
  items_ = items;
  base_ = base;
  {
    const std::lock_guard lock(mutex_);
    ++round_;
    busy_ = workers_.size();
  }
  start_.notify_all();
  copy_share(0);
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return busy_ == 0; });
}

void CopyPool::work(const std::stop_token& stop, std::size_t share) {
  std::uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (!start_.wait(lock, stop, [&] { return round_ != seen; })) return;
      seen = round_;
    }
    copy_share(share);
    const std::lock_guard lock(mutex_);
    if (--busy_ == 0) finished_.notify_one();
  }
}

// The share-th of equal parts of all bytes, which may begin and end inside an item.
void CopyPool::copy_share(std::size_t share) const noexcept {
  const std::uint64_t total = items_.back().end;
  const std::uint64_t parts = workers_.size() + 1;
  const auto boundary = [&](std::uint64_t part) {
    return part == parts ? total : total / parts * part / kShareGranularity * kShareGranularity;
  };
  const std::uint64_t begin = boundary(share);
  const std::uint64_t end = boundary(share + 1);
  auto item = std::upper_bound(items_.begin(), items_.end(), begin,
                               [](std::uint64_t at, const CopyItem& i) { return at < i.end; });
  std::uint64_t before = item == items_.begin() ? 0 : std::prev(item)->end;
  for (; item != items_.end() && before < end; before = (item++)->end) {
    copy_part(base_.resolve(*item), std::max(begin, before) - before,
              std::min(end, item->end) - before);
  }
}

}  // namespace tenon
