// A model whose partial results have a sum that this header computes in another way than the
// library: every partial is a number of few bits, so the sum is exact in any order.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <support/support.hpp>
#include <tenon/copy_and_wait.hpp>
#include <tenon/relay.hpp>
#include <vector>

namespace tenon::test {

class PartialModel {
 public:
  explicit PartialModel(MemoryKind memory)
      : layout(plan(parameters(), {.bucket_bytes = 4096})), kind(memory) {}

  /// Several dtypes in a bucket, sizes that no number of replicas divides, fewer elements than
  /// replicas, padding behind almost all.
  static std::vector<Parameter> parameters() {
    return {{"embed", Dtype::f32, {17, 31}},
            {"scale", Dtype::f32, {}},
            {"empty", Dtype::bf16, {0, 8}},
            {"q", Dtype::bf16, {7, 41}},
            {"k", Dtype::bf16, {101}},
            {"step", Dtype::i32, {1}},
            {"counts", Dtype::i32, {2}},
            {"norm", Dtype::f64, {33}},
            {"head", Dtype::f32, {17, 31}, "embed"},
            {"bytes", Dtype::u8, {1001}},
            {"more", Dtype::bf16, {13}},
            {"wide", Dtype::bf16, {5003}},
            {"ids", Dtype::i64, {500}}};
  }

  /// Publishes version `v` of trainer `replica`; what lies between parameters is no number.
  void publish(Publisher& pub, int replica, std::uint64_t v) const {
    Publisher::Update update = pub.begin({.deadline = kPatience, .version = v});
    for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
      std::vector<std::byte> bucket(layout.bucket_bytes(b), std::byte{0xFF});
      const auto [first, last] = layout.bucket_parameters(b);
      for (std::size_t p = first; p < last; ++p) {
        if (layout.tied_to(p)) continue;
        const Placement place = layout[p];
        for (std::size_t i = 0; i < elements(place); ++i)
          store(place.dtype, partial(place.dtype, replica, v, p, i),
                bucket.data() + place.offset + i * info(place.dtype).bytes);
      }
      copy_and_wait(kind, update.open(b), bucket.data(), bucket.size());
      update.seal(b);
    }
    (void)update.commit();
    (void)pub.wait_current(kPatience);
  }

  /// The first element that is not the reduction of that of `replicas` trainers; empty: all are.
  [[nodiscard]] std::string wrong(const Lease& lease, int replicas, relay::ReduceOp op) const {
    for (std::size_t listed = 0; listed < layout.size(); ++listed) {
      const Placement place = layout[listed];
      const std::size_t p = layout.tied_to(listed).value_or(listed);
      const std::vector<std::byte> got = Bytes::get(kind, lease[listed].data(), place.bytes);
      const std::size_t size = info(place.dtype).bytes;
      for (std::size_t i = 0; i < elements(place); ++i) {
        double sum = 0;
        for (int r = 0; r < replicas; ++r) sum += partial(place.dtype, r, lease.version(), p, i);
        std::byte expected[8];
        if (op == relay::ReduceOp::mean) sum = divided(place.dtype, sum, replicas);
        store(place.dtype, sum, expected);
        if (std::memcmp(expected, got.data() + i * size, size) != 0)
          return std::string(place.name) + "[" + std::to_string(i) + "] of version " +
                 std::to_string(lease.version());
      }
    }
    return {};
  }

  Layout layout;
  MemoryKind kind;

 private:
  static std::size_t elements(const Placement& place) {
    return place.bytes / info(place.dtype).bytes;
  }
  static bool is_float(Dtype dtype) {
    return dtype == Dtype::f32 || dtype == Dtype::f64 || dtype == Dtype::bf16;
  }
  /// Floats: at most 7 bits and one of four exponents, so that a sum has more bits than bf16.
  static double partial(Dtype dtype, int replica, std::uint64_t v, std::size_t p, std::size_t i) {
    std::uint64_t x = (p * 1000003 + i + 1) * 0x9E3779B97F4A7C15U + v * 0xD1B54A32D192ED03U +
                      static_cast<std::uint64_t>(replica) * 0x8CB92BA72F3D8DD7U;
    x = (x ^ (x >> 31U)) * 0xBF58476D1CE4E5B9U;
    const auto number = static_cast<double>((x >> 40U) % 127U);
    if (dtype == Dtype::u8) return number;
    const double with_sign = (x >> 60U) % 2 == 0 ? number : -number;
    if (!is_float(dtype)) return with_sign * 1001;
    return std::ldexp(with_sign, -static_cast<int>((x >> 50U) % 4U) * 3);
  }
  /// As the library promises: f32 and narrower in f32, integers cut off towards zero.
  static double divided(Dtype dtype, double sum, int by) {
    if (dtype == Dtype::f64) return sum / by;
    if (is_float(dtype)) return static_cast<float>(sum) / static_cast<float>(by);
    return std::trunc(sum / by);
  }
  template <class T>
  static void put(T value, std::byte* to) {
    std::memcpy(to, &value, sizeof(value));
  }
  static void store(Dtype dtype, double value, std::byte* to) {
    if (dtype == Dtype::f32) return put(static_cast<float>(value), to);
    if (dtype == Dtype::f64) return put(value, to);
    const auto whole = static_cast<std::int64_t>(value);
    if (dtype == Dtype::i32) return put(static_cast<std::int32_t>(whole), to);
    if (dtype == Dtype::i64) return put(whole, to);
    if (dtype == Dtype::u8) return put(static_cast<std::uint8_t>(whole), to);
    if (dtype != Dtype::bf16) throw Error(Errc::InvalidArgument, "a dtype that the test lacks");
    // The upper half of a float, rounded to nearest, ties to even; no NaN comes here.
    std::uint32_t bits = 0;
    const auto narrow = static_cast<float>(value);
    std::memcpy(&bits, &narrow, sizeof(bits));
    put(static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16U & 1U)) >> 16U), to);
  }
};

}  // namespace tenon::test
