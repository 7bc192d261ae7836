#include "bare_gloo.hpp"

#include <gloo/broadcast.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>

#include <chrono>
#include <string>
#include <vector>

#include "child.hpp"

namespace tenon::bench {
namespace {

// The same values under Gloo's interface.
class Values final : public ::gloo::rendezvous::Store {
 public:
  explicit Values(relay::Store& store) : store_(store) {}
  void set(const std::string& key, const std::vector<char>& data) override {
    store_.set(key, {data.data(), data.size()});
  }
  std::vector<char> get(const std::string& key) override {
    const std::string value = store_.get(key, detail::Deadline(kPatience));
    return {value.begin(), value.end()};
  }
  void wait(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) (void)get(key);
  }

 private:
  relay::Store& store_;
};

}  // namespace

BareGloo::BareGloo(const relay::Membership& membership) {
  auto device = ::gloo::transport::tcp::CreateDevice(
      ::gloo::transport::tcp::attr(membership.address.c_str()));
  auto context = std::make_shared<::gloo::rendezvous::Context>(membership.rank, membership.size);
  context->setTimeout(kPatience);
  Values values(*membership.store);
  context->connectFullMesh(values, device);
  context_ = std::move(context);
}

void BareGloo::broadcast(std::byte* data, std::size_t bytes) {
  ::gloo::BroadcastOptions options(context_);
  options.setOutput(reinterpret_cast<char*>(data), bytes);  // rank 0's is its input too
  options.setRoot(0);
  ::gloo::broadcast(options);
}

}  // namespace tenon::bench
