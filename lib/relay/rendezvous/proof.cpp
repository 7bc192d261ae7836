#include "proof.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <span>
#include <tenon/error.hpp>

namespace tenon::relay {
namespace {

std::string hex(std::span<const unsigned char> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const unsigned char byte : bytes) out += {kDigits[byte >> 4], kDigits[byte & 15]};
  return out;
}

}  // namespace

void check_secret(std::string_view secret) {
  if (secret.empty() || secret.size() >= kLeastSecretBytes) return;
  throw Error(Errc::InvalidArgument, "a secret of " + std::to_string(secret.size()) +
                                         " bytes, which can be guessed: it needs at least " +
                                         std::to_string(kLeastSecretBytes) +
                                         "; `openssl rand -hex 32` makes a good one");
}

std::string make_nonce() {
  std::array<unsigned char, kNonceBytes> bytes{};
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1)
    throw Error(Errc::System, "drawing a random number: OpenSSL has no source of randomness");
  return hex(bytes);
}

std::string prove(Role role, std::string_view secret, std::string_view receiver_first,
                  std::string_view sender_first) {
  std::string said = role == Role::receiver ? "tenon receiver" : "tenon sender";
  said.append(receiver_first).append(sender_first);
  std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
  unsigned int size = 0;
  if (HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
           reinterpret_cast<const unsigned char*>(said.data()), said.size(), out.data(),
           &size) == nullptr)
    throw Error(Errc::System, "computing HMAC-SHA256: this OpenSSL does not");
  return hex(std::span(out).first(size));
}

bool same_proof(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

bool is_hex(std::string_view text, std::size_t bytes) noexcept {
  return text.size() == 2 * bytes && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace tenon::relay
