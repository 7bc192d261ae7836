// Showing that one knows the secret without saying it: HMAC-SHA256 over what both sides said first,
// which holds a fresh random number of each, and over who is who, so that neither an old proof nor
// one's own sent back is any good.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tenon::relay {

inline constexpr std::size_t kNonceBytes = 32;
inline constexpr std::size_t kLeastSecretBytes = 16;

enum class Role { receiver, sender };  ///< who connects, who listens

/// InvalidArgument when it is too short to be one. Empty is allowed here.
void check_secret(std::string_view secret);

/// 32 random bytes in hexadecimal digits.
[[nodiscard]] std::string make_nonce();

/// The proof of `role`, in hexadecimal digits. Both first frames are whole, as sent.
[[nodiscard]] std::string prove(Role role, std::string_view secret, std::string_view receiver_first,
                                std::string_view sender_first);

/// In a time that does not tell where they differ.
[[nodiscard]] bool same_proof(std::string_view a, std::string_view b) noexcept;

/// Whether `text` is `bytes` bytes in lower-case hexadecimal digits.
[[nodiscard]] bool is_hex(std::string_view text, std::size_t bytes) noexcept;

}  // namespace tenon::relay
