// A small layout and its bytes, for tests that damage them.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <tenon/plan.hpp>
#include <vector>

namespace tenon::test {

/// A layout's bytes, to be damaged and parsed. Copies are parsed in an allocation of exactly their
/// size, so that AddressSanitizer sees a read beyond it.
class Block {
 public:
  explicit Block(const Layout& layout)
      : bytes_(layout.bytes().first, layout.bytes().first + layout.bytes().second) {}

  [[nodiscard]] format::LayoutHeader& header() { return *at<format::LayoutHeader>(0); }
  [[nodiscard]] format::ParameterRecord& parameter(std::size_t i) {
    return at<format::ParameterRecord>(sections().parameters)[i];
  }
  [[nodiscard]] format::BucketRecord& bucket(std::size_t i) {
    return at<format::BucketRecord>(sections().buckets)[i];
  }
  [[nodiscard]] format::BoxRecord& box(std::size_t i) {
    return at<format::BoxRecord>(sections().boxes)[i];
  }
  /// The index entry of a parameter, wherever it is.
  [[nodiscard]] format::IndexEntry& entry_of(std::uint32_t parameter) {
    auto* index = at<format::IndexEntry>(sections().index);
    while (index->parameter != parameter + 1) ++index;
    return *index;
  }
  [[nodiscard]] std::vector<std::byte>& bytes() { return bytes_; }
  [[nodiscard]] Layout parse() const { return parse_first(bytes_.size()); }
  [[nodiscard]] Layout parse_first(std::size_t size) const {
    detail::Block copy(static_cast<std::byte*>(std::malloc(size)));
    std::memcpy(copy.get(), bytes_.data(), size);
    return Layout::parse(std::move(copy), size);
  }

 private:
  template <class T>
  T* at(std::uint64_t offset) {
    return reinterpret_cast<T*>(bytes_.data() + offset);
  }
  format::LayoutSections sections() { return format::LayoutSections(header()); }

  std::vector<std::byte> bytes_;
};

/// Three buckets: [embed, empty], [mlp, scalar, head (tied to embed)], [norm].
inline Layout sample_layout() {
  const std::vector<Parameter> parameters = {
      {"embed", Dtype::bf16, {40, 8}},
      {"empty", Dtype::f32, {3, 0}},
      {"mlp", Dtype::f32, {4, 16}, {}, Box{{8, 16}, {4, 0}}},
      {"scalar", Dtype::i64, {}},
      {"head", Dtype::bf16, {320}, "embed"},
      {"norm", Dtype::f8_e4m3, {600}, {}, Box{{1200}, {600}}},
  };
  return plan(parameters, {1000, R"({"format":"pt"})"});
}

inline constexpr std::uint32_t kEmbed = 0, kEmpty = 1, kMlp = 2, kScalar = 3, kHead = 4, kNorm = 5;

}  // namespace tenon::test
