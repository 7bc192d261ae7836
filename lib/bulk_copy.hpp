// The items of a load plan, by bucket.
#pragma once

#include <memory>
#include <tenon/copy_item.hpp>
#include <tenon/load_plan.hpp>
#include <vector>

namespace tenon {

/// Per bucket: rows to copy, with offsets in the bucket as their sources.
using BucketItems = std::vector<std::vector<CopyItem>>;

/// Only in builds with CUDA. Throws Error(InvalidArgument) for a destination that a kernel of
/// `device` cannot write.
[[nodiscard]] std::shared_ptr<detail::BulkCopy> make_cuda_bulk_copy(const BucketItems& buckets,
                                                                    int device);

}  // namespace tenon
