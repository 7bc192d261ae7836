// Elements of every dtype as numbers for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tenon/types.hpp>
#include <variant>

#include "common.hpp"

namespace tenon::cli {

/// One element. Floats narrower than 32 bits are exact as float.
using Value = std::variant<bool, std::int64_t, std::uint64_t, float, double>;

/// The element that begins at `at`, of which info(dtype).bytes bytes are read.
[[nodiscard]] Value decode(Dtype dtype, const std::byte* at);
/// The shortest text that reads back as the same value; "nan", "inf", "-inf".
[[nodiscard]] std::string text_of(const Value& value);
/// A JSON number or boolean; what JSON has no number for is the text "nan", "inf" or "-inf".
[[nodiscard]] Json json_of(const Value& value);

}  // namespace tenon::cli
