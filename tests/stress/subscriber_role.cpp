// An engine: attaches, reads versions by lease or by load plan, and believes nothing: every byte is
// compared with what the version it is told must hold.
#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <support/memory.hpp>
#include <tenon/subscriber.hpp>

#include "content.hpp"
#include "role.hpp"

namespace tenon::stress {
namespace {

using namespace std::chrono_literals;
using test::Bytes;

constexpr auto kAttach = 1s;
constexpr auto kUnnoticed = 5s;  // a dead publisher, by somebody who waits for it

/// The engine's own storage for every parameter.
struct Storage {
  Storage(const Content& content, MemoryKind kind) : plan(content.layout()) {
    for (std::size_t i = 0; i < content.layout().size(); ++i) {
      const Placement place = content.layout()[i];
      bytes.emplace_back(kind, place.bytes + 1);
      plan.into(place.name, bytes[i].data());
    }
  }
  LoadPlan plan;
  std::vector<Bytes> bytes;
};

class Engine {
 public:
  explicit Engine(Role& role)
      : role_(role),
        subscriber_(attach()),
        identity_(Identity::of(subscriber_->layout())),
        content_(subscriber_->layout(), identity_.nonce),
        storage_(content_, subscriber_->memory()) {
    ++role_.board.attached;
    role_.detail(fmt::format("attached to the instance of life {}", identity_.life));
  }

  /// One way or another, the next version.
  void step() {
    const auto timeout = role_.random.chance(10) ? 6s : 1s;
    const std::uint64_t began = now_ns();
    const std::uint64_t disturbed = role_.publication.disturbed;
    try {
      if (subscriber_->mode() == Mode::streaming || role_.random.chance(25))
        load(timeout);
      else
        lease(timeout);
    } catch (const Error& e) {
      if (e.code() == Errc::PublisherGone) note_gone(began);
      if (e.code() == Errc::DeadlinePassed) check_noticed();
      note_stall(began, disturbed, now_ns());
      throw;
    }
  }

  void detach() {
    const Role::During during(role_, Doing::detaching, 3s);
    held_.reset();
    role_.me.holds = 0;
    subscriber_.reset();
    const unsigned mapped = mappings_of_publications();
    if (mapped != 0)
      role_.problem(role_.board.leaked_mappings,
                    fmt::format("{} mappings after detaching", mapped));
#if TENON_TEST_SIM
    if (sim::open_handles() != 0)
      role_.problem(role_.board.leaked_mappings,
                    fmt::format("{} handles open after detaching", sim::open_handles()));
#endif
  }

 private:
  std::optional<Subscriber> attach() {
    const Role::During during(role_, Doing::attaching, kAttach);
    return Subscriber::attach(role_.name(), {.deadline = kAttach, .label = "chaos"});
  }

  // --- By lease ---

  void lease(std::chrono::nanoseconds timeout) {
    const std::uint64_t began = now_ns();
    const std::uint64_t disturbed = role_.publication.disturbed;
    {
      const Role::During during(role_, Doing::waiting, timeout);
      // An older lease may still be held: then this says ReleaseWanted if the publisher needs it.
      Lease next = subscriber_->wait(request(), timeout);
      held_ = std::move(next);
    }
    note_stall(began, disturbed, now_ns());
    role_.me.holds = held_->version();
    check_version(held_->version());
    check_bytes("just acquired");
    hold();
    check_bytes("held for a while");
    if (identity_.checksums && role_.random.chance(25)) check_sums();
    ++role_.board.read;
    if (role_.random.chance(10)) return;  // keeps it while it waits for the next
    release();
  }
  [[nodiscard]] VersionRequest request() {
    return role_.random.chance(5) ? exactly(last_ + 1) : newer_than(last_);
  }

  void hold() {
    const Role::During during(role_, Doing::holding, 1s);
    if (role_.random.chance(20)) {  // until the publisher asks for it
      for (int i = 0; i < 60 && !held_->wanted(); ++i) role_.sleep_us(500);
    } else {
      role_.sleep_up_to_us(role_.random.chance(20) ? 25'000 : 3'000);
    }
  }

  void release() {
#if TENON_TEST_CUDA
    if (subscriber_->memory() == MemoryKind::cuda && role_.random.chance(50)) {
      release_behind_copies();
      return;
    }
#endif
    held_.reset();
    role_.me.holds = 0;
  }

#if TENON_TEST_CUDA
  // What was enqueued before the release still reads the version released.
  void release_behind_copies() {
    const std::size_t i = role_.random.below(content_.layout().size());
    const View view = (*held_)[i];
    std::vector<std::byte> copy(view.bytes());
    const std::uint64_t version = held_->version();
    if (!copy.empty())
      tenon::detail::cuda::check(cudaMemcpyAsync(copy.data(), view.data(), copy.size(),
                                                 cudaMemcpyDefault, test::own_stream()),
                                 "cudaMemcpyAsync of a subscriber");
    held_->release(test::own_stream());
    held_.reset();
    role_.me.holds = 0;
    tenon::detail::cuda::check(cudaStreamSynchronize(test::own_stream()), "cudaStreamSynchronize");
    check(i, version, copy.data(), "read behind a release");
  }
#endif

  // All parameters, or a part of them that begins anywhere.
  void check_bytes(const char* when) {
    const Role::During during(role_, Doing::reading, 2s);
    const std::size_t size = content_.layout().size();
    const std::size_t first = role_.random.below(size);
    const std::size_t count = role_.random.chance(30) ? size : 1 + role_.random.below(size);
    for (std::size_t k = 0; k < count; ++k) {
      const std::size_t i = (first + k) % size;
      check_parameter(i, held_->version(), (*held_)[i].data(), when);
    }
  }
  void check_parameter(std::size_t i, std::uint64_t version, const std::byte* data,
                       const char* when) {
    if (subscriber_->memory() == MemoryKind::host) {
      check(i, version, data, when);
    } else {
      check(i, version, Bytes::get(MemoryKind::cuda, data, content_.layout()[i].bytes).data(),
            when);
    }
  }
  void check(std::size_t i, std::uint64_t version, const std::byte* data, const char* when) {
    role_.board.bytes_read += content_.layout()[i].bytes;
    if (content_.is_right(i, version, data)) return;
    role_.problem(role_.board.torn,
                  fmt::format("torn read: '{}' of version {} of the instance of life {}, {}, {}",
                              content_.layout()[i].name, version, identity_.life,
                              tenon::name_of(subscriber_->mode()), when));
  }
  void check_sums() {
    const Role::During during(role_, Doing::reading, 2s);
    for (const std::string& name : held_->verify())
      role_.problem(role_.board.torn, "torn read: checksum of '" + name + "'");
  }

  void check_version(std::uint64_t version) {
    if (version <= last_)
      role_.problem(role_.board.wrong_version, fmt::format("version {} after {}", version, last_));
    last_ = version;
  }

  // --- By load plan ---

  void load(std::chrono::nanoseconds timeout) {
    LoadPlan& plan = storage_.plan;
    held_.reset();  // load() takes a lease of its own
    role_.me.holds = 0;
    const std::uint64_t before = plan.version();
    const bool leave = role_.random.chance(20);
    try {
      const Role::During during(role_, Doing::loading, timeout);
      const std::uint64_t version =
          subscriber_->load(plan, timeout, leave ? AfterLoad::leave : AfterLoad::stay);
      if (version <= before)
        role_.problem(role_.board.wrong_version,
                      fmt::format("loaded {} after {}", version, before));
      last_ = std::max(last_, version);
    } catch (...) {
      check_state();
      throw;
    }
    check_state();
    ++role_.board.loaded;
    if (leave) {
      role_.sleep_up_to_us(10'000);
    } else if (role_.random.chance(10)) {
      const Role::During during(role_, Doing::pausing, 2s);
      subscriber_->pause();
    }
  }

  // The storage is one whole version, or says that it is not.
  void check_state() {
    const LoadPlan& plan = storage_.plan;
    if (plan.state() == LoadState::loading)
      role_.problem(role_.board.wrong_state, "a load ended in state loading");
    if (plan.state() != LoadState::loaded) return;
    const Role::During during(role_, Doing::reading, 2s);
    for (std::size_t i = 0; i < storage_.bytes.size(); ++i)
      check_parameter(i, plan.version(), storage_.bytes[i].data(), "loaded");
  }

  // --- Time ---

  [[nodiscard]] std::uint64_t killed_at() const noexcept {
    return role_.publication.killed_at(identity_.life);
  }
  // Only if it was waiting when the publisher was killed, and did not stand still itself.
  void note_gone(std::uint64_t began) {
    const std::uint64_t killed = killed_at();
    if (killed > began && !role_.me.stood_still_since(began))
      role_.board.gone.add(now_ns() - killed);
  }
  void check_noticed() {
    const std::uint64_t killed = killed_at();
    const std::uint64_t now = now_ns();
    if (killed == 0 || now < killed + ns(kUnnoticed) || role_.me.stood_still_since(killed)) return;
    role_.problem(role_.board.unnoticed,
                  fmt::format("the publisher of life {} has been dead for {:.1f} s, unnoticed",
                              identity_.life, static_cast<double>(now - killed) / 1e9));
  }
  // Only with a publisher that nothing befell, and that no subscriber that stands still holds up.
  void note_stall(std::uint64_t began, std::uint64_t disturbed, std::uint64_t now) {
    if (role_.publication.disturbed != disturbed) return;
    for (const Actor& a : role_.board.actors)
      if (a.name == role_.index && a.stood_still_since(began)) return;
    raise_to(role_.board.longest_stall, now - began);
  }

  Role& role_;
  std::optional<Subscriber> subscriber_;
  Identity identity_;
  Content content_;
  Storage storage_;
  std::optional<Lease> held_;
  std::uint64_t last_ = 0;
};

constexpr std::initializer_list<Errc> kOver{Errc::PublisherGone, Errc::Closed};
constexpr std::initializer_list<Errc> kGoesOn{Errc::DeadlinePassed, Errc::ReleaseWanted,
                                              Errc::NotRetained};

// False when this publication is over.
bool step(Role& role, Engine& engine) {
  try {
    engine.step();
    return true;
  } catch (const Error& e) {
    const bool over = std::find(kOver.begin(), kOver.end(), e.code()) != kOver.end();
    role.refused(e, over ? kOver : kGoesOn, "reading");
    return !over;
  }
}

void read_some(Role& role) {
  Engine engine(role);
  for (std::uint64_t left = role.random.between(1, 200); left > 0 && !role.should_leave(); --left)
    if (!step(role, engine)) break;
  engine.detach();
}

}  // namespace

int run_subscriber(Role& role) {
  while (!role.should_leave()) {
    try {
      read_some(role);
    } catch (const Error& e) {
      role.refused(e, {Errc::NotFound, Errc::PublisherGone, Errc::Closed, Errc::DeadlinePassed},
                   "attaching");
      role.sleep_us(2000);
    }
  }
  return 0;
}

}  // namespace tenon::stress
