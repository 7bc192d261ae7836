// relay, part throughput: a version from publication to publication, against Gloo's own broadcast
// of the same bytes.
//
// Timed: a relay's row from just before the trainer's commit to the moment at which an engine of
// the other node has its lease; a bare row from the root's first broadcast to the end of the
// peer's last. The bare root sends out of the trainer's slots: a broadcast for each bucket, or for
// each parameter. Two relays hand on a publication each, one preparing buckets while others are on
// the wire, one doing one thing after the other. All four take turns within each round.
//
// Every page of every source gets new bytes before each round, and is looked at in each; the last
// round is compared byte by byte. All that is outside the time.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <vector>

#include "bare_gloo.hpp"
#include "child.hpp"
#include "machine.hpp"
#include "payload.hpp"
#include "relay_nodes.hpp"
#include "relay_parts.hpp"
#include "shared_store.hpp"

namespace tenon::bench {
namespace {

constexpr std::size_t kWarmUp = 2;
constexpr std::size_t kRounds = 9;

/// A relay, and its publications.
struct Course {
  const char* name;
  std::uint32_t ahead;
  unsigned here, there;
};
constexpr std::array<Course, 2> kCourses{
    {{"relay, pipelined", 2, 0, 1}, {"relay, one after the other", 0, 2, 3}}};
/// The bare broadcasts.
enum Way : std::uint64_t { by_bucket, by_parameter, way_count };
constexpr std::array<const char*, way_count> kWays{"Gloo broadcast per bucket",
                                                   "Gloo broadcast per parameter"};

/// The receiving end of a course, or of the bare broadcasts.
struct Seat {
  Turn armed;   // about to receive; the bare peer's
  Turn usable;  // has it
  Turn done;    // has checked it and let it go
  std::uint64_t usable_at = 0;
  std::uint64_t wrong = 0;
};

struct Board {
  std::array<RelayBoard, kCourses.size()> relays;
  std::array<ReceiverBoard, kCourses.size()> receivers;
  std::array<Seat, kCourses.size()> engines;
  Turn bare_go;
  std::uint64_t bare_from = 0;
  Seat bare_peer;
  std::array<std::uint64_t, way_count> bare_wrong{};
};

class Throughput {
 public:
  Throughput(const Options& options, const std::string& rate, Report& report)
      : options_(options),
        report_(report),
        layout_(relayed_layout(options)),
        payload_(layout_),
        network_(2, rate) {
    if (!network_.why_loopback().empty())
      report.note("nodes talk over loopback: " + network_.why_loopback());
  }

  void run() {
    say("relay over " + network_.name());
    Family family;  // before the publishers, which have threads
    start(family);
    std::vector<Publisher> publishers;
    for (const Course& course : kCourses)
      publishers.push_back(Publisher::create(options_.publication(course.here), layout_,
                                             {.mode = Mode::double_buffered}));
    for (RelayBoard& relay : board_->relays) relay.group.await(1, spin_, [&] { family.check(); });
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      payload_.stamp(round);
      for (std::size_t c = 0; c < kCourses.size(); ++c) hand_on(c, publishers[c], round, family);
      for (std::uint64_t way = 0; way < way_count; ++way) broadcast(way, round, family);
    }
    for (RelayBoard& relay : board_->relays) relay.ended = true;
    family.join();
    add_rows();
  }

 private:
  [[nodiscard]] std::size_t warm_up() const { return options_.warm_up(kWarmUp); }
  [[nodiscard]] std::size_t rounds() const { return warm_up() + options_.samples(kRounds); }

  void start(Family& family) {
    for (std::size_t c = 0; c < kCourses.size(); ++c) {
      const Course& course = kCourses[c];
      const std::string here = options_.publication(course.here);
      const std::string there = options_.publication(course.there);
      RelayBoard& relay = board_->relays[c];
      family.fork([&] { send_from(network_, here, {.expect = 1, .ahead = course.ahead}, relay); });
      family.fork([&] {
        receive_on(network_, 1, {.name = here, .as = there, .ahead = course.ahead}, relay,
                   board_->receivers[c]);
      });
      family.fork([&] { use(there, board_->engines[c]); });
    }
    family.fork([this] { be_bare_root(); });
    family.fork([this] { be_bare_peer(); });
  }

  // The trainer's side of one version.
  void hand_on(std::size_t c, Publisher& publisher, std::uint64_t round, Family& family) {
    const std::span<const Source> sources(payload_.sources());
    Publisher::Update update = publisher.begin();
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b) {
      const auto [first, end] = layout_.bucket_parameters(b);
      update.put(b, sources.subspan(first, end - first));
    }
    const std::uint64_t from = monotonic_ns();
    (void)update.commit();
    Seat& engine = board_->engines[c];
    engine.done.await(round, spin_, [&] { family.check(); });
    if (round > warm_up()) relay_times_[c].add_ns(from, engine.usable_at);
  }

  void broadcast(std::uint64_t way, std::uint64_t round, Family& family) {
    const std::uint64_t turn = (round - 1) * way_count + way + 1;
    Seat& peer = board_->bare_peer;
    peer.armed.await(turn, spin_, [&] { family.check(); });
    board_->bare_go.set(turn);
    peer.done.await(turn, spin_, [&] { family.check(); });
    if (round > warm_up()) bare_times_[way].add_ns(board_->bare_from, peer.usable_at);
  }

  // An engine of the other node.
  void use(const std::string& name, Seat& seat) {
    Subscriber subscriber = Subscriber::attach(name, {.deadline = kPatience});
    std::uint64_t version = 0;
    for (std::uint64_t round = 1; round <= rounds(); ++round) {
      const Lease lease = subscriber.wait(newer_than(version), kPatience);
      seat.usable_at = monotonic_ns();
      seat.wrong += lease.version() == version + 1 ? 0U : 1U;
      seat.wrong +=
          round == rounds() ? payload_.count_different(lease) : payload_.count_stale(lease);
      version = lease.version();
      seat.done.set(round);
    }
  }

  // Every broadcast of a turn, out of or into where data_of(bucket) says.
  template <class DataOf>
  void run_turn(BareGloo& group, std::uint64_t way, const DataOf& data_of) {
    if (way == by_bucket) {
      for (std::size_t b = 0; b < layout_.bucket_count(); ++b)
        group.broadcast(data_of(b), layout_.bucket_bytes(b));
    } else {
      for (std::size_t i = 0; i < layout_.size(); ++i)
        group.broadcast(data_of(layout_[i].bucket) + layout_[i].offset, layout_[i].bytes);
    }
  }

  void be_bare_root() {
    network_.enter(0);
    BareGloo group({.rank = 0, .size = 2, .address = network_.address(0), .store = &store_});
    Subscriber subscriber =
        Subscriber::attach(options_.publication(kCourses[0].here), {.deadline = kPatience});
    for (std::uint64_t turn = 1; turn <= rounds() * way_count; ++turn) {
      board_->bare_go.await(turn);
      const Lease lease = subscriber.wait(newer_than(0), kPatience);
      board_->bare_from = monotonic_ns();
      run_turn(group, (turn - 1) % way_count,
               [&](std::size_t b) { return const_cast<std::byte*>(lease.bucket(b)); });
    }
  }

  void be_bare_peer() {
    network_.enter(1);
    BareGloo group({.rank = 1, .size = 2, .address = network_.address(1), .store = &store_});
    std::vector<std::vector<std::byte>> buckets;
    for (std::size_t b = 0; b < layout_.bucket_count(); ++b)
      buckets.emplace_back(layout_.bucket_bytes(b));
    const auto data_of = [&](std::size_t i) {
      return buckets[layout_[i].bucket].data() + layout_[i].offset;
    };
    Seat& seat = board_->bare_peer;
    for (std::uint64_t turn = 1; turn <= rounds() * way_count; ++turn) {
      const bool last = turn > (rounds() - 1) * way_count;
      for (auto& bucket : buckets)
        if (last) std::fill(bucket.begin(), bucket.end(), std::byte{0xA5});
      seat.armed.set(turn);
      const std::uint64_t way = (turn - 1) % way_count;
      run_turn(group, way, [&](std::size_t b) { return buckets[b].data(); });
      seat.usable_at = monotonic_ns();
      board_->bare_wrong[way] +=
          last ? payload_.count_different(data_of) : payload_.count_stale(data_of);
      seat.done.set(turn);
    }
  }

  [[nodiscard]] Samples samples_of(const Series& series) const {
    Samples all;
    for (std::size_t i = warm_up(); i < series.size; ++i) all.add_us(series.us[i]);
    return all;
  }
  [[nodiscard]] nlohmann::json median_ms(const Stages& stages) const {
    return {{"waited_ms", samples_of(stages.waited).p50() / 1e3},
            {"transfer_ms", samples_of(stages.transfer).p50() / 1e3},
            {"prepare_ms", samples_of(stages.prepare).p50() / 1e3},
            {"wire_ms", samples_of(stages.wire).p50() / 1e3}};
  }

  // A round's time as a multiple of its longest stage: preparing at either end, or the wire alone.
  [[nodiscard]] double over_stages(std::size_t c) const {
    const Samples sent = samples_of(board_->relays[c].sent.prepare);
    const Samples received = samples_of(board_->receivers[c].received.prepare);
    const Samples& wire = bare_times_[by_bucket];
    Samples multiples;
    for (std::size_t i = 0; i < relay_times_[c].size(); ++i)
      multiples.add_us(relay_times_[c].values()[i] /
                       std::max({sent.values()[i], received.values()[i], wire.values()[i]}));
    return multiples.p50();
  }

  void add_rows() {
    const auto row = [&](const char* name, const Samples& samples, std::uint64_t wrong) {
      return Row{.name = "R11 " + network_.name() + ": " + name,
                 .bytes = layout_.payload_bytes(),
                 .tensors = layout_.size(),
                 .samples = samples,
                 .wrong = wrong};
    };
    for (std::size_t c = 0; c < kCourses.size(); ++c) {
      Row relay = row(kCourses[c].name, relay_times_[c], board_->engines[c].wrong);
      relay.more = {{"sender", median_ms(board_->relays[c].sent)},
                    {"receiver", median_ms(board_->receivers[c].received)}};
      report_.add(relay);
    }
    for (std::size_t way = 0; way < way_count; ++way)
      report_.add(row(kWays[way], bare_times_[way], board_->bare_wrong[way]));
    add_figures();
  }

  void add_figures() {
    const bool shaped = network_.name().find("veth ") == 0;
    const auto add = [&](const char* name, double value, std::optional<Target> target = {}) {
      report_.add(Figure{network_.name() + ": " + name, value, "",
                         shaped ? target : std::optional<Target>{}});
    };
    const Samples& buckets = bare_times_[by_bucket];
    add("relay's speed, of Gloo broadcast per bucket", paired_speed(buckets, relay_times_[0]),
        at_least(0.9));
    add("relay's speed, of Gloo broadcast per parameter",
        paired_speed(bare_times_[by_parameter], relay_times_[0]));
    add("pipelined / its longest stage", over_stages(0), at_most(1.1));
    add("one after the other / its longest stage", over_stages(1));
  }

  const Options& options_;
  Report& report_;
  Layout layout_;
  Payload payload_;
  Network network_;
  SharedStore store_;
  Shared<Board> board_;
  Duration spin_{};  // nobody spins: the cores are the relays'
  std::array<Samples, kCourses.size()> relay_times_;
  std::array<Samples, way_count> bare_times_;
};

}  // namespace

void measure_throughput(const Options& options, const std::string& rate, Report& report) {
  Throughput(options, rate, report).run();
}

}  // namespace tenon::bench
