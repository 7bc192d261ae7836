// iceoryx as the peer of `wake`: a sample loaned, written, published; taken by a reader that polls,
// or that sleeps in a WaitSet. Its daemon, iox-roudi, must run (scripts/bench --peers starts it).
#include <unistd.h>

#include <iceoryx_posh/popo/publisher.hpp>
#include <iceoryx_posh/popo/subscriber.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <tenon/detail/wait.hpp>

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
    subscriber_.emplace(service());
    wait_set_.emplace();
    if (wait_set_->attachState(*subscriber_, iox::popo::SubscriberState::HAS_DATA).has_error())
      throw std::runtime_error("iceoryx: attaching the subscriber to a WaitSet");
  }
  void tell(std::uint64_t number) override {
    publisher_->loan()
        .and_then([&](auto& sample) {
          sample->number = number;
          sample.publish();
        })
        .or_else([](auto&) { throw std::runtime_error("iceoryx: no sample to loan"); });
  }
  [[nodiscard]] std::uint64_t hear(bool spins) override {
    for (;;) {
      std::uint64_t number = 0;
      if (!spins) (void)wait_set_->wait();
      subscriber_->take().and_then([&](const auto& sample) { number = sample->number; });
      if (number != 0) return number;
      detail::cpu_relax();
    }
  }

 private:
  static iox::capro::ServiceDescription service() { return {"tenon", "bench", "wake"}; }
  static void join(const char* side) {
    const std::string name = std::string("tenon-bench-") + side + "-" + std::to_string(::getpid());
    iox::runtime::PoshRuntime::initRuntime(
        iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name.c_str()));
  }

  std::optional<iox::popo::Publisher<Message>> publisher_;
  std::optional<iox::popo::Subscriber<Message>> subscriber_;
  std::optional<iox::popo::WaitSet<>> wait_set_;
};

}  // namespace

std::unique_ptr<WakePeer> make_wake_peer() { return std::make_unique<Iceoryx>(); }

}  // namespace tenon::bench
