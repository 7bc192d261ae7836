#include "copy_pool.hpp"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tenon {
namespace {

// Measured (docs/performance.md): below this, staying in the cache wins; glibc's own memcpy only
// goes non-temporal above ~190 MiB on machines that report a large L3.
constexpr std::uint64_t kNonTemporalFrom = 1U << 20U;
constexpr std::uint64_t kShareGranularity = 64;  // shares meet at cache lines
constexpr std::uint64_t kWorthSharing = 1U << 20U;

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

CopyPool::CopyPool(unsigned threads) {
  for (unsigned i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i](const std::stop_token& stop) { work(stop, i); });
  }
}

void CopyPool::run(std::span<const CopyPiece> pieces) {
  std::uint64_t total = 0;
  ends_.clear();
  for (const CopyPiece& p : pieces) ends_.push_back(total += p.bytes);
  pieces_ = pieces;
  if (workers_.empty() || total < kWorthSharing) {
    for (const CopyPiece& p : pieces) copy_bytes(p.to, p.from, p.bytes);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    ++round_;
    busy_ = workers_.size();
  }
  start_.notify_all();
  copy_share(0);
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return busy_ == 0; });
}

void CopyPool::work(const std::stop_token& stop, std::size_t share) {
  std::uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (!start_.wait(lock, stop, [&] { return round_ != seen; })) return;
      seen = round_;
    }
    copy_share(share);
    const std::lock_guard lock(mutex_);
    if (--busy_ == 0) finished_.notify_one();
  }
}

// The share-th of equal parts of all bytes, which may begin and end inside a piece.
void CopyPool::copy_share(std::size_t share) const noexcept {
  const std::uint64_t total = ends_.back();
  const std::uint64_t parts = workers_.size() + 1;
  const auto boundary = [&](std::uint64_t part) {
    return part == parts ? total : total / parts * part / kShareGranularity * kShareGranularity;
  };
  std::uint64_t at = boundary(share);
  const std::uint64_t end = boundary(share + 1);
  auto i =
      static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin());
  for (; at < end; ++i) {
    const CopyPiece& piece = pieces_[i];
    const std::uint64_t skip = at - (ends_[i] - piece.bytes);
    const std::uint64_t bytes = std::min(piece.bytes - skip, end - at);
    copy_bytes(piece.to + skip, piece.from + skip, bytes);
    at += bytes;
  }
}

}  // namespace tenon
