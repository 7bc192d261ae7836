// Reinforcement learning in three processes: a trainer hands its policy to two rollout processes
// through Tenon after every step, and they send back what they experienced with it.
//
//   rl_loop NAME [--freeze]
//
// With --freeze the rollouts keep acting on version 1. The trainer learns all the same, but what
// the rollouts earn stays where it was: the reward rises only because the weights arrive.
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <vector>

#include "policy.hpp"

using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kSteps = 200;
constexpr std::uint32_t kRollouts = 2;
constexpr std::size_t kPulls =
    64;  // per rollout and version; 768 bytes, which a pipe takes at once
constexpr double kRate = 4;
constexpr auto kPatience = 20s;  // of every wait

struct Rollout {
  pid_t pid;
  int samples;  // read end of its pipe
};

void send(int to, const std::vector<rl::Sample>& samples) {
  const std::size_t bytes = samples.size() * sizeof(rl::Sample);
  if (::write(to, samples.data(), bytes) != static_cast<ssize_t>(bytes)) {
    throw std::runtime_error("sending samples: " + std::string(std::strerror(errno)));
  }
}

// Appends one rollout's samples.
void receive(int from, std::vector<rl::Sample>& samples) {
  const std::size_t before = samples.size();
  samples.resize(before + kPulls);
  auto* to = reinterpret_cast<char*>(samples.data() + before);
  for (std::size_t left = kPulls * sizeof(rl::Sample); left > 0;) {
    ::pollfd ready{from, POLLIN, 0};
    const int events =
        ::poll(&ready, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count()));
    if (events < 0 && errno == EINTR) continue;
    if (events <= 0) throw std::runtime_error("no samples from a rollout in time");
    const ssize_t n = ::read(from, to, left);
    if (n <= 0) throw std::runtime_error("a rollout left before its last samples");
    to += n;
    left -= static_cast<std::size_t>(n);
  }
}

// The rollout process: one batch of samples per version, acted out with that version's weights.
void roll_out(const std::string& name, std::uint32_t number, bool freeze, int to) {
  auto subscriber = tenon::Subscriber::attach(
      name, {.deadline = kPatience, .label = "rollout-" + std::to_string(number)});
  rl::Random random(number);
  std::vector<float> frozen;
  for (std::uint64_t version = 0; version < kSteps;) {
    tenon::Lease lease = subscriber.wait(tenon::newer_than(version), kPatience);
    version = lease.version();
    const tenon::View view = lease["policy.weight"];
    const auto* weights = reinterpret_cast<const float*>(view.data());  // where they are: no copy
    if (freeze) {
      if (frozen.empty()) frozen.assign(weights, weights + view.bytes() / sizeof(float));
      weights = frozen.data();
    }
    std::vector<rl::Sample> samples;
    for (std::size_t i = 0; i < kPulls; ++i) samples.push_back(rl::pull(weights, random));
    lease.release();
    send(to, samples);
  }
}

Rollout start_rollout(const std::string& name, std::uint32_t number, bool freeze) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0)
    throw std::runtime_error("pipe: " + std::string(std::strerror(errno)));
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error("fork: " + std::string(std::strerror(errno)));
  if (pid != 0) {
    ::close(ends[1]);
    return {pid, ends[0]};
  }
  int status = 1;
  try {
    ::close(ends[0]);
    roll_out(name, number, freeze, ends[1]);
    status = 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rollout %u: %s\n", number, e.what());
  }
  ::_exit(status);
}

// Returns the mean reward of the first and of the last tenth of the training.
std::pair<double, double> train(const std::string& name, const std::vector<Rollout>& rollouts) {
  rl::Weights weights{};  // all arms alike
  const std::vector<tenon::Parameter> parameters = {
      {.name = "policy.weight", .dtype = tenon::Dtype::f32, .shape = {rl::kContexts, rl::kArms}}};
  const std::vector<tenon::Source> sources = {{.data = weights.data()}};
  auto publisher = tenon::Publisher::create(name, tenon::plan(parameters), {.label = "trainer"});

  double first = 0;
  double last = 0;
  for (std::uint64_t step = 1; step <= kSteps; ++step) {
    (void)publisher.publish(sources, {.deadline = kPatience, .require = step == 1 ? kRollouts : 0});
    std::vector<rl::Sample> samples;
    for (const Rollout& r : rollouts) receive(r.samples, samples);
    const double reward = rl::mean_reward(samples);
    if (step <= kSteps / 10) first += reward / (kSteps / 10);
    if (step > kSteps - kSteps / 10) last += reward / (kSteps / 10);
    if (step % (kSteps / 10) == 0)
      std::printf("step %3llu  reward %.3f\n", static_cast<unsigned long long>(step), reward);
    rl::learn(weights, samples, kRate);
  }
  return {first, last};
}

// True if all of them did their work. Bounded, as each of their waits is.
bool all_finished_well(const std::vector<Rollout>& rollouts) {
  bool well = true;
  for (const Rollout& r : rollouts) {
    ::close(r.samples);
    int status = 0;
    well = ::waitpid(r.pid, &status, 0) == r.pid && WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
           well;
  }
  return well;
}

}  // namespace

int main(int argc, char** argv) {
  const bool freeze = argc == 3 && argv[2] == std::string_view("--freeze");
  if (argc != 2 && !freeze) {
    std::fprintf(stderr, "usage: rl_loop NAME [--freeze]\n");
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);  // a trainer that is gone is an error of send()
  std::vector<Rollout> rollouts;
  int status = 1;
  try {
    // Forked first: a child shares nothing of Tenon with its parent.
    for (std::uint32_t i = 1; i <= kRollouts; ++i)
      rollouts.push_back(start_rollout(argv[1], i, freeze));
    const auto [first, last] = train(argv[1], rollouts);
    std::printf("reward %.3f -> %.3f (%s)\n", first, last,
                freeze ? "frozen at version 1" : "weights flow");
    status = 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "trainer: %s\n", e.what());
  }
  return all_finished_well(rollouts) ? status : 1;
}
