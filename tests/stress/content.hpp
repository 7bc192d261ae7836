// What publications hold: every byte is a function of (publication instance, version, parameter),
// which a reader can work out without asking the library.
#pragma once

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <tenon/plan.hpp>
#include <vector>

#include "random.hpp"

namespace tenon::stress {

inline constexpr unsigned kVariants = 3;  ///< of the layout
inline constexpr std::uint64_t kFrozenFor = 4;

/// Several buckets of odd sizes, with tied, empty and rank-0 parameters.
[[nodiscard]] inline std::vector<Parameter> parameters(unsigned variant) {
  const std::uint64_t n = 40 + 17 * variant;
  std::vector<Parameter> all{{"embed", Dtype::f32, {n, 61}},
                             {"scale", Dtype::f32, {}},
                             {"empty", Dtype::bf16, {0, 8}},
                             {"norm", Dtype::f64, {33 + n}},
                             {"head", Dtype::f32, {n, 61}, "embed"}};
  for (unsigned layer = 0; layer < 4 + variant; ++layer) {
    const std::string stem = "layer." + std::to_string(layer);
    all.push_back({stem + ".q", Dtype::bf16, {n, 100}});
    all.push_back({stem + ".odd", Dtype::u8, {3001 + n * layer}});
  }
  return all;
}

/// What a publication says of itself, in its layout's metadata.
struct Identity {
  std::uint64_t nonce = 0;  ///< another one for every instance
  std::uint64_t life = 0;   ///< of the publisher's process
  bool checksums = false;

  [[nodiscard]] std::string to_text() const {
    return nlohmann::json{{"nonce", nonce}, {"life", life}, {"checksums", checksums}}.dump();
  }
  [[nodiscard]] static Identity of(const Layout& layout) {
    const auto json = nlohmann::json::parse(layout.metadata());
    return {json.at("nonce"), json.at("life"), json.at("checksums")};
  }
};

class Content {
 public:
  Content(Layout layout, std::uint64_t nonce) : layout_(std::move(layout)), nonce_(nonce) {}

  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  /// Every third bucket changes only with every fourth version.
  [[nodiscard]] static bool is_frozen(std::size_t bucket) noexcept { return bucket % 3 == 1; }
  [[nodiscard]] static bool is_unchanged(std::size_t bucket, std::uint64_t from, std::uint64_t to) {
    return from > 0 && is_frozen(bucket) && from / kFrozenFor == to / kFrozenFor;
  }

  /// `spoilt`: of a version that will be aborted, which nobody may ever see.
  [[nodiscard]] std::vector<std::byte> bytes(std::size_t i, std::uint64_t version,
                                             bool spoilt = false) const {
    std::vector<std::byte> all(layout_[i].bytes);
    const std::uint64_t key = key_of(i, version) ^ (spoilt ? ~std::uint64_t{0} : 0);
    for (std::size_t at = 0, k = 0; at < all.size(); at += 8, ++k) {
      const std::uint64_t word = word_of(key, k);
      std::memcpy(&all[at], &word, std::min<std::size_t>(8, all.size() - at));
    }
    return all;
  }
  /// Whether these are the bytes of parameter i in that version.
  [[nodiscard]] bool is_right(std::size_t i, std::uint64_t version, const std::byte* data) const {
    const std::uint64_t bytes = layout_[i].bytes;
    const std::uint64_t key = key_of(i, version);
    for (std::size_t at = 0, k = 0; at < bytes; at += 8, ++k) {
      const std::uint64_t word = word_of(key, k);
      if (std::memcmp(data + at, &word, std::min<std::size_t>(8, bytes - at)) != 0) return false;
    }
    return true;
  }

 private:
  [[nodiscard]] std::uint64_t key_of(std::size_t i, std::uint64_t version) const {
    const std::size_t original = layout_.tied_to(i).value_or(i);
    const std::uint64_t counts =
        is_frozen(layout_[original].bucket) ? version / kFrozenFor : version + (1ULL << 40U);
    return mix(nonce_ + mix(original + 1) + mix(counts * 0x9E3779B97F4A7C15U));
  }
  [[nodiscard]] static std::uint64_t word_of(std::uint64_t key, std::uint64_t k) noexcept {
    return mix(key + k * 0x9E3779B97F4A7C15U);
  }

  Layout layout_;
  std::uint64_t nonce_;
};

}  // namespace tenon::stress
