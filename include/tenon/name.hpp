// Names of publications and of the shared-memory objects that hold them.
#pragma once

#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <tenon/error.hpp>

namespace tenon {

using Uid = ::uid_t;

/// Whether `name` matches [A-Za-z0-9][A-Za-z0-9._@-]{0,63}.
[[nodiscard]] constexpr bool is_valid_name(std::string_view name) noexcept {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (name.empty() || name.size() > 64 || !alphanumeric(name.front())) return false;
  for (const char c : name) {
    if (!alphanumeric(c) && c != '.' && c != '_' && c != '@' && c != '-') return false;
  }
  return true;
}

/// Throws Error(InvalidName) unless is_valid_name(name).
inline void check_name(std::string_view name) {
  if (is_valid_name(name)) return;
  throw Error(Errc::InvalidName,
              "'" + detail::plain(name) +
                  "' is not a publication name: 1 to 64 of A-Z a-z 0-9 . _ @ -, the first a letter "
                  "or digit");
}

inline constexpr std::size_t kMaxLabelBytes = 63;

/// Throws Error(InvalidArgument) for a label (text for people) that would have to be cut.
inline void check_label(std::string_view label) {
  if (label.size() <= kMaxLabelBytes) return;
  throw Error(Errc::InvalidArgument, "the label '" + detail::plain(label) + "' is " +
                                         std::to_string(label.size()) +
                                         " bytes long; up to 63 fit");
}

namespace detail {

/// "tenon.<uid>.": what the objects of all publications of a user begin with.
[[nodiscard]] inline std::string publication_prefix(Uid owner) {
  return "tenon." + std::to_string(owner) + ".";
}
[[nodiscard]] inline std::string publication_object(Uid owner, std::string_view name) {
  return publication_prefix(owner) + std::string(name);
}
/// "tenon-slot.<uid>.": what the host-memory slots of all publications of a user begin with.
[[nodiscard]] inline std::string slot_prefix(Uid owner) {
  return "tenon-slot." + std::to_string(owner) + ".";
}
/// 32 hexadecimal digits.
[[nodiscard]] inline std::string instance_text(const std::uint8_t (&instance)[16]) {
  std::string text;
  char digits[3];
  for (const std::uint8_t byte : instance) {
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    text += digits;
  }
  return text;
}
/// "GPU-8-4-4-4-12", as nvidia-smi and CUDA_VISIBLE_DEVICES have it.
[[nodiscard]] inline std::string device_text(const std::array<std::uint8_t, 16>& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid[i] >> 4U];
    text += kDigits[uuid[i] & 15U];
  }
  return text;
}
[[nodiscard]] inline std::string slot_object(Uid owner, const std::uint8_t (&instance)[16],
                                             std::uint64_t allocation) {
  return slot_prefix(owner) + instance_text(instance) + "." + std::to_string(allocation);
}

}  // namespace detail
}  // namespace tenon
