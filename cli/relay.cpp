// tenon relay: hands a publication on to other nodes, and publishes there what is handed on.
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <tenon/name.hpp>
#include <tenon/relay.hpp>
#include <thread>
#include <utility>

#include "commands.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace tenon::cli {
namespace {

using relay::EngineKind;
using relay::GroupReport;
using relay::VersionReport;

struct Output {
  bool json = false;
  bool quiet = false;
};

struct SendOptions {
  std::string name;
  relay::SenderOptions relay;
  std::string join;  ///< the primary sender's address; empty: this is it
  std::string secret_file;
  Output output;
};

struct ReceiveOptions {
  relay::ReceiverOptions relay;
  std::string secret_file;
  Output output;
};

/// The longest time without a look for signals; of a receiver that joins, at first.
constexpr Duration kLook = std::chrono::milliseconds(500);

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

/// Stops a relay when a signal comes, also in the middle of a transfer.
template <class Relay>
class StopOnSignal {
 public:
  explicit StopOnSignal(Relay& relay) : thread_([this, &relay] { watch(relay); }) {}
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;
  ~StopOnSignal() {
    done_ = true;
    thread_.join();
  }

 private:
  void watch(Relay& relay) {
    struct ::pollfd p {
      signal_fd(), POLLIN, 0
    };
    while (!done_) {
      if (::poll(&p, 1, 100) > 0) return relay.stop();
    }
  }
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Whoever reads our output may go; subscribers read the publication.
void say(const std::string& line) {
  try {
    print(line + "\n");
  } catch (const Error& error) {
    complain(error.what());
  }
}

// `key`: what `address` is to us.
void tell_start(const Output& output, const char* doing, const std::string& name, const char* key,
                const std::string& address) {
  if (output.json) {
    say(fmt::format(R"({{"event":"{}","name":"{}","{}":{}}})", doing, name, key,
                    Json(address).dump()));
  } else {
    say(fmt::format("{} {} {}={}", doing, name, key, printable(address)));
  }
}

void tell_group(const Output& output, const GroupReport& g) {
  if (output.json) {
    say(fmt::format(
        R"({{"event":"group","group":{},"receivers":{},"engine":"{}","setup_seconds":{:.6f},"warm_up_seconds":{:.6f}}})",
        g.group, g.receivers, relay::name_of(g.engine), seconds(g.setup), seconds(g.warm_up)));
  } else {
    say(fmt::format("group {} receivers={} engine={} setup_seconds={:.3f} warm_up_seconds={:.3f}",
                    g.group, g.receivers, relay::name_of(g.engine), seconds(g.setup),
                    seconds(g.warm_up)));
  }
}

void tell_version(const Output& output, const char* did, const std::string& name,
                  const VersionReport& v) {
  if (output.json) {
    say(fmt::format(
        R"({{"event":"{}","name":"{}","version":{},"receivers":{},"buckets":{},"kept":{},"bytes":{},"seconds":{:.6f},"wire_seconds":{:.6f},"prepare_seconds":{:.6f},"waited_seconds":{:.6f}}})",
        did, name, v.version, v.receivers, v.buckets, v.kept, v.bytes, seconds(v.transfer),
        seconds(v.wire), seconds(v.prepare), seconds(v.waited)));
  } else {
    say(
        fmt::format("{} {} version={} receivers={} buckets={} kept={} bytes={} seconds={:.3f} "
                    "waited_seconds={:.3f}",
                    did, name, v.version, v.receivers, v.buckets, v.kept, v.bytes,
                    seconds(v.transfer), seconds(v.waited)));
  }
}

/// What a relay is doing, shown while it takes long: one thing at a time.
/// Threads: one at a time.
class StatusLine {
 public:
  explicit StatusLine(const Output& output) : wanted_(!output.quiet) {}
  void begin(const std::string& what) {
    waiting_.emplace(what, wanted_);
    allocating_.emplace("allocating", wanted_);
  }
  void end() {
    waiting_.reset();
    allocating_.reset();
  }
  void note(const std::string& text) {
    if (!wanted_) return;
    if (waiting_)
      waiting_->complain_above(printable(text));
    else
      complain(printable(text));
  }
  /// What was begun has come to taking room for a publication here.
  void allocated(std::uint64_t done, std::uint64_t total) {
    waiting_.reset();
    if (allocating_) allocating_->update(done, total);
  }

 private:
  bool wanted_;
  std::optional<Waiting> waiting_;
  std::optional<Progress> allocating_;
};

relay::Watch watch_for(const Output& output, const char* did, const std::string& name,
                       StatusLine& line) {
  line.begin("waiting for a group of relays");
  relay::Watch watch;
  watch.note = [&line](const std::string& text) { line.note(text); };
  watch.doing = [&line](const std::string& what) {
    if (what.empty())
      line.end();
    else
      line.begin(what);
  };
  watch.group = [&](const GroupReport& g) {
    line.end();
    tell_group(output, g);
  };
  watch.version = [&, did, name](const VersionReport& v) {
    line.end();
    tell_version(output, did, name, v);
  };
  watch.stop = was_signalled;
  return watch;
}

// Makes and runs a sender or replica. Then the publication is there: what is waited for next has
// not been `said`.
void send_once(SendOptions& options, StatusLine& line, bool& first, bool& said) {
  const auto started = [&](const char* event, const char* key, const std::string& address) {
    line.end();
    said = false;
    if (std::exchange(first, false)) tell_start(options.output, event, options.name, key, address);
  };
  if (options.join.empty()) {
    relay::Sender sender(options.name, options.relay);
    options.relay.listen = sender.address();  // receivers find its successor there
    started("listening", "address", sender.address());
    const StopOnSignal stop(sender);
    return sender.run(watch_for(options.output, "sent", options.name, line));
  }
  relay::Replica replica(options.name, {.from = options.join,
                                        .op = *options.relay.reduce,
                                        .secret = options.relay.secret,
                                        .attach = options.relay.attach,
                                        .owner = options.relay.owner,
                                        .join = options.relay.attach});
  started("joined", "from", options.join);
  const StopOnSignal stop(replica);
  replica.run(watch_for(options.output, "sent", options.name, line));
}

// One after the other: a trainer that starts again is another publication.
void send_until_signal(SendOptions& options) {
  bool first = true, said = false;
  const std::string awaited = "waiting for '" + options.name + "'";
  StatusLine line(options.output);
  line.begin(awaited);
  const detail::Deadline appear(options.relay.attach);
  options.relay.attach = std::min<Duration>(options.relay.attach, kLook);
  while (!was_signalled()) {
    try {
      send_once(options, line, first, said);
    } catch (const Error& error) {
      const bool ended = error.code() == Errc::PublisherGone || error.code() == Errc::Closed;
      const bool absent = error.code() == Errc::NotFound || error.code() == Errc::DeadlinePassed;
      const bool in_vain = first && appear.passed();
      if ((!ended && !absent) || in_vain) throw;
      if (!ended || first || std::exchange(said, true)) continue;
      line.note(error.message() + "; waiting for its successor");
      line.begin(awaited);
    }
  }
}

Exit send(SendOptions& options) {
  check_name(options.name);
  if (!options.secret_file.empty()) options.relay.secret = relay::read_secret(options.secret_file);
  handle_signals(OnSignal::remember);
  send_until_signal(options);
  return Exit::ok;
}

// In attempts, between which we look for signals. Each is longer than the last: where a large
// layout comes over a slow network, short ones would all be in vain.
std::unique_ptr<relay::Receiver> join(const ReceiveOptions& told) {
  relay::ReceiverOptions options = told.relay;
  const detail::Deadline deadline(options.join);
  for (Duration patience = kLook;; patience *= 2) {
    check_signals();
    options.join = std::min<Duration>(patience, deadline.left());
    try {
      return std::make_unique<relay::Receiver>(options);
    } catch (const Error& error) {
      if (error.code() != Errc::DeadlinePassed || deadline.passed()) throw;
    }
  }
}

Exit receive(ReceiveOptions& options) {
  for (const std::string& name : {options.relay.name, options.relay.as})
    if (!name.empty()) check_name(name);
  if (!options.secret_file.empty()) options.relay.secret = relay::read_secret(options.secret_file);
  if (options.relay.memory) use_device(*options.relay.memory);
  handle_signals(OnSignal::remember);
  StatusLine line(options.output);
  options.relay.progress = [&](std::uint64_t done, std::uint64_t total) {
    check_signals();
    line.allocated(done, total);
  };
  try {
    line.begin("joining " + options.relay.from);
    const std::unique_ptr<relay::Receiver> receiver = join(options);
    line.end();
    tell_start(options.output, "receiving", receiver->name(), "from", options.relay.from);
    const StopOnSignal stop(*receiver);
    receiver->run(watch_for(options.output, "received", receiver->name(), line));
  } catch (const Interrupted&) {
  }
  return Exit::ok;  // being told to stop is how receiving ends
}

void add_output(CLI::App& command, Output& output, std::string& secret_file) {
  command
      .add_option("--secret-file", secret_file,
                  "Holds what both ends know, 16 bytes or more; needed off loopback")
      ->type_name("FILE");
  command.add_flag("--json", output.json, "Events as JSON, one object per line");
  command.add_flag("--quiet", output.quiet, "No notes and no progress on standard error");
}

void add_replicas(CLI::App& command, SendOptions& options) {
  CLI::Option* reduce =
      command
          .add_option_function<std::string>(
              "--reduce",
              [&options](const std::string& text) {
                options.relay.reduce = text == "sum" ? relay::ReduceOp::sum : relay::ReduceOp::mean;
              },
              "The publication is one of several partial results: receivers get their mean or sum")
          ->type_name("OP")
          ->check(CLI::IsMember({"mean", "sum"}));
  CLI::Option* replicas = command
                              .add_option("--replicas", options.relay.replicas,
                                          "How many, with this one; the others join it")
                              ->type_name("R")
                              ->check(CLI::Range(2U, 64U))
                              ->needs(reduce);
  command.add_option("--join", options.join, "Reduce together with the sender that listens there")
      ->type_name("HOST:PORT")
      ->needs(reduce)
      ->excludes(replicas)
      ->excludes(command.get_option("--listen"))
      ->excludes(command.get_option("--expect"))
      ->excludes(command.get_option("--engine"));
}

void add_send(CLI::App& parent, Run& run) {
  CLI::App* command = parent.add_subcommand("send", "Hand a publication on to receivers");
  auto options = std::make_shared<SendOptions>();
  command->add_option("NAME", options->name, "Publication of this node")->required();
  command->add_option("--listen", options->relay.listen, "Where receivers find it")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command
      ->add_option("--expect", options->relay.expect,
                   "Wait for so many receivers before the first version")
      ->type_name("N")
      ->check(CLI::Range(0U, 64U));
  command
      ->add_option_function<std::string>(
          "--engine",
          [options](const std::string& text) {
            options->relay.engine = text == "gloo"   ? EngineKind::gloo
                                    : text == "nccl" ? EngineKind::nccl
                                                     : EngineKind::automatic;
          },
          "auto: nccl between GPU memories that have it, else gloo")
      ->type_name("ENGINE")
      ->check(CLI::IsMember({"auto", "gloo", "nccl"}))
      ->default_str("auto");
  add_duration(*command, "--deadline", options->relay.deadline,
               "For receivers to make room for a version, and again for its bytes");
  add_replicas(*command, *options);
  add_duration(*command, "--timeout", options->relay.attach, "For the publication to appear");
  add_owner(*command, options->relay.owner);
  add_output(*command, options->output, options->secret_file);
  command->footer(
      "Stays until SIGINT or SIGTERM, also while the trainer starts again. The weights travel\n"
      "neither encrypted nor authenticated: see SECURITY.md.\n\n"
      "Examples:\n"
      "  tenon relay send policy --listen 10.0.0.1:4711 --secret-file secret\n"
      "  tenon relay send policy --listen 10.0.0.1:4711 --secret-file secret --reduce mean "
      "--replicas 2\n"
      "  tenon relay send policy --join 10.0.0.1:4711 --secret-file secret --reduce mean");
  command->callback([options, &run] { run = [options] { return send(*options); }; });
}

void add_receive(CLI::App& parent, Run& run) {
  CLI::App* command = parent.add_subcommand("recv", "Publish on this node what a sender hands on");
  auto options = std::make_shared<ReceiveOptions>();
  command->add_option("NAME", options->relay.name, "Publication that the sender hands on")
      ->required();
  command->add_option("--from", options->relay.from, "The sender")
      ->type_name("HOST:PORT")
      ->required();
  command->add_option("--as", options->relay.as, "Its name here; default: NAME")->type_name("NAME");
  command
      ->add_option_function<std::string>(
          "--memory",
          [options](const std::string& text) { options->relay.memory = parse_memory(text); },
          "host, cuda or cuda:N; default: as the sender's")
      ->type_name("MEMORY");
  command
      ->add_option_function<std::string>(
          "--mode", [options](const std::string& text) { options->relay.mode = parse_mode(text); },
          "streaming, in-place or double")
      ->type_name("MODE")
      ->default_str(name_of(options->relay.mode));
  command
      ->add_option("--label", options->relay.label,
                   "Text shown by ls and inspect, behind what it relays")
      ->type_name("TEXT");
  add_duration(*command, "--timeout", options->relay.join, "For the sender to be there");
  command
      ->add_option_function<std::string>(
          "--rejoin",
          [options](const std::string& text) {
            options->relay.rejoin = parse_duration("--rejoin", text);
          },
          "For a lost sender to come back; default: as long as it takes")
      ->type_name("DURATION");
  add_output(*command, options->output, options->secret_file);
  command->footer(
      "Serves its last version, and joins again, while the sender is away.\n\n"
      "Example:\n  tenon relay recv policy --from 10.0.0.1:4711 --secret-file secret");
  command->callback([options, &run] { run = [options] { return receive(*options); }; });
}

}  // namespace

void add_relay(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("relay", "The same publication on other nodes");
  command->require_subcommand(1);
  add_send(*command, run);
  add_receive(*command, run);
}

}  // namespace tenon::cli
