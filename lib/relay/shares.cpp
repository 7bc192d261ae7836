#include "shares.hpp"

#include <algorithm>

namespace tenon::relay {

std::vector<Run> runs_of(const Layout& layout, std::size_t bucket) {
  std::vector<Run> runs;
  const auto [first, last] = layout.bucket_parameters(bucket);
  for (std::size_t i = first; i < last; ++i) {
    const Placement p = layout[i];
    if (p.bytes == 0 || layout.tied_to(i)) continue;
    // Offsets are multiples of the element size, so what lies between is whole elements too.
    if (!runs.empty() && runs.back().dtype == p.dtype)
      runs.back().bytes = p.offset + p.bytes - runs.back().offset;
    else
      runs.push_back({p.dtype, p.offset, p.bytes});
  }
  return runs;
}

std::uint64_t share_elements(const Run& run, int senders) noexcept {
  const std::uint64_t elements = run.bytes / info(run.dtype).bytes;
  const auto parts = static_cast<std::uint64_t>(senders);
  return (elements + parts - 1) / parts;
}

std::vector<Share> shares_of(const Run& run, int senders) {
  const std::uint64_t full = share_elements(run, senders) * info(run.dtype).bytes;
  std::vector<Share> shares;
  std::uint64_t done = 0;
  for (int sender = 0; done < run.bytes; ++sender) {
    shares.push_back({sender, run.offset + done, std::min(full, run.bytes - done)});
    done += shares.back().bytes;
  }
  return shares;
}

std::vector<Share> shares_of(const Layout& layout, std::size_t bucket, int senders) {
  if (senders == 1) return {{0, 0, layout.bucket_bytes(bucket)}};
  std::vector<Share> all;
  for (const Run& run : runs_of(layout, bucket))
    for (const Share& share : shares_of(run, senders)) all.push_back(share);
  return all;
}

}  // namespace tenon::relay
