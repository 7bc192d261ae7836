#include <algorithm>
#include <bit>
#include <memory>
#include <optional>
#include <string_view>
#include <tenon/plan.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

#include "plan_at.hpp"

namespace tenon {
namespace {

[[noreturn]] void refuse(const Parameter& p, const std::string& why) {
  throw Error(Errc::InvalidArgument, "planning parameter '" + p.name + "': " + why);
}

std::uint64_t checked_bytes(const Parameter& p) {
  if (p.name.empty() || p.name.size() > format::kMaxNameBytes)
    refuse(p, "its name must be 1 to 4096 bytes long");
  if (!is_dtype(static_cast<std::uint8_t>(p.dtype))) refuse(p, "its dtype is not one of Tenon's");
  if (p.shape.size() > kMaxRank)
    refuse(p, "rank " + std::to_string(p.shape.size()) + " is above 8");
  const auto bytes = byte_size(p.dtype, Shape(p.shape.data(), p.shape.size()));
  if (!bytes || *bytes > format::kMaxBucketBytes) refuse(p, "its size is beyond 2^46 bytes");
  if (p.box) {
    if (p.box->global_shape.size() != p.shape.size() || p.box->offset.size() != p.shape.size()) {
      refuse(p, "its box has another rank than its shape");
    }
    for (std::size_t d = 0; d < p.shape.size(); ++d) {
      const std::uint64_t global = p.box->global_shape[d];
      const std::uint64_t offset = p.box->offset[d];
      if (offset > global || p.shape[d] > global - offset)
        refuse(p, "its box leaves the global shape in dimension " + std::to_string(d));
    }
  }
  return *bytes;
}

using detail::Spot;

// Collects the sections of a layout in vectors; write() puts them behind each other.
class Builder {
 public:
  explicit Builder(const PlanOptions& options) : options_(options) {
    if (options.bucket_bytes == 0) throw Error(Errc::InvalidArgument, "bucket_bytes is 0");
    if (options.metadata.size() > format::kMaxTextBytes)
      throw Error(Errc::InvalidArgument, "the metadata is larger than 1 GiB");
  }

  /// `spot`: where it is, for a parameter that is not packed.
  void add(const Parameter& p, const Spot* spot = nullptr) {
    format::ParameterRecord r{};
    r.bytes = checked_bytes(p);
    r.dtype = static_cast<std::uint8_t>(p.dtype);
    r.rank = static_cast<std::uint8_t>(p.shape.size());
    std::copy(p.shape.begin(), p.shape.end(), r.shape);
    r.packed = 1;
    r.box = add_box(p);
    r.name_offset = static_cast<std::uint32_t>(names_.size());
    r.name_length = static_cast<std::uint32_t>(p.name.size());
    names_ += p.name;
    if (names_.size() > format::kMaxTextBytes)
      refuse(p, "all names together are larger than 1 GiB");
    r.tied_to = format::kNone;
    if (!p.tied_to.empty()) {
      tie(p, r);
    } else if (spot != nullptr) {
      place_at(*spot, r);
    } else {
      place(r);
    }
    const auto index = static_cast<std::uint32_t>(parameters_.size());
    if (index >= format::kMaxParameters) refuse(p, "there are more than 2^24 parameters");
    if (!by_name_.emplace(p.name, index).second) refuse(p, "there are two parameters of this name");
    ++buckets_.back().parameter_count;
    parameters_.push_back(r);
  }

  [[nodiscard]] const std::vector<Spot>& runs() const noexcept { return runs_; }

  Layout build() {
    if (parameters_.empty())
      throw Error(Errc::InvalidArgument, "a layout needs at least one parameter");
    format::LayoutHeader h{};
    h.parameter_count = parameters_.size();
    h.bucket_count = buckets_.size();
    h.box_count = boxes_.size();
    h.index_capacity = std::bit_ceil(parameters_.size() + parameters_.size() / 2 + 1);
    h.names_bytes = names_.size();
    h.metadata_bytes = options_.metadata.size();
    const format::LayoutSections at(h);
    h.bytes = at.end;
    detail::Block block = detail::allocate_block(at.end);
    std::memset(block.get(), 0, at.end);  // padding is part of the hash
    std::memcpy(block.get(), &h, sizeof(h));
    put(block.get() + at.parameters, parameters_);
    put(block.get() + at.buckets, buckets_);
    put(block.get() + at.boxes, boxes_);
    put(block.get() + at.index, make_index(h.index_capacity));
    put(block.get() + at.names, names_);
    put(block.get() + at.metadata, options_.metadata);
    return Layout::parse(std::move(block), at.end);
  }

 private:
  template <class Sequence>
  static void put(std::byte* to, const Sequence& s) {
    if (!s.empty()) std::memcpy(to, s.data(), s.size() * sizeof(s[0]));
  }

  std::uint32_t add_box(const Parameter& p) {
    if (!p.box) return format::kNone;
    format::BoxRecord box{};
    std::copy(p.box->global_shape.begin(), p.box->global_shape.end(), box.global_shape);
    std::copy(p.box->offset.begin(), p.box->offset.end(), box.offset);
    boxes_.push_back(box);
    return static_cast<std::uint32_t>(boxes_.size() - 1);
  }

  void place(format::ParameterRecord& r) {
    const std::uint64_t limit = std::min(options_.bucket_bytes, format::kMaxBucketBytes);
    const bool fits = !buckets_.empty() && runs_.back().allocation == nullptr &&
                      end_of_last() <= limit && r.bytes <= limit - end_of_last();
    if (!fits) open_bucket();
    r.bucket = static_cast<std::uint32_t>(buckets_.size() - 1);
    r.offset = end_of_last();
    buckets_.back().bytes = r.offset + r.bytes;
  }

  // A run goes on as long as parameters follow each other in one allocation.
  void place_at(const Spot& spot, format::ParameterRecord& r) {
    const auto ends = [&] { return runs_.back().offset + buckets_.back().bytes; };
    if (buckets_.empty() || runs_.back().allocation != spot.allocation || spot.offset < ends()) {
      open_bucket();
      runs_.back() = {spot.allocation, spot.offset / format::kAlignment * format::kAlignment};
    }
    r.packed = 0;
    r.bucket = static_cast<std::uint32_t>(buckets_.size() - 1);
    r.offset = spot.offset - runs_.back().offset;
    buckets_.back().bytes = r.offset + r.bytes;
  }

  void tie(const Parameter& p, format::ParameterRecord& r) {
    const auto original = by_name_.find(p.tied_to);
    if (original == by_name_.end())
      refuse(p, "it is tied to '" + p.tied_to + "', which is no earlier parameter");
    const format::ParameterRecord& o = parameters_[original->second];
    if (o.tied_to != format::kNone)
      refuse(p, "it is tied to '" + p.tied_to + "', which is tied itself");
    if (o.dtype != r.dtype || o.bytes != r.bytes)
      refuse(p, "it is tied to '" + p.tied_to + "' of another dtype or size");
    r.tied_to = original->second;
    r.bucket = o.bucket;
    r.offset = o.offset;
  }

  [[nodiscard]] std::uint64_t end_of_last() const {
    return format::round_up(buckets_.back().bytes, format::kAlignment);
  }

  void open_bucket() {
    format::BucketRecord b{};
    b.first_parameter = static_cast<std::uint32_t>(parameters_.size());
    buckets_.push_back(b);
    runs_.emplace_back();
    if (buckets_.size() > format::kMaxBuckets) {
      throw Error(Errc::InvalidArgument, "more than 2^20 buckets; choose a larger bucket_bytes");
    }
  }

  [[nodiscard]] std::vector<format::IndexEntry> make_index(std::uint64_t capacity) const {
    std::vector<format::IndexEntry> index(capacity);
    for (std::uint32_t i = 0; i < parameters_.size(); ++i) {
      const std::uint64_t hash =
          detail::hash64(names_.data() + parameters_[i].name_offset, parameters_[i].name_length);
      std::uint64_t at = hash & (capacity - 1);
      while (index[at].parameter != 0) at = (at + 1) & (capacity - 1);
      index[at] = {static_cast<std::uint32_t>(hash >> 32U), i + 1};
    }
    return index;
  }

  const PlanOptions& options_;
  std::vector<format::ParameterRecord> parameters_;
  std::vector<format::BucketRecord> buckets_;
  std::vector<Spot> runs_;  ///< per bucket: where it begins; no allocation: it is packed
  std::vector<format::BoxRecord> boxes_;
  std::unordered_map<std::string_view, std::uint32_t> by_name_;
  std::string names_;
};

}  // namespace

Layout plan(std::span<const Parameter> parameters, const PlanOptions& options) {
  Builder builder(options);
  for (const Parameter& p : parameters) builder.add(p);
  return builder.build();
}

namespace detail {

std::pair<Layout, std::vector<Spot>> plan_at(std::span<const Parameter> parameters,
                                             std::span<const Spot> spots,
                                             const PlanOptions& options) {
  Builder builder(options);
  for (std::size_t i = 0; i < parameters.size(); ++i)
    builder.add(parameters[i], spots[i].allocation == nullptr ? nullptr : &spots[i]);
  Layout layout = builder.build();
  return {std::move(layout), builder.runs()};
}

}  // namespace detail

}  // namespace tenon
