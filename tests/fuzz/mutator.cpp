// Mutations that know what a segment is made of: whole fields, of sections chosen first, so that
// few parameters are changed as often as many index entries.
#include <cstring>
#include <iterator>

#include "image.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

namespace tenon::fuzz {
namespace {

/// splitmix64: one is made for each mutation.
struct Random {
  explicit Random(std::uint64_t seed) : state(seed) {}
  std::uint64_t operator()() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
  }
  std::uint64_t state;
};

class Mutator {
 public:
  Mutator(std::uint8_t* input, std::size_t size, std::size_t max, unsigned seed)
      : input_(input), size_(size), max_(max), random_(seed) {}

  std::size_t mutate() {
    for (std::uint64_t n = 1 + below(3); n > 0; --n) {
      switch (below(8)) {
        case 0:
          input_[below(8) == 0 ? 1 + below(7) : 0] ^= static_cast<std::uint8_t>(1U << below(8));
          break;
        case 1:
          change();
          break;
        case 2:
          grow_or_shrink();
          break;
        default:
          mutate_field();
      }
    }
    return size_;
  }

 private:
  static constexpr std::uint64_t kInteresting[] = {
      0,           1,           2,           3,           8,           255,         256,
      4096,        1U << 16U,   1U << 20U,   1U << 21U,   1U << 24U,   0x7FFFFFFFU, 1U << 31U,
      ~0U,         1ULL << 32U, 1ULL << 46U, 1ULL << 47U, 1ULL << 62U, ~0ULL >> 1U, 1ULL << 63U,
      ~0ULL - 255, ~0ULL - 7,   ~0ULL - 1,   ~0ULL};

  std::uint64_t below(std::uint64_t n) { return random_() % n; }

  /// Any part of the input, and sections as its own header places them.
  void mutate_field() {
    constexpr std::size_t kFirst = sizeof(Script) + sizeof(format::Header) + sizeof(format::Place);
    auto* rest = reinterpret_cast<std::byte*>(input_ + kFirst);
    alignas(format::Header) std::byte room[sizeof(format::Header)];
    std::memcpy(room, input_ + sizeof(Script), sizeof(room));
    const Parts parts(*reinterpret_cast<const format::Header*>(room), rest, size_ - kFirst);
    switch (below(12)) {
      case 0:
        return one_of(input_ + sizeof(Script), offsetof(format::Header, reserved));
      case 1:
        return one_word();
      case 2:
        return one_of(input_ + sizeof(Script) + sizeof(format::Header), sizeof(format::Place));
      case 3:
        return one_of(parts.slots);
      case 4:
        return one_of(parts.log);
      case 5:
        return parts.layout == nullptr ? void() : one_of(bytes_of(parts.layout), 64);
      case 6:
      case 7:
        return one_of(parts.parameters);
      case 8:
        return one_of(parts.buckets);
      case 9:
        return one_of(parts.boxes);
      case 10:
        return one_of(parts.index);
      default:
        return one_of(reinterpret_cast<std::uint8_t*>(rest), size_ - kFirst);
    }
  }
  /// Of those that change while a publication is served.
  void one_word() {
    static constexpr std::size_t kWords[] = {
        offsetof(format::Header, state), offsetof(format::Header, current),
        offsetof(format::Header, current), offsetof(format::Header, completed),
        offsetof(format::Header, oldest)};
    std::uint8_t* at = input_ + sizeof(Script) + kWords[below(std::size(kWords))];
    std::uint64_t value = 0;
    std::memcpy(&value, at, sizeof(value));
    value = other_value(value, sizeof(value));
    std::memcpy(at, &value, sizeof(value));
  }
  template <class T>
  static std::uint8_t* bytes_of(T* first) {
    return reinterpret_cast<std::uint8_t*>(first);
  }
  template <class T>
  void one_of(const Part<T>& part) {
    if (part.count > 0) one_of(bytes_of(part.first + below(part.count)), sizeof(T));
  }
  void one_of(std::uint8_t* first, std::size_t bytes) {
    static constexpr std::size_t kWidths[] = {1, 2, 4, 4, 8, 8, 8};
    const std::size_t width = kWidths[below(std::size(kWidths))];
    if (bytes < width) return;
    std::uint8_t* at = first + below(bytes / width) * width;
    std::uint64_t value = 0;
    std::memcpy(&value, at, width);
    value = other_value(value, width);
    std::memcpy(at, &value, width);
  }
  std::uint64_t other_value(std::uint64_t value, std::size_t width) {
    switch (below(6)) {
      case 0:
        return random_();
      case 1:
        return value ^ (1ULL << below(8 * width));
      case 2:
        return value + below(17) - 8;
      case 3: {  // one that another field has
        std::memcpy(&value, input_ + below(size_ - 8) / width * width, width);
        return value;
      }
      case 4:
        return kInteresting[below(std::size(kInteresting))] - below(2);
      default:
        return kInteresting[below(std::size(kInteresting))];
    }
  }
  /// A reading is some 200 reads of the segment.
  void change() {
    Script script = Image::script_of(input_);
    Change& c = script.changes[below(std::size(script.changes))];
    c.after = static_cast<std::uint16_t>(below(2) == 0 ? below(16) : below(256));
    if (below(2) == 0) c.offset = static_cast<std::uint32_t>(place_of_change());
    c.flips = below(4) == 0 ? 0 : other_value(c.flips, 8);
    std::memcpy(input_, &script, sizeof(script));
  }
  /// In the header, a slot, an entry of the log, or anywhere.
  std::size_t place_of_change() {
    constexpr std::size_t kFirst = sizeof(format::Header) + sizeof(format::Place);
    alignas(format::Header) std::byte room[sizeof(format::Header)];
    std::memcpy(room, input_ + sizeof(Script), sizeof(room));
    const auto& h = *reinterpret_cast<const format::Header*>(room);
    const std::size_t slots = (h.slot_count % 64) * sizeof(format::Slot);
    switch (below(4)) {
      case 0:
        return below(sizeof(format::Header));
      case 1:
        return kFirst + below(slots + 1);
      case 2:
        return kFirst + slots + below((h.log_entries % 64) * sizeof(format::Entry) + 1);
      default:
        return below(size_);
    }
  }
  void grow_or_shrink() {
    const std::size_t fixed = sizeof(Script) + sizeof(format::Header) + sizeof(format::Place) + 1;
    if (size_ < fixed) return;
    const std::size_t from = fixed + below(size_ - fixed + 1);
    size_ = from + (from == size_ ? 0 : LLVMFuzzerMutate(input_ + from, size_ - from, max_ - from));
  }

  std::uint8_t* input_;
  std::size_t size_;
  std::size_t max_;
  Random random_;
};

}  // namespace
}  // namespace tenon::fuzz

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  if (!tenon::fuzz::Image::is_long_enough(size)) return LLVMFuzzerMutate(data, size, max);
  return tenon::fuzz::Mutator(data, size, max, seed).mutate();
}
