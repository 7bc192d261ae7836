// A receiver at work in a thread of its own, for objects that embed one.
#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <tenon/relay.hpp>
#include <thread>

namespace tenon::relay {

/// Lifetime: its end stops the receiver and ends the publication.
class Feeder {
 public:
  Feeder(const ReceiverOptions& options, const Watch& watch)
      : receiver_(std::make_unique<Receiver>(options)), thread_([this, watch] { run(watch); }) {}
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;
  ~Feeder() {
    {
      const std::lock_guard lock(mutex_);
      if (receiver_) receiver_->stop();
    }
    thread_.join();
  }

  /// Throws what receiving ended with, if it has.
  void check() const {
    const std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void run(const Watch& watch) noexcept {
    try {
      receiver_->run(watch);
    } catch (const std::exception& e) {
      if (watch.note) watch.note("receiving ends: " + detail::message_of(e));
      const std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
      receiver_.reset();  // its publication ends with it: subscribers learn that nothing comes
    }
  }
  mutable std::mutex mutex_;
  std::unique_ptr<Receiver> receiver_;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace tenon::relay
