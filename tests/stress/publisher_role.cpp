// A trainer: creates publications one after another, in any mode, and publishes versions, some of
// which it aborts.
#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <support/memory.hpp>
#include <tenon/publisher.hpp>

#include "content.hpp"
#include "role.hpp"

namespace tenon::stress {
namespace {

using namespace std::chrono_literals;
using test::Bytes;

constexpr auto kPublish = 2s;       // for subscribers to let go
constexpr auto kLongDead = 1500ms;  // a publisher that waits looks every 100 ms
constexpr unsigned kStuck = 3;      // deadlines passed in succession with nobody to blame
constexpr auto kCreate = 10s;

class Trainer {
 public:
  explicit Trainer(Role& role)
      : role_(role),
        identity_{role.random.next(), role.options.life, role.random.chance(50)},
        mode_(role.options.mode.value_or(static_cast<Mode>(role.random.between(1, 3)))),
        content_(plan(parameters(static_cast<unsigned>(role.random.below(kVariants))),
                      {.bucket_bytes = 16384, .metadata = prepared().to_text()}),
                 identity_.nonce),
        publication_(create()),
        instance_(inspect(role.name()).instance) {
    ++role_.board.created;
    for (std::size_t i = 0; i < layout().size(); ++i)
      memory_.emplace_back(role.options.memory, layout()[i].bytes);
    role_.detail(fmt::format("created {} instance {} mode {}", role.name(), instance_,
                             tenon::name_of(mode_)));
  }

  void step() {
    const std::uint64_t began = now_ns();
    try {
      if (role_.random.chance(12)) {
        abort_one();
      } else {
        publish_one();
        note_freed(began);
      }
      stuck_ = 0;
    } catch (const Error& e) {
      known_ = false;
      role_.refused(e, {Errc::DeadlinePassed}, "publishing");
      if (e.code() == Errc::DeadlinePassed) check_stuck(began, e.what());
    }
  }

  void close() {
    const Role::During during(role_, Doing::closing, 4s);
    publication_->close();
    check_left_nothing();
    publication_.reset();
    check_unmapped();
  }

 private:
  [[nodiscard]] const Layout& layout() const noexcept { return content_.layout(); }
  // Checksums are of whole versions.
  const Identity& prepared() {
    if (mode_ == Mode::streaming) identity_.checksums = false;
    return identity_;
  }

  std::optional<Publisher> create() {
    const Role::During during(role_, Doing::creating, kCreate);
    return Publisher::create(role_.name(), layout(),
                             {.memory = {role_.options.memory, 0},
                              .mode = mode_,
                              .label = "chaos",
                              .deadline = kCreate,
                              .threads = static_cast<unsigned>(role_.random.between(1, 2)),
                              .checksums = identity_.checksums});
  }

  void publish_one() {
    const PublishOptions options{.deadline = kPublish};
    const Role::During during(role_, Doing::publishing, kPublish);
    const std::uint64_t expected = committed_ + 1;
    std::uint64_t got = 0;
    // The number is only known beforehand when nothing was aborted since.
    if (known_ && role_.random.chance(60)) {
      got = publication_->publish(sources(expected), options);
      if (got != expected)
        role_.problem(role_.board.wrong_version,
                      fmt::format("published version {} as {}", expected, got));
    } else {
      auto update = publication_->begin(options);
      write_all(update);
      got = update.commit();
    }
    if (got <= committed_)
      role_.problem(role_.board.wrong_version, fmt::format("version {} after {}", got, committed_));
    committed_ = got;
    known_ = true;
    if (role_.random.chance(50)) publication_->wait_current(kPublish);
    ++role_.board.published;
    role_.detail(fmt::format("published {}", got));
  }

  std::vector<Source> sources(std::uint64_t version) {
    std::vector<Source> all;
    for (std::size_t i = 0; i < layout().size(); ++i) all.push_back(source(i, version, false));
    return all;
  }
  Source source(std::size_t i, std::uint64_t version, bool spoilt) {
    const bool same = Content::is_unchanged(layout()[i].bucket, committed_, version);
    if (!layout().tied_to(i)) memory_[i].upload(content_.bytes(i, version, spoilt));
    return {.data = memory_[i].data(), .bytes = layout()[i].bytes, .unchanged = same && !spoilt};
  }

  void write_all(Publisher::Update& update) {
    for (std::size_t b = 0; b < layout().bucket_count(); ++b) write(update, b, false);
  }
  void write(Publisher::Update& update, std::size_t b, bool spoilt) {
    const auto [first, last] = layout().bucket_parameters(b);
    if (role_.random.chance(30)) {
      std::byte* slot = update.open(b);
      for (std::size_t i = first; i < last; ++i) {
        if (layout().tied_to(i)) continue;
        Bytes::put(role_.options.memory, slot + layout()[i].offset,
                   content_.bytes(i, update.version(), spoilt));
      }
      update.seal(b);
      return;
    }
    std::vector<Source> all;
    for (std::size_t i = first; i < last; ++i) all.push_back(source(i, update.version(), spoilt));
    update.put(b, all);
  }

  // Half a version of other bytes than that version may have.
  void abort_one() {
    const Role::During during(role_, Doing::aborting, kPublish);
    auto update = publication_->begin({.deadline = kPublish});
    const std::uint64_t half = role_.random.below(layout().bucket_count() + 1);
    for (std::size_t b = 0; b < half; ++b) write(update, b, true);
    update.abort();
    known_ = known_ && mode_ != Mode::streaming;
    ++role_.board.aborted;
    role_.detail("aborted a version");
  }

  template <class Use>
  void for_subscribers(Use use) {
    for (unsigned i = kPublishers; i < kPublishers + kSubscribers; ++i)
      if (role_.board.actors[i].name == role_.index) use(role_.board.actors[i]);
  }

  // In place everybody must let go. If a holder was killed while this waited and nobody stood
  // still, it was (at most) that one that it waited for.
  void note_freed(std::uint64_t began) {
    if (mode_ != Mode::in_place || role_.me.stood_still_since(began)) return;
    std::uint64_t last = 0;
    bool clear = true;
    for_subscribers([&](const Actor& a) {
      const bool killed = a.killed_at > began && a.killed_holding != 0;
      if (killed) last = std::max(last, a.killed_at.load());
      clear = clear && (killed || !a.stood_still_since(began));
    });
    const std::uint64_t now = now_ns();
    if (clear && last != 0 && now > last) role_.board.freed.add(now - last);
  }

  // A slow subscriber excuses a passed deadline. A long dead one does not; nor does nobody, again
  // and again.
  void check_stuck(std::uint64_t began, const char* what) {
    if (role_.me.stood_still_since(began)) return;
    bool excused = false;
    bool by_the_dead = false;
    for_subscribers([&](const Actor& a) {
      excused = excused || a.stood_still_since(began);
      by_the_dead = by_the_dead || (now_ns() > a.killed_at + ns(kLongDead) && holds(a.killed_pid));
    });
    stuck_ = excused ? 0 : stuck_ + 1;
    if (by_the_dead) role_.problem(role_.board.stuck, fmt::format("stuck on the dead: {}", what));
    if (stuck_ == kStuck) role_.problem(role_.board.stuck, fmt::format("stuck: {}", what));
  }
  [[nodiscard]] bool holds(std::uint64_t pid) const {
    const auto all = publication_->subscribers();
    return std::any_of(all.begin(), all.end(),
                       [&](const SubscriberInfo& s) { return s.pid == pid && s.holds != 0; });
  }

  void check_left_nothing() {
    const std::string slot = "/dev/shm/" + detail::slot_prefix(::geteuid()) + instance_ + ".0";
    if (::access(slot.c_str(), F_OK) == 0)
      role_.problem(role_.board.leaked_segments, "closing left " + slot);
  }
  void check_unmapped() {
    const unsigned mapped = mappings_of_publications();
    if (mapped != 0)
      role_.problem(role_.board.leaked_mappings, fmt::format("{} mappings after closing", mapped));
  }

  Role& role_;
  Identity identity_;
  Mode mode_;
  Content content_;
  std::optional<Publisher> publication_;
  std::string instance_;
  std::vector<Bytes> memory_;
  std::uint64_t committed_ = 0;
  bool known_ = true;  ///< the next version's number
  unsigned stuck_ = 0;
};

void publish_some(Role& role) {
  Trainer trainer(role);
  for (std::uint64_t left = role.random.between(10, 400); left > 0 && !role.should_leave();
       --left) {
    trainer.step();
    role.sleep_up_to_us(role.random.chance(10) ? 30'000 : 6'000);
  }
  trainer.close();
}

}  // namespace

int run_publisher(Role& role) {
  while (!role.should_leave()) {
    try {
      publish_some(role);
    } catch (const Error& e) {
      // The one before is dying still, or a cleaner is at it.
      role.refused(e, {Errc::NameInUse, Errc::DeadlinePassed}, "creating");
      role.sleep_us(5000);
    }
  }
  return 0;
}

}  // namespace tenon::stress
