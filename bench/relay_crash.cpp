// relay, part crash: what it costs the others when a receiver is lost in the middle of a version.
//
// One sender, two receivers on nodes of their own. In every round the trainer publishes a version
// and, when about half of it is on the wire, the next; an engine behind the receiver that stays
// alive says when it has the first. In every other round, at that half, the last receiver is lost:
// killed, or stopped, as a node is that hangs. A new one takes its place for the next round.
//
// Timed: from just before the first commit to the surviving engine's lease of that version or a
// newer one, and the trainer's second publish(), which the loss must not slow down. The engine
// compares the second version byte by byte, outside the time.
#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "child.hpp"
#include "payload.hpp"
#include "relay_nodes.hpp"
#include "relay_parts.hpp"

namespace tenon::bench {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMostRounds = 5;
constexpr Duration kDeadline = 5s;
constexpr unsigned kTrainer = 0, kSurvivor = 1, kVictim = 2;  // publications

enum Loss : std::size_t { killed, stopped, loss_count };
constexpr std::array<const char*, loss_count> kLosses{"one killed", "one stopped"};

struct Board {
  RelayBoard relay;
  ReceiverBoard survivor;
  ReceiverBoard victim;  // one after the other
  Turn victim_go;        // how many may have begun
  // The surviving engine.
  std::atomic<std::uint64_t> wanted{0};
  Turn turn, usable, done;
  std::uint64_t usable_at = 0;
  std::uint64_t wrong = 0;
};

class Crash {
 public:
  Crash(const Options& options, const std::string& rate, Report& report)
      : options_(options),
        report_(report),
        layout_(relayed_layout(options)),
        payload_(layout_),
        network_(3, rate) {}

  void run() {
    say("a receiver is lost, over " + network_.name());
    board_->relay.quiet = true;
    Family family;  // before the publisher, which has threads
    start(family);
    Publisher publisher =
        Publisher::create(options_.publication(kTrainer), layout_, {.mode = Mode::double_buffered});
    const auto check = [&] { family.check(); };
    board_->victim_go.set(1);
    board_->relay.group.await(1, {}, check);
    take_round(publisher, nullptr, check, warm_up_);
    for (std::size_t n = 0; n + 1 < victims_.size(); ++n) {
      take_round(publisher, nullptr, check, undisturbed_);
      take_round(
          publisher, [&] { lose(n, family); }, check, disturbed_[n % loss_count]);
      family.kill(victims_[n]);
      board_->victim_go.set(n + 2);  // the next one clears away what this one has left
      board_->victim.version.await(publisher.version(), {}, check);
    }
    board_->relay.ended = true;
    family.join();
    add_rows();
  }

 private:
  /// Of rounds of one kind.
  struct Times {
    Samples version, publish;
  };

  void start(Family& family) {
    const std::string name = options_.publication(kTrainer);
    RelayBoard& relay = board_->relay;
    family.fork([&] { send_from(network_, name, {.expect = 2, .deadline = kDeadline}, relay); });
    family.fork([&] {
      receive_on(network_, 1, {.name = name, .as = options_.publication(kSurvivor)}, relay,
                 board_->survivor);
    });
    family.fork([this] { use(); });
    const std::size_t losses = options_.quick ? loss_count : loss_count * kMostRounds;
    for (std::size_t n = 0; n <= losses; ++n) {  // the last one ends well
      victims_.push_back(family.fork([&, n] {
        // Its turn comes when all before it are lost: how long that takes nobody knows.
        while (board_->victim_go.value < n + 1) std::this_thread::sleep_for(20ms);
        receive_on(network_, 2, {.name = name, .as = options_.publication(kVictim)}, relay,
                   board_->victim);
      }));
    }
  }

  template <class Check>
  void take_round(Publisher& publisher, const std::function<void()>& halfway, const Check& check,
                  Times& times) {
    payload_.stamp(publisher.version() + 1);
    board_->wanted = publisher.version() + 1;
    board_->turn.set(++turn_);
    const std::uint64_t from = monotonic_ns();
    publisher.publish(payload_.sources());
    payload_.stamp(publisher.version() + 1);
    std::this_thread::sleep_for(half());
    if (halfway) halfway();
    const std::uint64_t second = monotonic_ns();
    publisher.publish(payload_.sources());
    times.publish.add_ns(second, monotonic_ns());
    board_->usable.await(turn_, {}, check);
    times.version.add_ns(from, board_->usable_at);
    board_->done.await(turn_, {}, check);
  }

  // Of the time that a version takes, as far as that is known.
  [[nodiscard]] Duration half() const {
    const Samples& known =
        undisturbed_.version.size() > 0 ? undisturbed_.version : warm_up_.version;
    return std::chrono::microseconds(static_cast<std::int64_t>(known.p50() / 2));
  }

  void lose(std::size_t n, Family& family) {
    if (n % loss_count == stopped)
      (void)::kill(victims_[n], SIGSTOP);
    else
      family.kill(victims_[n]);
  }

  // The engine behind the receiver that stays alive.
  void use() {
    Subscriber subscriber =
        Subscriber::attach(options_.publication(kSurvivor), {.deadline = kPatience});
    for (std::uint64_t turn = 1; !board_->relay.ended; ++turn) {
      while (!board_->relay.ended && board_->turn.value < turn) std::this_thread::sleep_for(1ms);
      if (board_->relay.ended) return;
      const std::uint64_t wanted = board_->wanted;
      (void)subscriber.wait(newer_than(wanted - 1), kPatience);
      board_->usable_at = monotonic_ns();
      board_->usable.set(turn);
      const Lease lease = subscriber.wait(newer_than(wanted), kPatience);
      board_->wrong += lease.version() == wanted + 1 ? 0U : 1U;
      board_->wrong += payload_.count_different(lease);
      board_->done.set(turn);
    }
  }

  void add_rows() {
    const auto add = [&](const char* kind, const Times& times, std::uint64_t wrong) {
      Row row{.name = "R11 " + network_.name() + ": version of the other, " + kind,
              .bytes = layout_.payload_bytes(),
              .tensors = layout_.size(),
              .samples = times.version,
              .wrong = wrong};
      report_.add(row);
      row.name = "R11 " + network_.name() + ": publish() meanwhile, " + kind;
      row.samples = times.publish;
      report_.add(row);
    };
    add("undisturbed", undisturbed_, board_->wrong);
    const double allowed_s = std::chrono::duration<double>(kDeadline).count() + 1;
    for (std::size_t loss = 0; loss < loss_count; ++loss) {
      add(kLosses[loss], disturbed_[loss], 0);
      const double cost = disturbed_[loss].version.at(1) - undisturbed_.version.p50();
      report_.add(Figure{network_.name() + ": " + kLosses[loss] + " costs the other, at most",
                         cost / 1e6, "s", at_most(allowed_s)});
      report_.add(Figure{network_.name() + ": publish(), " + kLosses[loss] + " / undisturbed",
                         disturbed_[loss].publish.p50() / undisturbed_.publish.p50(), ""});
    }
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Payload payload_;
  Network network_;
  Shared<Board> board_;
  std::vector<::pid_t> victims_;
  std::uint64_t turn_ = 0;
  Times warm_up_, undisturbed_;
  std::array<Times, loss_count> disturbed_;
};

}  // namespace

void measure_crash(const Options& options, const std::string& rate, Report& report) {
  Crash(options, rate, report).run();
}

}  // namespace tenon::bench
