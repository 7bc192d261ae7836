// tenon demo: a trainer and inference processes hand over a model, and every byte is checked.
#include "demo.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <tenon/format.hpp>
#include <tenon/model.hpp>
#include <tenon/plan.hpp>

#include "commands.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "parallel.hpp"

namespace tenon::cli {
namespace {

struct DemoOptions {
  std::string model = "llama-3.2-1b";
  std::optional<std::uint32_t> layers;
  std::uint32_t subscribers = 2;
  std::uint64_t versions = 5;
  Mode mode = Mode::in_place;
  Memory memory = host();
  bool json = false;
  bool quiet = false;
};

bool is_built_in(const std::string& model) {
  const auto names = model_names();
  return std::find(names.begin(), names.end(), model) != names.end();
}

std::vector<Parameter> parameters_of(const DemoOptions& options) {
  if (is_built_in(options.model)) return model_parameters(options.model, options.layers);
  if (!std::filesystem::exists(options.model)) {
    std::string names;
    for (const std::string_view name : model_names()) names += fmt::format(" {},", name);
    throw Error(Errc::InvalidArgument, fmt::format("--model {}: there are{} or the path of a "
                                                   "safetensors file",
                                                   options.model, names));
  }
  if (options.layers) {
    throw Error(Errc::InvalidArgument, "--layers is for models by name, not for files");
  }
  return open_checkpoint({options.model}).parameters();
}

std::uint64_t bucket_bytes_for(const std::vector<Parameter>& parameters, Mode mode) {
  constexpr std::uint64_t kDefault = 512ULL << 20U;
  if (mode != Mode::streaming) return kDefault;
  std::uint64_t total = 0;
  for (const Parameter& p : parameters) {
    total += byte_size(p.dtype, Shape(p.shape.data(), p.shape.size())).value_or(0);
  }
  // Streaming is for bounded memory: enough buckets that a few slots are a small part of the model.
  return std::clamp<std::uint64_t>(total / 16, format::kAlignment, kDefault);
}

DemoPlan make_plan(const DemoOptions& options) {
  const std::vector<Parameter> parameters = parameters_of(options);
  Layout layout = plan(parameters, {.bucket_bytes = bucket_bytes_for(parameters, options.mode)});
  const bool too_few = options.mode == Mode::streaming && layout.bucket_count() < 3;
  if (too_few) complain("fewer than 3 buckets cannot be streamed: publishing in place");
  return {.name = fmt::format("demo-{}", ::getpid()),
          .model = options.model,
          .layout = std::move(layout),
          .mode = too_few ? Mode::in_place : options.mode,
          .memory = options.memory,
          .subscribers = options.subscribers,
          .versions = options.versions,
          .threads = thread_count(),
          .quiet = options.quiet};
}

// The most layers that fit, 0 when not even one does.
std::uint32_t fitting_layers(DemoOptions options, const DemoRoom& have) {
  std::uint32_t fitting = 0;
  try {
    for (std::uint32_t layers = 1;; ++layers) {
      options.layers = layers;
      if (!needed_by(make_plan(options)).fits(have)) return fitting;
      fitting = layers;
    }
  } catch (const Error&) {  // more layers than the model has
    return fitting;
  }
}

void check_room(const DemoOptions& options, const DemoPlan& plan) {
  const DemoRoom need = needed_by(plan);
  const DemoRoom have = room_here(plan.memory);
  if (need.fits(have)) return;
  const std::uint32_t layers = is_built_in(options.model) ? fitting_layers(options, have) : 0;
  std::string advice =
      "enlarge /dev/shm ('mount -o remount,size=…', in containers --shm-size) or choose a smaller "
      "--model";
  if (need.gpu > have.gpu) advice = "choose a smaller --model, or --memory host";
  if (layers > 0) advice = fmt::format("--layers {} would fit", layers);
  std::string gpu;
  if (plan.memory.kind == MemoryKind::cuda) {
    gpu = fmt::format(", and {} of GPU memory, of which {} are free", human_bytes(need.gpu),
                      human_bytes(have.gpu));
  }
  throw Error(Errc::OutOfSpace,
              fmt::format("{} in mode {} needs {} in /dev/shm, which has {}, and {} of memory in "
                          "all, of which {} are available{}; {}",
                          plan.model, name_of(plan.mode), human_bytes(need.shared),
                          human_bytes(have.shared), human_bytes(need.memory),
                          human_bytes(have.memory), gpu, advice));
}

Exit demo(const DemoOptions& options) {
  const DemoPlan plan = make_plan(options);
  check_room(options, plan);
  DemoReport report(plan, options.json);
  run_family(plan, report);
  report.finish();
  return report.wrong() == 0 ? Exit::ok : Exit::failed;
}

void add_options(CLI::App& command, DemoOptions& options) {
  command
      .add_option("--model", options.model,
                  "Built-in model, or a safetensors file whose names, dtypes and shapes are used")
      ->type_name("NAME|FILE")
      ->capture_default_str();
  command.add_option("--layers", options.layers, "Only the first N layers of a built-in model")
      ->type_name("N");
  command.add_option("--subscribers", options.subscribers, "How many inference processes")
      ->type_name("N")
      ->check(CLI::Range(1U, 64U))
      ->capture_default_str();
  command.add_option("--versions", options.versions, "How many versions")
      ->type_name("N")
      ->check(CLI::Range(1U, 1'000'000U))
      ->capture_default_str();
  command
      .add_option_function<std::string>(
          "--mode", [&options](const std::string& text) { options.mode = parse_mode(text); },
          "streaming, in-place or double")
      ->type_name("MODE")
      ->default_str(name_of(options.mode));
  add_memory(command, options.memory);
  command.add_flag("--json", options.json, "Print a JSON object");
  add_quiet(command, options.quiet);
}

}  // namespace

void add_demo(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("demo", "Hand a model over and check every byte");
  auto options = std::make_shared<DemoOptions>();
  add_options(*command, *options);
  std::string models;
  for (const std::string_view name : model_names()) models += fmt::format(" {}", name);
  command->footer(
      "Models:" + models +
      ".\nColumns: gather (until the bytes are in the slots, which on a GPU is later than the "
      "call's return),\nits speed with bytes counted once and as a share of a plain copy in the "
      "same memory, from then to\nvisible in the slowest process, checking every byte there.\n"
      "--memory cuda: trainer and processes keep their weights on that GPU.\n\n"
      "Example:\n  tenon demo --model llama-3.2-1b --layers 2");
  command->callback([options, &run] { run = [options] { return demo(*options); }; });
}

}  // namespace tenon::cli
