#include "progress.hpp"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "common.hpp"

namespace tenon::cli {

namespace {

bool is_shown(bool wanted) { return wanted && ::isatty(STDERR_FILENO) == 1; }
void wipe() { std::fputs("\r\033[K", stderr); }

}  // namespace

Progress::Progress(std::string what, bool wanted)
    : what_(std::move(what)), enabled_(is_shown(wanted)) {}

Progress::~Progress() {
  if (shown_) wipe();
}

void Progress::update(std::uint64_t done, std::uint64_t total) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  if (done >= total) {
    if (std::exchange(shown_, false)) wipe();
    return;
  }
  if (Clock::now() < next_) return;
  next_ = Clock::now() + std::chrono::milliseconds(200);
  shown_ = true;
  std::fprintf(stderr, "\r\033[Ktenon: %s %s of %s", what_.c_str(), human_bytes(done).c_str(),
               human_bytes(total).c_str());
}

Waiting::Waiting(std::string what, bool wanted) : what_(std::move(what)) {
  if (is_shown(wanted)) thread_ = std::thread([this] { show(); });
}

void Waiting::end() {
  std::call_once(joined_, [this] {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    over_.notify_one();
    thread_.join();
  });
}

void Waiting::complain_above(std::string_view text) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(shown_, false)) wipe();
  complain(text);
}

void Waiting::show() {
  std::unique_lock lock(mutex_);
  for (int seconds = 1; !over_.wait_for(lock, std::chrono::seconds(1), [&] { return is_over_; });
       ++seconds) {
    std::fprintf(stderr, "\r\033[Ktenon: %s (%d s)", what_.c_str(), seconds);
    shown_ = true;
  }
  if (shown_) wipe();
}

}  // namespace tenon::cli
