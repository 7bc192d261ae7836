#include "image.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

namespace tenon::fuzz {
namespace {

using format::Header;

/// Hands out what is there, one section behind another.
class Cutter {
 public:
  Cutter(std::byte* at, std::size_t left) : at_(at), left_(left) {}

  template <class T>
  Part<T> cut(std::uint64_t count) {
    const std::size_t fits = std::min<std::uint64_t>(count, left_ / sizeof(T));
    const Part<T> part{reinterpret_cast<T*>(at_), fits};
    at_ += fits * sizeof(T);
    left_ -= fits * sizeof(T);
    if (fits < count) left_ = 0;
    return part;
  }

 private:
  std::byte* at_;
  std::size_t left_;
};

void mend_identity(Header& h) {
  h.magic = format::kMagic;
  h.major = format::kMajor;
  h.struct_hash = format::struct_hash();
  h.state = static_cast<std::uint32_t>(format::State::ready);
}

void mend_sizes(Header& h, std::size_t size) {
  if (!is_mode(h.mode)) h.mode = 1 + h.mode % 3;
  const auto mode = static_cast<Mode>(h.mode);
  h.bucket_count = std::max<std::uint64_t>(h.bucket_count % 64, mode == Mode::streaming ? 3 : 1);
  if (mode == Mode::streaming) h.slot_count = 2 + h.slot_count % (h.bucket_count - 2);
  if (mode != Mode::streaming) h.slot_count = h.bucket_count * (mode == Mode::in_place ? 1 : 2);
  h.log_entries = mode == Mode::streaming ? h.slot_count : 2 * h.bucket_count;
  h.total_bytes = size;
  const format::Sections at(h.slot_count, h.log_entries, 0);
  const std::uint64_t room = size > at.layout ? size - at.layout : 0;
  if (mode == Mode::streaming || h.checksum_bytes > room) h.checksum_bytes = 0;
  h.layout_bytes = room - h.checksum_bytes;
}

// Offsets and sizes that dtypes and shapes ask for; a parameter that has an impossible one is
// small.
void mend_places(const Parts& parts) {
  std::size_t next = 0;
  for (std::uint32_t b = 0; b < parts.buckets.count; ++b) {
    format::BucketRecord& bucket = parts.buckets[b];
    const std::size_t left = parts.parameters.count - next;
    bucket.first_parameter = static_cast<std::uint32_t>(next);
    bucket.parameter_count = static_cast<std::uint32_t>(
        b + 1 == parts.buckets.count ? left : std::min<std::size_t>(bucket.parameter_count, left));
    bucket.bytes = 0;
    for (const std::size_t last = next + bucket.parameter_count; next < last; ++next) {
      format::ParameterRecord& p = parts.parameters[next];
      p.rank %= kMaxRank + 1;
      if (!is_dtype(p.dtype)) p.dtype = 1 + p.dtype % kDtypes.size();
      const auto bytes = byte_size(static_cast<Dtype>(p.dtype), Shape(p.shape, p.rank));
      if (!bytes || *bytes > (16 << 10)) p.rank = 0;
      p.bytes = *byte_size(static_cast<Dtype>(p.dtype), Shape(p.shape, p.rank));
      if (p.tied_to < next && parts.parameters[p.tied_to].bytes == p.bytes) {
        p.bucket = parts.parameters[p.tied_to].bucket;
        p.offset = parts.parameters[p.tied_to].offset;
        continue;
      }
      p.tied_to = format::kNone;
      p.bucket = b;
      p.offset = format::round_up(bucket.bytes, format::kAlignment);
      bucket.bytes = p.offset + p.bytes;
    }
  }
}

void mend_slots(const Header& h, const Parts& parts) {
  std::uint64_t largest = 0;
  for (const format::BucketRecord& b : parts.buckets) largest = std::max(largest, b.bytes);
  std::uint64_t offset = 0;
  for (std::size_t s = 0; s < parts.slots.count; ++s) {
    format::Slot& slot = parts.slots[s];
    slot.handle_kind = h.memory_kind;
    slot.allocation %= h.memory_kind == 1 ? 2 : 4;  // as reader.cpp has them
    slot.mapped_bytes = slot.allocation % 2 == 0 ? 64 << 10 : 8 << 10;
    const bool whole = static_cast<Mode>(h.mode) == Mode::streaming || parts.buckets.count == 0;
    const std::uint64_t needed = whole ? largest : parts.buckets[s % parts.buckets.count].bytes;
    slot.bytes = std::max<std::uint64_t>(format::round_up(needed, format::kAlignment), 256);
    if (offset + slot.bytes > slot.mapped_bytes) offset = 0;
    slot.offset = offset;
    offset += slot.bytes;
  }
}

std::optional<std::string_view> name_of(const Parts& parts, const format::ParameterRecord& p) {
  if (p.name_offset > parts.names.count || p.name_length > parts.names.count - p.name_offset)
    return std::nullopt;
  return std::string_view(parts.names.first + p.name_offset, p.name_length);
}

void mend_index(const Parts& parts) {
  const std::uint64_t capacity = parts.index.count;
  if (capacity <= parts.parameters.count || (capacity & (capacity - 1)) != 0) return;
  std::fill(parts.index.begin(), parts.index.end(), format::IndexEntry{});
  for (std::size_t i = 0; i < parts.parameters.count; ++i) {
    const auto name = name_of(parts, parts.parameters[i]);
    if (!name) return;
    const std::uint64_t hash = detail::hash64(name->data(), name->size());
    std::uint64_t e = hash & (capacity - 1);
    while (parts.index[e].parameter != 0) e = (e + 1) & (capacity - 1);
    parts.index[e] = {static_cast<std::uint32_t>(hash >> 32U), static_cast<std::uint32_t>(i + 1)};
  }
}

// The version that is `current`, every bucket in the first slot that can be its.
void mend_records(Header& h, const Parts& parts) {
  const std::uint64_t buckets = h.bucket_count, slots = h.slot_count;
  const std::uint64_t c = h.current;
  if (c == 0 || buckets == 0 || slots == 0 || parts.log.count == 0) return;
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>(buckets, parts.log.count); ++i) {
    const std::uint64_t n = c + i;
    format::Entry& e = parts.log[n % parts.log.count];
    e.number = n;
    e.version = format::version_of(n, buckets);
    e.bucket = static_cast<std::uint32_t>((n - 1) % buckets);
    const bool streaming = static_cast<Mode>(h.mode) == Mode::streaming;
    e.slot = static_cast<std::uint32_t>(streaming ? n % slots : (n - 1) % buckets);
  }
}

void mend(const Image& image, std::uint8_t what) {
  Header& h = image.header();
  std::byte* rest = image.bytes.get() + sizeof(Header) + format::kPlaces * sizeof(format::Place);
  const std::size_t left = image.size - static_cast<std::size_t>(rest - image.bytes.get());
  if ((what & kIdentity) != 0) mend_identity(h);
  if ((what & kSizes) != 0) mend_sizes(h, image.size);
  const Parts parts(h, rest, left);
  if ((what & kPlaces) != 0) mend_places(parts);
  if ((what & kSlots) != 0) mend_slots(h, parts);
  if ((what & kIndex) != 0) mend_index(parts);
  if ((what & kSizes) != 0 && parts.layout != nullptr) parts.layout->bytes = h.layout_bytes;
  if ((what & kHash) != 0 && parts.layout != nullptr) {
    const auto at = static_cast<std::size_t>(reinterpret_cast<std::byte*>(parts.layout) - rest);
    if (h.layout_bytes <= left - at) h.layout_hash = detail::hash64(parts.layout, h.layout_bytes);
  }
  if ((what & kRecords) != 0) mend_records(h, parts);
}

}  // namespace

Parts::Parts(const Header& h, std::byte* rest, std::size_t bytes) {
  Cutter cutter(rest, bytes);
  slots = cutter.cut<format::Slot>(h.slot_count);
  log = cutter.cut<format::Entry>(h.log_entries);
  const auto header = cutter.cut<format::LayoutHeader>(1);
  if (header.count == 0) return;
  layout = header.first;
  parameters = cutter.cut<format::ParameterRecord>(layout->parameter_count);
  buckets = cutter.cut<format::BucketRecord>(layout->bucket_count);
  boxes = cutter.cut<format::BoxRecord>(layout->box_count);
  index = cutter.cut<format::IndexEntry>(layout->index_capacity);
  names = cutter.cut<char>(layout->names_bytes);
}

Script Image::script_of(const std::uint8_t* input) {
  Script script;
  std::memcpy(&script, input, sizeof(script));
  return script;
}

Image Image::of(const std::uint8_t* input, std::size_t size) {
  constexpr std::size_t kFirst = sizeof(Header) + sizeof(format::Place);
  const std::uint8_t* from = input + sizeof(Script);
  const std::size_t rest = size - sizeof(Script) - kFirst;
  Image image;
  image.size = kFirst + kLeftOut + rest;
  void* room = nullptr;
  if (::posix_memalign(&room, alignof(Header), image.size) != 0) std::abort();
  image.bytes.reset(static_cast<std::byte*>(room));
  std::memcpy(image.bytes.get(), from, kFirst);
  std::memset(image.bytes.get() + kFirst, 0, kLeftOut);
  if (rest > 0) std::memcpy(image.bytes.get() + kFirst + kLeftOut, from + kFirst, rest);
  auto* places = reinterpret_cast<format::Place*>(image.bytes.get() + sizeof(Header));
  for (std::size_t i = 1; i < format::kPlaces; ++i) places[i].cursor = format::kIdle;
  mend(image, script_of(input).mend);
  return image;
}

std::vector<std::uint8_t> input_of(const std::byte* segment, std::size_t size) {
  constexpr std::size_t kFirst = sizeof(Header) + sizeof(format::Place);
  std::vector<std::uint8_t> input(sizeof(Script));
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(segment);
  input.insert(input.end(), bytes, bytes + kFirst);
  input.insert(input.end(), bytes + kFirst + kLeftOut, bytes + size);
  return input;
}

}  // namespace tenon::fuzz
