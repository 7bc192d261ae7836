// What a test says to the simulator: cuda_sim.hpp.
#include <unistd.h>

#include <cstdlib>

#include "call.hpp"
#include "cuda_sim.hpp"

namespace tenon::sim {
namespace {

std::string node_name() {
  const Process* here = process_if_any();
  return here != nullptr ? here->config.node : node_from_environment();
}

/// Asks the node, without making this process a user of CUDA; `nothing` when there is no node yet.
template <class Result, class Question>
Result ask(Result nothing, Question question) {
  if (Process* here = process_if_any()) return question(here->node);
  Node node(
      {.name = node_from_environment(), .make = false, .keep_stale = stale_from_environment()});
  return node.there() ? question(node) : nothing;
}

void hold(cudaStream_t handle, bool held) {
  const auto stream = stream_of(process(), handle);
  if (stream == nullptr) die("hold_stream: there is no such stream");
  stream->hold(held);
}

}  // namespace

void fail_call(std::string_view function, int nth, cudaError_t error) {
  journal().add_failures({{std::string(function), nth, error}});
}

void clear_failures() { journal().clear_failures(); }

void break_context() {
  process().break_context(is_worker() ? worker_device() : this_thread().device);
}

void hold_stream(cudaStream_t stream, bool held) { hold(stream, held); }

void hold_host_functions(bool held) { process().pacing.hold_host_functions = held; }

cudaError_t launch(cudaStream_t handle, std::function<void()> body) {
  return enter("cudaLaunchKernel", Needs::context, [&](Process& here) {
    const auto stream = stream_of(here, handle);
    if (stream == nullptr || stream->options().device != this_thread().device)
      return cudaErrorInvalidResourceHandle;
    return enqueue(here, handle, Stream::Kind::device_work, std::move(body));
  });
}

void* host_view(const void* pointer) { return process().regions.reach(pointer); }

std::uint64_t calls(std::string_view function) { return journal().calls(function); }

std::uint64_t total_calls() { return journal().total(); }

std::vector<LoggedCall> call_log() { return journal().log(); }

std::uint64_t legacy_stream_uses() {
  const Process* here = process_if_any();
  return here != nullptr ? here->streams.legacy_uses() : 0;
}

std::uint64_t bytes_copied() {
  const Process* here = process_if_any();
  return here != nullptr ? here->bytes_copied.load() : 0;
}

bool has_context(int ordinal) {
  Process* here = process_if_any();
  return here != nullptr && here->has_context(ordinal);
}

void reset_calls() {
  journal().reset();
  if (Process* here = process_if_any()) {
    here->streams.reset_legacy_uses();
    here->bytes_copied = 0;
  }
}

std::uint64_t open_handles() {
  const Process* here = process_if_any();
  return here != nullptr ? here->regions.opens() : 0;
}

void reset_process() {
  if (Process* here = process_if_any()) here->end();
  forget_process();
  clear_failures();
  reset_calls();
}

std::uint64_t violations() {
  return ask(std::uint64_t{0}, [](Node& node) { return node.violations(); });
}

std::vector<std::string> violation_log() {
  return ask(std::vector<std::string>{}, [](Node& node) { return node.violation_log(); });
}

std::uint64_t live_allocations() {
  return ask(std::uint64_t{0}, [](Node& node) { return node.live_allocations(); });
}

std::uint64_t bytes_in_use(int device) {
  return ask(std::uint64_t{0}, [device](Node& node) { return node.bytes_in_use(device); });
}

std::string device_uuid(int device) { return uuid_text(uuid_of(node_name(), device)); }

void remove_node() { Node::remove(node_name()); }

FreshNode::FreshNode() {
  static int count = 0;
  const char* before = std::getenv("TENON_SIM_NODE");
  was_set_ = before != nullptr;
  if (was_set_) before_ = before;
  reset_process();
  const std::string name = "test-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
  ::setenv("TENON_SIM_NODE", name.c_str(), 1);
}

FreshNode::~FreshNode() {
  reset_process();
  remove_node();
  if (was_set_) {
    ::setenv("TENON_SIM_NODE", before_.c_str(), 1);
  } else {
    ::unsetenv("TENON_SIM_NODE");
  }
}

}  // namespace tenon::sim
