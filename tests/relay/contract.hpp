// What the parts of the engines' contract suite share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <relay/small_float.hpp>
#include <string>
#include <vector>

#include "engines.hpp"
#include "group.hpp"

namespace tenon::test {

using detail::Deadline;
using relay::Engine;
using relay::Membership;
using relay::ReduceOp;

inline Deadline soon() { return Deadline(kPatience); }

/// Bytes that tell who made them (`who`) and what for (`seed`).
inline std::vector<std::byte> content(std::size_t bytes, int who, std::size_t seed) {
  std::vector<std::byte> result(bytes);
  std::uint64_t x = static_cast<std::uint64_t>(who + 1) * 0x9E3779B97F4A7C15U + seed;
  for (std::size_t i = 0; i < bytes; i += sizeof(x)) {
    x = x * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(result.data() + i, &x, std::min(sizeof(x), bytes - i));
  }
  return result;
}

/// `action` for values of a dtype: it is called with the stored type's value of 0, and with a
/// function from numbers to such values.
template <class Action>
void with_stored(Dtype dtype, const Action& action) {
  const auto plain = [&]<class T>(T zero) {
    action(zero, [](double number) { return static_cast<T>(number); });
  };
  const auto small = [&]<class Format>(Format) {
    action(typename Format::Stored{},
           [](double number) { return Format::narrow(static_cast<float>(number)); });
  };
  switch (dtype) {
    case Dtype::f32:
      return plain(float{});
    case Dtype::f64:
      return plain(double{});
    case Dtype::f16:
      return small(relay::F16{});
    case Dtype::bf16:
      return small(relay::Bf16{});
    case Dtype::u8:
      return plain(std::uint8_t{});
    case Dtype::i32:
      return plain(std::int32_t{});
    case Dtype::i64:
      return plain(std::int64_t{});
    default:
      FAIL() << "no values of " << info(dtype).name << " in this test";
  }
}

/// Numbers as the elements of a dtype.
inline std::vector<std::byte> encoded(Dtype dtype, const std::vector<double>& numbers) {
  std::vector<std::byte> result(numbers.size() * info(dtype).bytes);
  with_stored(dtype, [&](auto zero, auto store) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto value = store(numbers[i]);
      std::memcpy(result.data() + i * sizeof(zero), &value, sizeof(zero));
    }
  });
  return result;
}

class EngineContract : public ::testing::TestWithParam<EngineRow> {
 protected:
  /// `body` as every rank of a group, to its end.
  static void run_group(int size, const std::function<void(Engine&)>& body) {
    const Node node;
    Group group(size, [&](const Membership& membership) {
      const auto engine = GetParam().make(membership, soon());
      body(*engine);
    });
    group.expect_success();
  }
  static void for_all_sizes(const std::function<void(Engine&)>& body) {
    for (int size = 1; size <= 4; ++size) run_group(size, body);
  }
  static Bytes bytes(std::size_t count, std::byte value = std::byte{0xEE}) {
    return {GetParam().memory, count, value};
  }
  static Bytes bytes(const std::vector<std::byte>& value) {
    Bytes result(GetParam().memory, value.size());
    result.upload(value);
    return result;
  }
};

inline std::string row_name(const ::testing::TestParamInfo<EngineRow>& row) {
  return row.param.name;
}

}  // namespace tenon::test
