#include "parallel.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

namespace tenon::cli {

unsigned thread_count() noexcept {
  constexpr unsigned kMost = 8;
  ::cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return 1;
  return std::clamp(static_cast<unsigned>(CPU_COUNT(&cpus)), 1U, kMost);
}

void for_each_piece(std::size_t count, unsigned threads,
                    const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;  // guards failure
  std::exception_ptr failure;
  const auto run = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (std::size_t t = 1; t < std::min<std::size_t>(threads, count); ++t) {
      helpers.emplace_back(run);
    }
    run();
  }
  if (failure) std::rethrow_exception(failure);
}

void add_pieces(std::vector<Piece>& pieces, std::size_t i, std::uint64_t bytes) {
  for (std::uint64_t at = 0; at < bytes; at += kPieceBytes) {
    pieces.push_back({i, at, std::min(kPieceBytes, bytes - at)});
  }
}

}  // namespace tenon::cli
