// A fuzzer's input and the publication it stands for.
//
//   ┌────────┬──────────────┬───────────┬──────────────────────────────────────────┐
//   │ Script │ Header, 1024 │ Place, 256│ slots · log · layout · checksums, as they│
//   │        │              │           │ lie in a publication                     │
//   └────────┴──────────────┴───────────┴──────────────────────────────────────────┘
//
// The 63 other places are left out: they are free. What the script says to mend is computed anew,
// as anybody who writes a segment would: a hash that is wrong is refused before anything behind it
// is looked at. The input alone decides what is read, so a finding is a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <tenon/detail/segment.hpp>
#include <vector>

namespace tenon::fuzz {

/// One byte of the segment that changes while it is read.
struct Change {
  std::uint16_t after;  ///< reads of the segment since the change before
  std::uint16_t unused;
  std::uint32_t offset;  ///< of 8 bytes, in the input behind the script; modulo what there is
  std::uint64_t flips;   ///< bits
};

struct Script {
  std::uint8_t mend;  ///< of Mend
  std::uint8_t unused[7];
  Change changes[8];
};
static_assert(sizeof(Change) == 16 && sizeof(Script) == 136);

/// What is computed anew, in this order.
enum Mend : std::uint8_t {
  kIdentity = 1,  ///< magic, major version, struct hash, state
  kSizes = 2,     ///< the number of slots and entries of the mode, and all sizes
  kPlaces = 4,    ///< where parameters and buckets lie, from dtypes and shapes
  kSlots = 8,     ///< slots that are large enough
  kIndex = 16,    ///< the name index
  kHash = 32,     ///< of the layout
  kRecords = 64,  ///< those of the current version
};

inline constexpr std::size_t kMaxInput = 64 << 10;
inline constexpr std::size_t kLeftOut = (format::kPlaces - 1) * sizeof(format::Place);
/// In an input; a publication lies in memory that belongs to its instance.
inline constexpr std::uint8_t kInstance = 0x54;

struct Free {
  void operator()(std::byte* bytes) const noexcept { std::free(bytes); }
};

/// The segment, in an allocation of exactly its size, so that AddressSanitizer sees what leaves it.
struct Image {
  std::unique_ptr<std::byte[], Free> bytes;
  std::size_t size = 0;

  /// The input must have a script, a header and a place: is_long_enough().
  [[nodiscard]] static Image of(const std::uint8_t* input, std::size_t size);
  [[nodiscard]] static bool is_long_enough(std::size_t size) {
    return size >= sizeof(Script) + sizeof(format::Header) + sizeof(format::Place) &&
           size <= kMaxInput;
  }
  [[nodiscard]] static Script script_of(const std::uint8_t* input);
  /// Where an offset behind the script lies in the segment.
  [[nodiscard]] static std::size_t offset_of(std::size_t in_input) {
    constexpr std::size_t kFirst = sizeof(format::Header) + sizeof(format::Place);
    return in_input < kFirst ? in_input : in_input + kLeftOut;
  }

  [[nodiscard]] format::Header& header() const {
    return *reinterpret_cast<format::Header*>(bytes.get());
  }
};

/// An input that stands for a segment.
[[nodiscard]] std::vector<std::uint8_t> input_of(const std::byte* segment, std::size_t size);

/// Sections of a segment or an input whose counts may be anything: what of them is there.
template <class T>
struct Part {
  T* first = nullptr;
  std::size_t count = 0;
  [[nodiscard]] T* begin() const { return first; }
  [[nodiscard]] T* end() const { return first + count; }
  T& operator[](std::size_t i) const { return first[i]; }
};
struct Parts {
  Part<format::Slot> slots;
  Part<format::Entry> log;
  format::LayoutHeader* layout = nullptr;  ///< null when there is no room for it
  Part<format::ParameterRecord> parameters;
  Part<format::BucketRecord> buckets;
  Part<format::BoxRecord> boxes;
  Part<format::IndexEntry> index;
  Part<char> names;

  /// `rest` is what follows the places.
  Parts(const format::Header& header, std::byte* rest, std::size_t bytes);
};

}  // namespace tenon::fuzz
