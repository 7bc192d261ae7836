// What is to be learned, and how: a contextual bandit, a softmax policy, REINFORCE.
//
// In each of 8 situations one of 10 arms pays 9 times out of 10, every other one 1 time out of 10.
// A policy that knows nothing earns 0.18 per pull, one that knows everything 0.9.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace rl {

inline constexpr std::size_t kContexts = 8;
inline constexpr std::size_t kArms = 10;
using Weights = std::array<float, kContexts * kArms>;  // row-major: one row of arms per context

struct Sample {
  std::uint32_t context;
  std::uint32_t arm;
  float reward;
};

// The same numbers everywhere, which the standard library's distributions do not promise.
class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  double uniform() { return static_cast<double>(engine_()) / 4294967296.0; }  // [0, 1)

 private:
  std::mt19937 engine_;
};

// Softmax over the arms of one context.
inline std::array<double, kArms> probabilities(const float* weights, std::size_t context) {
  std::array<double, kArms> p{};
  double sum = 0;
  for (std::size_t a = 0; a < kArms; ++a) sum += p[a] = std::exp(weights[context * kArms + a]);
  for (double& x : p) x /= sum;
  return p;
}

// The environment and one pull by the policy.
inline Sample pull(const float* weights, Random& random) {
  const auto context = static_cast<std::uint32_t>(random.uniform() * kContexts);
  const auto p = probabilities(weights, context);
  double left = random.uniform();
  std::uint32_t arm = 0;
  while (arm + 1 < kArms && left >= p[arm]) left -= p[arm++];
  const bool best = arm == (7 * context + 3) % kArms;
  return {context, arm, random.uniform() < (best ? 0.9 : 0.1) ? 1.0F : 0.0F};
}

inline double mean_reward(const std::vector<Sample>& samples) {
  double sum = 0;
  for (const Sample& s : samples) sum += s.reward;
  return sum / static_cast<double>(samples.size());
}

// One step of REINFORCE: along the gradient of log p(arm), by how much the reward beats the
// average.
inline void learn(Weights& weights, const std::vector<Sample>& samples, double rate) {
  const double baseline = mean_reward(samples);
  std::array<double, kContexts * kArms> gradient{};
  for (const Sample& s : samples) {
    const auto p = probabilities(weights.data(), s.context);
    for (std::size_t a = 0; a < kArms; ++a) {
      gradient[s.context * kArms + a] += (s.reward - baseline) * ((a == s.arm ? 1 : 0) - p[a]);
    }
  }
  const double scale = rate / static_cast<double>(samples.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] += static_cast<float>(scale * gradient[i]);
  }
}

}  // namespace rl
