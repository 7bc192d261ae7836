// wake: from a version's commit to a subscriber that has it, while that spins and while it sleeps.
//
// A version of a small publication (146 parameters in the buckets of llama-3.2-1b, one of them
// rewritten each time) is prepared up to its commit. The publisher reads the clock, then calls
// commit(); the subscriber reads the clock when its wait() has returned, that is with the lease in
// hand. The difference is the row "commit to lease": it contains writing the log records, the store
// that publishes, the wake, noticing it, pinning the version and reading its records. commit() has
// a row of its own. The clock is CLOCK_MONOTONIC, the same for both processes.
//
// Each round also hands over a bare word in the same way: the publisher stores it (and calls
// FUTEX_WAKE), the other process spins on it (or sleeps in FUTEX_WAIT) and reads the clock. Between
// telling that it is about to wait and the commit the publisher keeps its processor busy for a
// random time: short while the subscriber spins, long enough for it to fall asleep otherwise.
// A message of 8 bytes through a pair of Unix sockets and a condition variable in shared memory (as
// hand-offs use that do not mind a dead holder of its mutex) take their turns too.
// Subscriber and publisher are pinned to a processor each, after attaching: a process that may run
// on one processor only does not spin.
#include <fmt/format.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <utility>
#include <vector>

#include "bare_futex.hpp"
#include "child.hpp"
#include "payload.hpp"
#include "report.hpp"
#include "wake_peer.hpp"

namespace tenon::bench {
namespace {

using namespace std::chrono_literals;

constexpr const char* kModel = "llama-3.2-1b";
constexpr std::uint64_t kDivisor = 24;
constexpr std::size_t kWarmUp = 50;
constexpr std::size_t kRounds = 2000;
constexpr auto kSpinGap = std::pair{20us, 60us};
constexpr auto kSleepGap = std::pair{300us, 600us};
constexpr auto kForever = 60s;  // of spinning: longer than any round

enum Kind : std::size_t {
  spinning_tenon,
  spinning_word,
  sleeping_tenon,
  sleeping_word,
  socket_message,
  condition,
  spinning_peer,
  sleeping_peer,
  kind_count
};
constexpr std::array<const char*, kind_count> kNames{"R14 commit to lease, reader spins",
                                                     "R14 bare word, reader spins",
                                                     "R14 commit to lease, reader sleeps",
                                                     "R14 bare futex, reader sleeps",
                                                     "R14 socket message, reader sleeps",
                                                     "R14 condition variable, reader sleeps",
                                                     "R14 {}, reader spins",
                                                     "R14 {}, reader sleeps"};

constexpr bool spins(Kind kind) {
  return kind == spinning_tenon || kind == spinning_word || kind == spinning_peer;
}

struct Board {
  Turn attached;
  Turn armed;  // the reader is about to wait
  Turn done;   // and has what it waited for
  alignas(64) std::atomic<std::uint32_t> word{0};
  alignas(64)::pthread_mutex_t mutex;
  ::pthread_cond_t condition;
  std::uint64_t value = 0;  // behind the mutex
  alignas(64) std::uint64_t woke_at = 0;
  std::array<std::uint64_t, kind_count> wrong{};
};

class WakeBench {
 public:
  WakeBench(const Options& options, Report& report)
      : options_(options),
        report_(report),
        layout_(plan_with_buckets(scaled_model(kModel, kDivisor), natural_buckets(kModel))),
        payload_(layout_) {
    report_.set_option("model", kModel);
    report_.set_option("dimensions_divided_by", kDivisor);
    report_.set_option("buckets", layout_.bucket_count());
    report_.set_option("spin", "unbounded / 0");
    if (usable_cpus().size() < 2) {
      report_.note(
          "one processor: nothing can spin for another process, so no row of that is shown");
      kinds_ = {sleeping_tenon, sleeping_word, socket_message, condition};
      turn_spin_ = Duration::zero();
    }
    if (peer_ != nullptr) {
      report_.set_option("peer", peer_->name());
      if (kinds_.front() == spinning_tenon) kinds_.push_back(spinning_peer);
      kinds_.push_back(sleeping_peer);
    }
    share_condition();
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets_.data()) != 0)
      throw SystemError(errno, "making a pair of sockets");
  }
  WakeBench(const WakeBench&) = delete;
  WakeBench& operator=(const WakeBench&) = delete;
  ~WakeBench() {
    for (const int fd : sockets_) ::close(fd);
  }

  void run() {
    Family family;
    family.fork([this] { read(); });
    Publisher publisher =
        Publisher::create(options_.publication(0), layout_, {.mode = Mode::in_place, .threads = 1});
    publisher.publish(payload_.sources());
    if (peer_ != nullptr) peer_->open_writer();
    board_->attached.await(1, 0us, [&] { family.check(); });
    if (options_.pin) pin_to(0);
    std::vector<Row> rows(kind_count);
    Row commit{.name = "commit() alone, reader spins", .tensors = layout_.size()};
    Row commit_sleeping{.name = "commit() alone, reader sleeps", .tensors = layout_.size()};
    const std::size_t warm_up = options_.warm_up(kWarmUp);
    for (std::size_t i = 0; i < warm_up + rounds(); ++i) {
      if (i % 500 == 0) say("wake: round " + std::to_string(i));
      for (const Kind kind : kinds_) {
        const auto [from, back] = hand_over(publisher, family, kind);
        if (i < warm_up) continue;
        rows[kind].samples.add_ns(from, board_->woke_at);
        if (kind == spinning_tenon) commit.samples.add_ns(from, back);
        if (kind == sleeping_tenon) commit_sleeping.samples.add_ns(from, back);
      }
    }
    family.join();
    for (const Kind kind : kinds_) {
      rows[kind].name = fmt::format(fmt::runtime(kNames[kind]), peer_ ? peer_->name() : "");
      rows[kind].wrong = board_->wrong[kind];
      if (kind == spinning_tenon || kind == sleeping_tenon) rows[kind].tensors = layout_.size();
      report_.add(rows[kind]);
    }
    if (commit.samples.size() > 0) report_.add(commit);
    report_.add(commit_sleeping);
    add_figures(rows);
  }

 private:
  [[nodiscard]] std::size_t rounds() const { return options_.samples(kRounds); }

  // The publisher's half. Returns the time before and after.
  std::pair<std::uint64_t, std::uint64_t> hand_over(Publisher& publisher, Family& family,
                                                    Kind kind) {
    const bool tenon = kind == spinning_tenon || kind == sleeping_tenon;
    const std::uint64_t turn = ++turn_;
    std::optional<Publisher::Update> update;
    if (tenon) update.emplace(prepare(publisher));
    if (kind == spinning_peer || kind == sleeping_peer) peer_->prepare(turn);
    board_->armed.await(turn, turn_spin_, [&] { family.check(); });
    const auto [least, most] = spins(kind) ? kSpinGap : std::pair(kSleepGap);
    busy_wait(std::chrono::nanoseconds(std::uniform_int_distribution<std::int64_t>(
        Duration(least).count(), Duration(most).count())(random_)));
    const std::uint64_t from = monotonic_ns();
    if (tenon)
      update->commit();
    else
      tell(kind, turn);
    const std::uint64_t back = monotonic_ns();
    board_->done.await(turn, turn_spin_, [&] { family.check(); });
    return {from, back};
  }

  // One word to the reader, in the other ways.
  void tell(Kind kind, std::uint64_t turn) {
    if (kind == spinning_peer || kind == sleeping_peer) {
      peer_->tell();
    } else if (kind == socket_message) {
      if (::send(sockets_[0], &turn, sizeof(turn), 0) != sizeof(turn))
        throw SystemError(errno, "sending a message");
    } else if (kind == condition) {
      ::pthread_mutex_lock(&board_->mutex);
      board_->value = turn;
      ::pthread_mutex_unlock(&board_->mutex);
      ::pthread_cond_broadcast(&board_->condition);
    } else {
      board_->word.store(static_cast<std::uint32_t>(turn), std::memory_order_release);
      if (kind == sleeping_word) bare_wake(board_->word);
    }
  }

  void share_condition() {
    ::pthread_mutexattr_t mutex;
    ::pthread_mutexattr_init(&mutex);
    ::pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    ::pthread_mutex_init(&board_->mutex, &mutex);
    ::pthread_mutexattr_destroy(&mutex);
    ::pthread_condattr_t condition;
    ::pthread_condattr_init(&condition);
    ::pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    ::pthread_cond_init(&board_->condition, &condition);
    ::pthread_condattr_destroy(&condition);
  }

  // A version with new bytes in its last bucket.
  Publisher::Update prepare(Publisher& publisher) {
    Publisher::Update update = publisher.begin();
    payload_.stamp(update.version());
    const std::size_t last = layout_.bucket_count() - 1;
    for (std::size_t b = 0; b < last; ++b) update.keep(b);
    const auto [first, end] = layout_.bucket_parameters(last);
    update.put(last, std::span(payload_.sources()).subspan(first, end - first));
    return update;
  }

  // The reader's half.
  void read() {
    AttachOptions options;
    options.deadline = kPatience;
    options.spin = kForever;
    Subscriber spinner = Subscriber::attach(options_.publication(0), options);
    options.spin = 0s;
    Subscriber sleeper = Subscriber::attach(options_.publication(0), options);
    if (peer_ != nullptr) peer_->open_reader();
    std::uint64_t version = spinner.wait(newest(), kPatience).version();
    if (options_.pin) pin_to(1);
    board_->attached.set(1);
    const std::size_t total = options_.warm_up(kWarmUp) + rounds();
    for (std::size_t i = 0; i < total; ++i) {
      for (const Kind kind : kinds_) {
        const std::uint64_t turn = ++turn_;
        if (kind == spinning_tenon || kind == sleeping_tenon) {
          version = read_version(kind == spinning_tenon ? spinner : sleeper, version, turn);
          board_->wrong[kind] += wrong_;
        } else if (kind == spinning_word || kind == sleeping_word) {
          read_word(turn, kind == spinning_word);
        } else {
          board_->wrong[kind] += hear(kind, turn) == turn ? 0U : 1U;
        }
        board_->done.set(turn);
      }
    }
  }

  void read_word(std::uint64_t turn, bool spinning) {
    const std::uint32_t before = board_->word.load(std::memory_order_relaxed);
    board_->armed.set(turn);
    while (board_->word.load(std::memory_order_acquire) == before) {
      if (spinning) {
        detail::cpu_relax();
      } else {
        bare_wait(board_->word, before);
      }
    }
    board_->woke_at = monotonic_ns();
  }

  std::uint64_t hear(Kind kind, std::uint64_t turn) {
    std::uint64_t heard = 0;
    board_->armed.set(turn);
    if (kind == spinning_peer || kind == sleeping_peer) {
      heard = peer_->hear(spins(kind));
    } else if (kind == socket_message) {
      (void)::recv(sockets_[1], &heard, sizeof(heard), 0);
    } else {
      ::pthread_mutex_lock(&board_->mutex);
      while (board_->value < turn) ::pthread_cond_wait(&board_->condition, &board_->mutex);
      heard = board_->value;
      ::pthread_mutex_unlock(&board_->mutex);
    }
    board_->woke_at = monotonic_ns();
    return heard;
  }

  std::uint64_t read_version(Subscriber& subscriber, std::uint64_t version, std::uint64_t turn) {
    board_->armed.set(turn);
    const Lease lease = subscriber.wait(newer_than(version), kForever);
    board_->woke_at = monotonic_ns();
    // The publisher stamped every source, but wrote the last bucket only.
    const std::size_t first = layout_.bucket_parameters(layout_.bucket_count() - 1).first;
    wrong_ = lease.version() == version + 1 ? 0 : 1;
    for (std::size_t i = first; i < layout_.size(); ++i) {
      wrong_ +=
          std::memcmp(lease[i].data(), payload_.sources()[i].data, lease[i].bytes()) == 0 ? 0U : 1U;
    }
    return lease.version();
  }

  void add_figures(const std::vector<Row>& rows) {
    const auto p50 = [&](Kind kind) { return rows[kind].samples.p50(); };
    if (kinds_.front() == spinning_tenon) {
      report_.add(
          Figure{"commit to lease while spinning, p50", p50(spinning_tenon), "us", at_most(2)});
      report_.add(Figure{"spinning: commit to lease / bare word, p50",
                         p50(spinning_tenon) / p50(spinning_word), ""});
    }
    const auto against_peer = [&](Kind tenon, Kind peer, const char* how, double most) {
      if (std::find(kinds_.begin(), kinds_.end(), peer) == kinds_.end()) return;
      report_.add(Figure{fmt::format("{}: commit to lease / {}, p50", how, peer_->name()),
                         p50(tenon) / p50(peer), "", at_most(most)});
    };
    against_peer(spinning_tenon, spinning_peer, "spinning", 0.5);
    against_peer(sleeping_tenon, sleeping_peer, "asleep", 1.1);
    report_.add(Figure{"asleep: commit to lease / socket, p50",
                       p50(sleeping_tenon) / p50(socket_message), ""});
    report_.add(Figure{"asleep: commit to lease / condition variable, p50",
                       p50(sleeping_tenon) / p50(condition), ""});
    report_.add(Figure{"asleep: commit to lease / bare futex, p50",
                       p50(sleeping_tenon) / p50(sleeping_word), "", at_most(1.3)});
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Payload payload_;
  std::vector<Kind> kinds_{spinning_tenon, spinning_word,  sleeping_tenon,
                           sleeping_word,  socket_message, condition};
  Duration turn_spin_ = 1s;  // taking turns must not put anybody to sleep
  std::unique_ptr<WakePeer> peer_ = make_wake_peer();
  std::array<int, 2> sockets_{-1, -1};
  Shared<Board> board_;
  std::mt19937_64 random_{1};
  std::uint64_t turn_ = 0;   // each process counts for itself
  std::uint64_t wrong_ = 0;  // in the version just read
};

}  // namespace

nlohmann::json run_wake(const Options& options) {
  Report report("wake", options);
  WakeBench(options, report).run();
  return std::move(report).json();
}

}  // namespace tenon::bench
