// iceoryx as the peer of `wake`: a sample loaned, written, published; taken by a reader that polls,
// or that sleeps in a WaitSet. Its daemon, iox-roudi, must run (scripts/bench --peers starts it).
#include <unistd.h>

#include <chrono>
#include <iceoryx_posh/popo/publisher.hpp>
#include <iceoryx_posh/popo/subscriber.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <tenon/detail/wait.hpp>
#include <thread>
#include <utility>

#include "child.hpp"
#include "wake_peer.hpp"

namespace tenon::bench {
namespace {

struct Message {
  std::uint64_t number;
};

class Iceoryx : public WakePeer {
 public:
  [[nodiscard]] const char* name() const override { return "iceoryx"; }

  void open_writer() override {
    join("writer");
    publisher_.emplace(service());
  }
  void open_reader() override {
    join("reader");
    spinning_.emplace(service());
    sleeping_.emplace(service());
    wait_set_.emplace();
    if (wait_set_->attachState(*sleeping_, iox::popo::SubscriberState::HAS_DATA).has_error())
      throw std::runtime_error("iceoryx: attaching the subscriber to a WaitSet");
    const detail::Deadline deadline(kPatience);
    while (spinning_->getSubscriptionState() != iox::SubscribeState::SUBSCRIBED ||
           sleeping_->getSubscriptionState() != iox::SubscribeState::SUBSCRIBED) {
      if (deadline.passed()) throw std::runtime_error("iceoryx: the writer's service is not found");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  void prepare(std::uint64_t number) override {
    publisher_->loan()
        .and_then([&](auto& sample) {
          sample->number = number;
          sample_.emplace(std::move(sample));
        })
        .or_else([](auto&) { throw std::runtime_error("iceoryx: no sample to loan"); });
  }
  void tell() override {
    sample_->publish();
    sample_.reset();
  }
  // Both subscribers get every number; the one that is not asked lets it go later.
  [[nodiscard]] std::uint64_t hear(bool spins) override {
    Subscriber& asked = spins ? *spinning_ : *sleeping_;
    Subscriber& other = spins ? *sleeping_ : *spinning_;
    other.releaseQueuedData();
    for (;;) {
      std::uint64_t number = 0;
      if (!spins) (void)wait_set_->wait();
      asked.take().and_then([&](const auto& sample) { number = sample->number; });
      if (number > last_) return last_ = number;
      detail::cpu_relax();
    }
  }

 private:
  using Subscriber = iox::popo::Subscriber<Message>;
  static iox::capro::ServiceDescription service() { return {"tenon", "bench", "wake"}; }
  static void join(const char* side) {
    const std::string name = std::string("tenon-bench-") + side + "-" + std::to_string(::getpid());
    iox::runtime::PoshRuntime::initRuntime(
        iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name.c_str()));
  }

  std::optional<iox::popo::Publisher<Message>> publisher_;
  std::optional<iox::popo::Sample<Message>> sample_;
  std::optional<Subscriber> spinning_;  // beside a WaitSet it would cost its writer a semaphore
  std::optional<Subscriber> sleeping_;
  std::uint64_t last_ = 0;
  std::optional<iox::popo::WaitSet<>> wait_set_;
};

}  // namespace

std::unique_ptr<WakePeer> make_wake_peer() { return std::make_unique<Iceoryx>(); }

}  // namespace tenon::bench
