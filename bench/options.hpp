// What a scenario is told, and what all scenarios have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace tenon::bench {

struct Options {
  std::string model = "llama-3.2-1b";     ///< gather and handoff; attach and adopt name theirs
  std::optional<std::uint32_t> layers{};  ///< of the model; default: what the scenario says
  bool pin = true;           ///< give publisher and reader a processor each where that is measured
  std::uint64_t shrink = 1;  ///< GPU and relay rows: every dimension of the model is divided by
                             ///< this (sizes: the bytes)
  std::string rate = "2gbit";    ///< relay and reduce: of each node's cable, as tc has it; 0: any
  std::optional<int> device{};   ///< GPU rows: ordinal of the GPU; none: host memory
  std::uint64_t gpu_memory = 0;  ///< free bytes of that GPU before the scenario
  bool quick = false;            ///< a handful of samples, to see that everything runs; no result
  std::string name_prefix{};     ///< of every publication made, so that leftovers can be found

  /// Timed samples to take: what the scenario asks for, or next to none.
  [[nodiscard]] std::size_t samples(std::size_t wanted) const noexcept {
    return quick ? (wanted < 1000 ? 3 : 50) : wanted;
  }
  [[nodiscard]] std::size_t warm_up(std::size_t wanted) const noexcept {
    return quick ? 1 : wanted;
  }
  /// Name of the k-th publication that is open at the same time, k < kPublications.
  [[nodiscard]] std::string publication(unsigned k) const {
    return name_prefix + "." + std::to_string(k);
  }
};

inline constexpr unsigned kPublications = 4;

// The scenarios. Each runs in a process of its own that has no other threads, and returns a Report
// as JSON.
nlohmann::json run_gather(const Options& options);
nlohmann::json run_attach(const Options& options);
nlohmann::json run_wake(const Options& options);
nlohmann::json run_handoff(const Options& options);
nlohmann::json run_handles(const Options& options);
nlohmann::json run_sweep(const Options& options);
nlohmann::json run_sizes(const Options& options);
nlohmann::json run_metadata(const Options& options);
nlohmann::json run_subscribers(const Options& options);
nlohmann::json run_relay(const Options& options);   // with TENON_RELAY
nlohmann::json run_reduce(const Options& options);  // likewise

// The same on `options.device`, and what that is. Without a usable GPU they throw Error(NoDevice).
nlohmann::json describe_gpu(const Options& options);
nlohmann::json run_gpu_gather(const Options& options);
nlohmann::json run_gpu_handoff(const Options& options);
nlohmann::json run_gpu_handles(const Options& options);
nlohmann::json run_gpu_sizes(const Options& options);
nlohmann::json run_gpu_subscribers(const Options& options);
nlohmann::json run_gpu_relay(const Options& options);  // with TENON_RELAY

}  // namespace tenon::bench
