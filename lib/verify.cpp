#include "verify.hpp"

#include <string>
#include <tenon/checksum.hpp>

#include "no_cuda.hpp"

namespace tenon {
namespace {

std::vector<std::uint64_t> checksums(const Lease& lease, MemoryKind memory, int device) {
  if (memory == MemoryKind::cuda) {
#if TENON_WITH_CUDA
    return cuda_checksums(lease, device);
#else
    (void)device;
    throw Error(Errc::NoMemoryKind, kNoCuda);
#endif
  }
  std::vector<std::uint64_t> sums(lease.size());
  for (std::size_t i = 0; i < lease.size(); ++i)
    if (!lease.layout().tied_to(i)) sums[i] = checksum(lease[i].data(), lease[i].bytes());
  return sums;
}

}  // namespace

std::vector<std::string> Lease::verify() const {
  const detail::Segment& segment = attachment_->segment();
  const detail::Facts& facts = segment.facts();
  if (facts.checksum_bytes == 0) {
    throw Error(Errc::InvalidArgument,
                "this publication has no checksums to verify by (PublisherOptions::checksums, "
                "'tenon serve --checksums')");
  }
  detail::StageTimer timer(attachment_->stages(), format::Stage::verify);
  const std::vector<std::uint64_t> sums = checksums(*this, facts.memory, attachment_->device());
  std::vector<std::string> wrong;
  for (std::size_t i = 0; i < size(); ++i) {
    const std::size_t original = layout().tied_to(i).value_or(i);
    const std::uint32_t slot = held().slot[layout()[original].bucket];
    const std::uint64_t told =
        segment.checksum(format::checksum_index(slot, facts.buckets, size(), original))
            .load(std::memory_order_relaxed);  // stored before `current`, which the lease has
                                               // acquired
    if (told != sums[original]) wrong.emplace_back(layout()[i].name);
  }
  timer.done(version(), layout().payload_bytes());
  return wrong;
}

}  // namespace tenon
