// Small things that both ends of a relay need.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <memory>
#include <relay/engine.hpp>
#include <relay/group.hpp>
#include <relay/messages.hpp>
#include <string>
#include <tenon/relay.hpp>

namespace tenon::relay {

[[nodiscard]] inline std::unique_ptr<Engine> make_engine(EngineKind kind,
                                                         const Membership& membership, int device,
                                                         const detail::Deadline& deadline) {
  return kind == EngineKind::nccl ? make_nccl_engine(membership, device, deadline)
                                  : make_gloo_engine(membership, deadline);
}

/// Those of a store whose keys begin with a word of their own: another group's, in effect.
class PrefixedStore final : public Store {
 public:
  PrefixedStore(Store& store, std::string prefix) : store_(store), prefix_(std::move(prefix)) {}
  void set(std::string_view key, std::string_view value) override {
    store_.set(prefix_ + std::string(key), value);
  }
  [[nodiscard]] std::string get(std::string_view key, const detail::Deadline& deadline) override {
    return store_.get(prefix_ + std::string(key), deadline);
  }

 private:
  Store& store_;
  std::string prefix_;
};

/// The engine of the whole group, and at its first `senders` ranks, if several, one of these.
[[nodiscard]] inline Engines make_engines(EngineKind kind, const Membership& membership,
                                          int senders, int device,
                                          const detail::Deadline& deadline) {
  Engines engines{make_engine(kind, membership, device, deadline)};
  if (senders == 1 || membership.rank >= senders) return engines;
  PrefixedStore store(*membership.store, "senders/");
  Membership among = membership;
  among.size = senders;
  among.store = &store;
  engines.senders = make_engine(kind, among, device, deadline);
  return engines;
}

[[nodiscard]] inline std::string hexadecimal(const std::array<std::uint8_t, 16>& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

/// Of this machine, since it was started: two processes on one node read the same.
[[nodiscard]] inline std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

[[nodiscard]] inline Hello hello_of_this_process() {
  char host[256] = {};
  (void)::gethostname(host, sizeof(host) - 1);
  return {.library = TENON_VERSION,
          .host = host,
          .pid = static_cast<std::uint64_t>(::getpid()),
          .nccl = why_no_nccl().empty()};
}

/// What the publication that relays an instance has as its label.
[[nodiscard]] inline std::string relay_label(const std::string& instance, const std::string& more) {
  return "relay of " + instance.substr(0, 16) + (more.empty() ? "" : ": " + more);
}

/// A duration as the messages have it: not negative, and no more than they allow.
[[nodiscard]] inline std::uint64_t milliseconds(Duration duration) noexcept {
  constexpr std::chrono::hours kMost{24 * 365};
  const auto bounded = std::clamp<Duration>(duration, Duration::zero(), kMost);
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(bounded).count());
}

}  // namespace tenon::relay
