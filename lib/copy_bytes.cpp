#include "copy_bytes.hpp"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tenon {
namespace {

// Measured (docs/performance.md): below this, staying in the cache wins; glibc's own memcpy only
// goes non-temporal above ~190 MiB on machines that report a large L3.
constexpr std::uint64_t kNonTemporalFrom = 1U << 20U;

#if defined(__SSE2__)
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kLine = 64;
constexpr std::uint64_t kPagesAtOnce = 4;
constexpr std::uint64_t kLinesAtOnce = 2;
constexpr std::uint64_t kPrefetchAhead = 4 * kLine;

void stream_line(std::byte* to, const std::byte* from) noexcept {
  const auto* source = reinterpret_cast<const __m128i*>(from);
  auto* target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_loadu_si128(source);
  const __m128i b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2);
  const __m128i d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

// `to` 64-byte aligned, `bytes` a multiple of 64. Two lines of each of four pages in turn, as
// glibc's large memcpy does: that keeps more of the memory busy than one stream can (measured: 1.0
// of glibc's speed instead of 0.8; one stream that prefetches far ahead reached 0.6).
void stream_blocks(std::byte* to, const std::byte* from, std::uint64_t bytes) noexcept {
  std::uint64_t at = 0;
  for (; at + kPagesAtOnce * kPage <= bytes; at += kPagesAtOnce * kPage) {
    for (std::uint64_t in_page = 0; in_page < kPage; in_page += kLinesAtOnce * kLine) {
      for (std::uint64_t page = 0; page < kPagesAtOnce; ++page) {
        for (std::uint64_t line = 0; line < kLinesAtOnce; ++line) {
          const std::uint64_t offset = at + page * kPage + in_page + line * kLine;
          _mm_prefetch(reinterpret_cast<const char*>(from + offset + kPrefetchAhead), _MM_HINT_T0);
          stream_line(to + offset, from + offset);
        }
      }
    }
  }
  for (; at < bytes; at += kLine) stream_line(to + at, from + at);
}
#endif

}  // namespace

void copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes) noexcept {
#if defined(__SSE2__)
  if (bytes >= kNonTemporalFrom) {
    const std::uint64_t head = (64 - reinterpret_cast<std::uintptr_t>(to) % 64) % 64;
    std::memcpy(to, from, head);
    const std::uint64_t body = (bytes - head) / 64 * 64;
    stream_blocks(to + head, from + head, body);
    std::memcpy(to + head + body, from + head + body, bytes - head - body);
    _mm_sfence();  // streaming stores are weakly ordered: without it a later release store could
                   // pass them
    return;
  }
#endif
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace tenon
