#include "progress.hpp"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "common.hpp"

namespace tenon::cli {

Progress::Progress(std::string what, bool wanted)
    : what_(std::move(what)), enabled_(wanted && ::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void Progress::update(std::uint64_t done, std::uint64_t total) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  if (Clock::now() < next_) return;
  next_ = Clock::now() + std::chrono::milliseconds(200);
  shown_ = true;
  std::fprintf(stderr, "\r\033[Ktenon: %s %s of %s", what_.c_str(), human_bytes(done).c_str(),
               human_bytes(total).c_str());
}

}  // namespace tenon::cli
