#include "plain_copy.hpp"

#include <cstring>

#include "samples.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tenon::bench {
namespace {

constexpr std::uint64_t kBlock = 64;

void copy_non_temporal(std::byte* to, const std::byte* from, std::uint64_t bytes) noexcept {
#if defined(__SSE2__)
  const std::uint64_t head = (kBlock - reinterpret_cast<std::uintptr_t>(to) % kBlock) % kBlock;
  if (bytes > head + kBlock) {
    std::memcpy(to, from, head);
    std::uint64_t at = head;
    for (; at + kBlock <= bytes; at += kBlock) {
      for (std::uint64_t i = 0; i < kBlock; i += sizeof(__m128i)) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + at + i),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at + i)));
      }
    }
    std::memcpy(to + at, from + at, bytes - at);
    _mm_sfence();
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}

}  // namespace

PlainCopy::Store PlainCopy::faster_store(std::byte* to, const std::byte* from,
                                         std::uint64_t bytes) {
  const auto best_ns = [&](Store store) {
    std::uint64_t best = ~0ULL;
    for (int i = 0; i < 3; ++i) {
      const std::uint64_t begin = monotonic_ns();
      copy(to, from, bytes, store);
      best = std::min(best, monotonic_ns() - begin);
    }
    return best;
  };
  return best_ns(Store::normal) <= best_ns(Store::non_temporal) ? Store::normal
                                                                : Store::non_temporal;
}

bool PlainCopy::has_non_temporal() noexcept {
#if defined(__SSE2__)
  return true;
#else
  return false;
#endif
}

PlainCopy::PlainCopy(std::size_t threads)
    : threads_(threads),
      start_(static_cast<std::ptrdiff_t>(threads)),
      finish_(static_cast<std::ptrdiff_t>(threads)) {
  for (std::size_t part = 1; part < threads_; ++part) {
    workers_.emplace_back([this, part] {
      for (;;) {
        start_.arrive_and_wait();
        if (job_.to == nullptr) return;
        copy_part(part);
        finish_.arrive_and_wait();
      }
    });
  }
}

PlainCopy::~PlainCopy() {
  job_ = {};
  start_.arrive_and_wait();
}

void PlainCopy::copy(std::byte* to, const std::byte* from, std::uint64_t bytes, Store store) {
  job_ = {to, from, bytes, store};
  start_.arrive_and_wait();
  copy_part(0);
  finish_.arrive_and_wait();
}

void PlainCopy::copy_alone(std::byte* to, const std::byte* from, std::uint64_t bytes, Store store) {
  if (store == Store::non_temporal) {
    copy_non_temporal(to, from, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

void PlainCopy::copy_part(std::size_t part) const {
  const auto boundary = [&](std::size_t p) {
    return p == threads_ ? job_.bytes : job_.bytes / threads_ * p / kBlock * kBlock;
  };
  const std::uint64_t from = boundary(part);
  copy_alone(job_.to + from, job_.from + from, boundary(part + 1) - from, job_.store);
}

}  // namespace tenon::bench
