// The layout: which parameters there are and where each one lies. Planned once, never changed.
//
// A layout is one block of bytes, the same in the trainer, in shared memory and in every
// subscriber:
//
//   ┌─────────────┬──────────────┬───────────┬─────────┬──────────────┬───────┬──────────┐
//   │ LayoutHeader│ ParameterRec.│ BucketRec.│ BoxRec. │ IndexEntry   │ names │ metadata │
//   │ 128 bytes   │ [N] × 128    │ [B] × 32  │[M] × 128│ [capacity]×8 │ bytes │ JSON     │
//   └─────────────┴──────────────┴───────────┴─────────┴──────────────┴───────┴──────────┘
//
// Sections follow each other in this order, each rounded up to 8 bytes, so there are no section
// offsets that could lie. All numbers are little-endian; all sizes and offsets are bytes. See
// docs/format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/detail/block.hpp>
#include <tenon/detail/hash.hpp>
#include <tenon/detail/suggest.hpp>
#include <tenon/error.hpp>
#include <tenon/types.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace tenon {
namespace format {

inline constexpr std::uint64_t kAlignment = 256;  ///< of a parameter inside its bucket
inline constexpr std::uint64_t kMaxParameters = 1U << 24U;
inline constexpr std::uint64_t kMaxBuckets = 1U << 20U;
inline constexpr std::uint64_t kMaxNameBytes = 4096;       ///< of one parameter's name
inline constexpr std::uint64_t kMaxTextBytes = 1U << 30U;  ///< of all names, of the metadata
inline constexpr std::uint64_t kMaxBucketBytes = 1ULL << 46U;
inline constexpr std::uint32_t kNone = 0xFFFFFFFFU;  ///< "no such index"

struct LayoutHeader {
  std::uint64_t bytes;            ///< of the whole layout
  std::uint64_t parameter_count;  ///< N >= 1
  std::uint64_t bucket_count;     ///< B >= 1
  std::uint64_t box_count;        ///< M <= N
  std::uint64_t index_capacity;   ///< a power of two, > N
  std::uint64_t names_bytes;
  std::uint64_t metadata_bytes;
  std::uint64_t reserved[9];
};

struct ParameterRecord {
  std::uint64_t offset;  ///< in its bucket; a multiple of kAlignment, unpacked: of its element size
  std::uint64_t bytes;   ///< product of shape × element size
  std::uint64_t shape[kMaxRank];
  std::uint32_t name_offset;  ///< in the names section
  std::uint32_t name_length;
  std::uint32_t bucket;
  std::uint32_t box;      ///< index of its BoxRecord, or kNone when it is the whole tensor
  std::uint32_t tied_to;  ///< the earlier parameter whose bytes these are, or kNone
  std::uint8_t dtype;
  std::uint8_t rank;
  std::uint8_t packed;  ///< 1: in a bucket that was packed; 0: in the trainer's own allocation
  std::uint8_t reserved1;
  std::uint64_t reserved[3];
};

struct BucketRecord {
  std::uint64_t bytes;            ///< end of its last parameter
  std::uint32_t first_parameter;  ///< the buckets' ranges follow each other and cover 0 .. N-1
  std::uint32_t parameter_count;  ///< tied parameters are counted where they are listed
  std::uint64_t reserved[2];
};

struct BoxRecord {
  std::uint64_t global_shape[kMaxRank];
  std::uint64_t offset[kMaxRank];
};

struct IndexEntry {
  std::uint32_t hash;  ///< high half of hash64(name)
  std::uint32_t
      parameter;  ///< index + 1; 0 when empty. Probing: linear, from hash64(name) mod capacity
};

static_assert(sizeof(LayoutHeader) == 128 && sizeof(ParameterRecord) == 128);
static_assert(sizeof(BucketRecord) == 32 && sizeof(BoxRecord) == 128 && sizeof(IndexEntry) == 8);
static_assert(offsetof(ParameterRecord, name_offset) == 80 &&
              offsetof(ParameterRecord, dtype) == 100);
static_assert(std::is_trivially_copyable_v<LayoutHeader> &&
              std::is_trivially_copyable_v<ParameterRecord> &&
              std::is_trivially_copyable_v<BucketRecord> &&
              std::is_trivially_copyable_v<BoxRecord>);

[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) noexcept {
  return (value + to - 1) / to * to;
}

/// Where each section begins. Only meaningful once `check_counts` has accepted the header.
struct LayoutSections {
  std::uint64_t parameters, buckets, boxes, index, names, metadata, end;
  explicit constexpr LayoutSections(const LayoutHeader& h) noexcept
      : parameters(sizeof(LayoutHeader)),
        buckets(parameters + h.parameter_count * sizeof(ParameterRecord)),
        boxes(buckets + h.bucket_count * sizeof(BucketRecord)),
        index(boxes + h.box_count * sizeof(BoxRecord)),
        names(index + h.index_capacity * sizeof(IndexEntry)),
        metadata(names + round_up(h.names_bytes, 8)),
        end(metadata + round_up(h.metadata_bytes, 8)) {}
};

}  // namespace format

/// A parameter's place, as the layout has it. Lifetime: its text and shape live as long as the
/// Layout.
struct Placement {
  std::string_view name;
  Dtype dtype;
  Shape shape;
  std::uint32_t bucket;
  std::uint64_t offset;  ///< bytes, in the bucket
  std::uint64_t bytes;
};

/// The fixed list of parameters and their places.
///
/// Units:    sizes and offsets are bytes, shapes are elements.
/// Errors:   parse() throws Error(BadFormat) naming the field that cannot be right.
/// Threads:  immutable; copies share their bytes, and copying is cheap.
class Layout {
 public:
  /// Checks a layout that came from outside and takes it over. Every count, offset, size, alignment
  /// and enum is checked; after that nothing in here can lead outside the layout or its buckets.
  [[nodiscard]] static Layout parse(detail::Block bytes, std::uint64_t size);
  /// The first part of that: whether a layout of `size` bytes can begin with this header.
  static void check_counts(const format::LayoutHeader& h, std::uint64_t size);

  [[nodiscard]] std::size_t size() const noexcept { return header().parameter_count; }
  [[nodiscard]] std::size_t bucket_count() const noexcept { return header().bucket_count; }
  [[nodiscard]] Placement operator[](std::size_t i) const noexcept;
  /// Index of the parameter called `name`: O(1), no allocation.
  [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const noexcept;
  /// As find(), but throws Error(NoSuchParameter) with the nearest names.
  [[nodiscard]] std::size_t at(std::string_view name) const;
  /// The earlier parameter whose bytes parameter `i` shares.
  [[nodiscard]] std::optional<std::size_t> tied_to(std::size_t i) const noexcept;
  [[nodiscard]] std::optional<Box> box(std::size_t i) const;

  [[nodiscard]] std::uint64_t bucket_bytes(std::size_t bucket) const noexcept {
    return buckets()[bucket].bytes;
  }
  /// Parameters listed in a bucket: [first, second). A tied one among them may lie in an earlier
  /// bucket.
  [[nodiscard]] std::pair<std::size_t, std::size_t> bucket_parameters(
      std::size_t bucket) const noexcept {
    const format::BucketRecord& b = buckets()[bucket];
    return {b.first_parameter, std::size_t{b.first_parameter} + b.parameter_count};
  }
  /// Bytes of all parameters, tied ones once, padding not counted.
  [[nodiscard]] std::uint64_t payload_bytes() const noexcept { return data_->payload; }
  /// Free-form JSON object that travels with the layout (safetensors' `__metadata__`); may be
  /// empty.
  [[nodiscard]] std::string_view metadata() const noexcept {
    return {text(sections().metadata), header().metadata_bytes};
  }
  /// The layout as one block, and its hash: equal hashes mean equal layouts.
  [[nodiscard]] std::pair<const std::byte*, std::uint64_t> bytes() const noexcept {
    return {data_->block.get(), header().bytes};
  }
  [[nodiscard]] std::uint64_t hash() const noexcept { return data_->hash; }

 private:
  struct Data {
    detail::Block block;
    std::uint64_t hash = 0;
    std::uint64_t payload = 0;
  };
  explicit Layout(std::shared_ptr<const Data> data) noexcept : data_(std::move(data)) {}

  template <class T>
  static const T* section(const std::byte* block, std::uint64_t offset) noexcept {
    return reinterpret_cast<const T*>(block + offset);
  }
  static std::uint64_t check_parameters(const std::byte* block);
  static void check_place(const std::byte* block, std::size_t i, std::uint32_t listed_in,
                          std::uint64_t end);
  static void check_index(const std::byte* block);

  [[nodiscard]] const format::LayoutHeader& header() const noexcept {
    return *section<format::LayoutHeader>(data_->block.get(), 0);
  }
  [[nodiscard]] format::LayoutSections sections() const noexcept {
    return format::LayoutSections(header());
  }
  [[nodiscard]] const format::ParameterRecord* parameters() const noexcept {
    return section<format::ParameterRecord>(data_->block.get(), sections().parameters);
  }
  [[nodiscard]] const format::BucketRecord* buckets() const noexcept {
    return section<format::BucketRecord>(data_->block.get(), sections().buckets);
  }
  [[nodiscard]] const char* text(std::uint64_t offset) const noexcept {
    return section<char>(data_->block.get(), offset);
  }

  std::shared_ptr<const Data> data_;
};

namespace detail {

[[noreturn]] inline void bad_field(const std::string& field, const std::string& found,
                                   const std::string& expected) {
  throw Error(
      Errc::BadFormat,
      "the publication's " + field + " is " + found + ", expected " + expected +
          "; the segment is damaged or was not written by Tenon (remove it with 'tenon gc')");
}
inline void check_field(bool ok, const char* field, std::uint64_t found, const char* expected) {
  if (!ok) bad_field(field, std::to_string(found), expected);
}

}  // namespace detail

inline void Layout::check_counts(const format::LayoutHeader& h, std::uint64_t size) {
  using detail::check_field;
  check_field(h.parameter_count >= 1 && h.parameter_count <= format::kMaxParameters,
              "layout.parameter_count", h.parameter_count, "1 to 2^24");
  check_field(h.bucket_count >= 1 && h.bucket_count <= format::kMaxBuckets, "layout.bucket_count",
              h.bucket_count, "1 to 2^20");
  check_field(h.box_count <= h.parameter_count, "layout.box_count", h.box_count,
              "at most parameter_count");
  check_field(h.index_capacity > h.parameter_count &&
                  h.index_capacity <= 4 * format::kMaxParameters &&
                  (h.index_capacity & (h.index_capacity - 1)) == 0,
              "layout.index_capacity", h.index_capacity, "a power of two above parameter_count");
  check_field(h.names_bytes <= format::kMaxTextBytes, "layout.names_bytes", h.names_bytes,
              "at most 2^30");
  check_field(h.metadata_bytes <= format::kMaxTextBytes, "layout.metadata_bytes", h.metadata_bytes,
              "at most 2^30");
  const format::LayoutSections at(h);  // cannot overflow within the limits just checked
  check_field(h.bytes == at.end && at.end == size, "layout.bytes", h.bytes,
              "the sum of its sections");
}

// One parameter: its name, dtype, shape and place. `listed_in` is the bucket whose range lists it,
// `end` the end of the parameters already placed in that bucket.
inline void Layout::check_place(const std::byte* block, std::size_t i, std::uint32_t listed_in,
                                std::uint64_t end) {
  using detail::check_field;
  const format::LayoutHeader& h = *section<format::LayoutHeader>(block, 0);
  const format::LayoutSections at(h);
  const auto* all = section<format::ParameterRecord>(block, at.parameters);
  const format::ParameterRecord& p = all[i];
  check_field(is_dtype(p.dtype), "parameter.dtype", p.dtype, "a known dtype (1 to 15)");
  check_field(p.rank <= kMaxRank, "parameter.rank", p.rank, "at most 8");
  const auto bytes = byte_size(static_cast<Dtype>(p.dtype), Shape(p.shape, p.rank));
  check_field(bytes && *bytes == p.bytes, "parameter.bytes", p.bytes,
              "the product of its shape and element size");
  check_field(p.name_length >= 1 && p.name_length <= format::kMaxNameBytes &&
                  p.name_offset <= h.names_bytes && p.name_length <= h.names_bytes - p.name_offset,
              "parameter.name", p.name_offset,
              "a name inside the names section, 1 to 4096 bytes long");
  check_field(p.packed <= 1, "parameter.packed", p.packed, "0 or 1");
  check_field(p.box == format::kNone || p.box < h.box_count, "parameter.box", p.box,
              "below box_count");
  if (p.box != format::kNone) {
    const format::BoxRecord& box = section<format::BoxRecord>(block, at.boxes)[p.box];
    for (std::size_t d = 0; d < p.rank; ++d) {
      check_field(
          box.offset[d] <= box.global_shape[d] && p.shape[d] <= box.global_shape[d] - box.offset[d],
          "parameter.box.offset", box.offset[d], "a box inside its global shape");
    }
  }
  if (p.tied_to != format::kNone) {
    check_field(p.tied_to < i && all[p.tied_to].tied_to == format::kNone, "parameter.tied_to",
                p.tied_to, "an earlier parameter that is not tied itself");
    const format::ParameterRecord& original = all[p.tied_to];
    check_field(
        p.bucket == original.bucket && p.offset == original.offset && p.bytes == original.bytes,
        "parameter.offset", p.offset, "the place of the parameter it is tied to");
    return;
  }
  check_field(p.bucket == listed_in, "parameter.bucket", p.bucket, "the bucket that lists it");
  const std::uint64_t bucket_bytes =
      section<format::BucketRecord>(block, at.buckets)[listed_in].bytes;
  const std::uint64_t alignment =
      p.packed == 1 ? format::kAlignment : info(static_cast<Dtype>(p.dtype)).bytes;
  check_field(p.offset % alignment == 0, "parameter.offset", p.offset,
              "a multiple of 256, or of its element size when unpacked");
  check_field(p.offset >= end, "parameter.offset", p.offset, "behind the parameter before it");
  check_field(p.offset <= bucket_bytes && p.bytes <= bucket_bytes - p.offset, "parameter.offset",
              p.offset, "a place inside its bucket");
}

// Returns the payload: bytes of all parameters, tied ones once.
inline std::uint64_t Layout::check_parameters(const std::byte* block) {
  using detail::check_field;
  const format::LayoutHeader& h = *section<format::LayoutHeader>(block, 0);
  const format::LayoutSections at(h);
  const auto* parameters = section<format::ParameterRecord>(block, at.parameters);
  const auto* buckets = section<format::BucketRecord>(block, at.buckets);
  std::uint64_t payload = 0;
  std::size_t next = 0;
  for (std::uint32_t b = 0; b < h.bucket_count; ++b) {
    check_field(buckets[b].bytes <= format::kMaxBucketBytes, "bucket.bytes", buckets[b].bytes,
                "at most 2^46");
    check_field(buckets[b].first_parameter == next &&
                    buckets[b].parameter_count <= h.parameter_count - next,
                "bucket.first_parameter", buckets[b].first_parameter,
                "the end of the bucket before it");
    std::uint64_t end = 0;
    for (const std::size_t last = next + buckets[b].parameter_count; next < last; ++next) {
      check_place(block, next, b, end);
      if (parameters[next].tied_to != format::kNone) continue;
      end = parameters[next].offset + parameters[next].bytes;
      payload += parameters[next].bytes;
    }
    check_field(buckets[b].bytes == end, "bucket.bytes", buckets[b].bytes,
                "the end of its last parameter");
  }
  check_field(next == h.parameter_count, "bucket.parameter_count", next,
              "ranges that cover every parameter");
  return payload;
}

// Every parameter must be found under its own name, which also rules out duplicates and endless
// probing: as many entries are used as there are parameters, and there are more entries than that.
// Names chosen to collide would make this quadratic: probes are counted. An index that plan() made
// takes 2 for each name on average (at most two thirds of it are used).
inline void Layout::check_index(const std::byte* block) {
  const format::LayoutHeader& h = *section<format::LayoutHeader>(block, 0);
  const format::LayoutSections at(h);
  const auto* index = section<format::IndexEntry>(block, at.index);
  std::uint64_t used = 0;
  for (std::uint64_t i = 0; i < h.index_capacity; ++i) {
    detail::check_field(index[i].parameter <= h.parameter_count, "name index entry",
                        index[i].parameter, "at most parameter_count");
    used += index[i].parameter != 0 ? 1U : 0U;
  }
  detail::check_field(used == h.parameter_count, "name index", used, "one entry per parameter");
  const auto* parameters = section<format::ParameterRecord>(block, at.parameters);
  const char* names = section<char>(block, at.names);
  const auto name_of = [&](std::size_t i) {
    return std::string_view(names + parameters[i].name_offset, parameters[i].name_length);
  };
  std::uint64_t probes_left = 32 * h.parameter_count + 1024;
  for (std::size_t i = 0; i < h.parameter_count; ++i) {
    const std::string_view name = name_of(i);
    const std::uint64_t hash = detail::hash64(name.data(), name.size());
    const auto high = static_cast<std::uint32_t>(hash >> 32U);
    std::uint64_t e = hash & (h.index_capacity - 1);
    // The entries before its own: none empty, none that find() would take for this name.
    while (index[e].parameter != 0 && index[e].parameter != i + 1 &&
           (index[e].hash != high || name_of(index[e].parameter - 1) != name)) {
      e = (e + 1) & (h.index_capacity - 1);
      detail::check_field(--probes_left > 0, "name index", h.index_capacity,
                          "an index whose names do not all collide");
    }
    if (index[e].parameter != i + 1 || index[e].hash != high) {
      detail::bad_field("name index", "missing or ambiguous for parameter " + std::to_string(i),
                        "one entry per name");
    }
  }
}

inline Layout Layout::parse(detail::Block bytes, std::uint64_t size) {
  detail::check_field(size >= sizeof(format::LayoutHeader), "layout.bytes", size, "at least 128");
  check_counts(*section<format::LayoutHeader>(bytes.get(), 0), size);
  auto data = std::make_shared<Data>();
  data->payload = check_parameters(bytes.get());
  check_index(bytes.get());
  data->hash = detail::hash64(bytes.get(), size);
  data->block = std::move(bytes);
  return Layout(std::move(data));
}

inline Placement Layout::operator[](std::size_t i) const noexcept {
  const format::ParameterRecord& p = parameters()[i];
  return {{text(sections().names) + p.name_offset, p.name_length},
          static_cast<Dtype>(p.dtype),
          Shape(p.shape, p.rank),
          p.bucket,
          p.offset,
          p.bytes};
}

inline std::optional<std::size_t> Layout::find(std::string_view name) const noexcept {
  const std::uint64_t hash = detail::hash64(name.data(), name.size());
  const auto* index = section<format::IndexEntry>(data_->block.get(), sections().index);
  const std::uint64_t mask = header().index_capacity - 1;
  for (std::uint64_t at = hash & mask; index[at].parameter != 0; at = (at + 1) & mask) {
    const std::size_t i = index[at].parameter - 1;
    if (index[at].hash == static_cast<std::uint32_t>(hash >> 32U) && (*this)[i].name == name)
      return i;
  }
  return std::nullopt;
}

inline std::size_t Layout::at(std::string_view name) const {
  if (const auto i = find(name)) return *i;
  throw Error(Errc::NoSuchParameter, "no parameter '" + detail::plain(name) + "' among " +
                                         std::to_string(size()) + "; the nearest are " +
                                         detail::nearest_names(name, size(), [this](std::size_t i) {
                                           return (*this)[i].name;
                                         }));
}

inline std::optional<std::size_t> Layout::tied_to(std::size_t i) const noexcept {
  const std::uint32_t original = parameters()[i].tied_to;
  if (original == format::kNone) return std::nullopt;
  return original;
}

inline std::optional<Box> Layout::box(std::size_t i) const {
  const format::ParameterRecord& p = parameters()[i];
  if (p.box == format::kNone) return std::nullopt;
  const auto& box = section<format::BoxRecord>(data_->block.get(), sections().boxes)[p.box];
  return Box{{box.global_shape, box.global_shape + p.rank}, {box.offset, box.offset + p.rank}};
}

}  // namespace tenon
