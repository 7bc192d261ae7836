#include "stream.hpp"

#include <thread>
#include <utility>

namespace tenon::sim {
namespace {

constexpr int kNoWorker = -1;
thread_local int working_on = kNoWorker;

}  // namespace

bool is_worker() noexcept { return working_on != kNoWorker; }
int worker_device() noexcept { return working_on; }

Stream::Stream(const Options& options, Pacing& pacing)
    : options_(options), pacing_(pacing), random_(pacing.seed + options.number) {}

std::shared_ptr<Stream> Stream::start(const Options& options, Pacing& pacing) {
  auto stream = std::make_shared<Stream>(options, pacing);
  pacing.workers.fetch_add(1);
  // Detached: it may be stuck in a program's host function when the process exits, as a GPU's
  // driver may be, and must not keep it.
  std::thread([stream, &pacing]() mutable {
    stream->run();
    stream.reset();
    pacing.workers.fetch_sub(1);
  }).detach();
  return stream;
}

std::uint64_t Stream::submit(Kind kind, Work work) {
  const std::lock_guard lock(mutex_);
  queue_.push_back({kind, std::move(work)});
  changed_.notify_all();
  return ++submitted_;
}

std::uint64_t Stream::last() const {
  const std::lock_guard lock(mutex_);
  return submitted_;
}

bool Stream::idle() const {
  const std::lock_guard lock(mutex_);
  return completed_ == submitted_;
}

void Stream::wait(std::uint64_t ticket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return completed_ >= ticket || abandoned(); });
}

void Stream::hold(bool held) {
  const std::lock_guard lock(mutex_);
  held_ = held;
  changed_.notify_all();
}

void Stream::close() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  changed_.notify_all();
}

void Stream::wake() {
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

void Stream::run() {
  working_on = options_.device;
  std::unique_lock lock(mutex_);
  bool is_new = true;  // its first work can be there before this thread is
  for (;;) {
    const bool was_idle = queue_.empty() || is_new;
    is_new = false;
    changed_.wait(lock, [&] { return !queue_.empty() || closing_; });
    if (queue_.empty()) return;
    {
      Item item = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      execute(item, was_idle);
    }  // what the work held on to goes before anyone hears that it is done
    lock.lock();
    ++completed_;
    changed_.notify_all();
  }
}

void Stream::execute(const Item& item, bool was_idle) {
  pause(was_idle);
  std::unique_lock<std::mutex> turn;
  if (item.kind == Kind::host_function) {
    while (pacing_.hold_host_functions && !abandoned())
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    turn = std::unique_lock(pacing_.host_functions);
  }
  if (abandoned()) return;
  item.work();
}

void Stream::pause(bool was_idle) {
  std::unique_lock lock(mutex_);
  const auto longest = static_cast<std::uint64_t>(pacing_.max_delay.count());
  if (longest > 0 && (was_idle || random_.below(8) == 0)) {
    const std::chrono::microseconds delay(random_.below(longest) + 1);
    changed_.wait_for(lock, delay, [&] { return abandoned(); });
  }
  changed_.wait(lock, [&] { return !held_ || abandoned(); });
}

}  // namespace tenon::sim
