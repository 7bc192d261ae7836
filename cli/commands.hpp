// The commands of `tenon`, one file each.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "common.hpp"

namespace tenon::cli {

/// What the chosen command does. It returns how the program ends; errors are thrown.
using Run = std::function<Exit()>;

// Each adds its command to `app`. Parsing a line with that command sets `run`.
void add_serve(CLI::App& app, Run& run);
void add_dump(CLI::App& app, Run& run);
void add_ls(CLI::App& app, Run& run);
void add_inspect(CLI::App& app, Run& run);
void add_get(CLI::App& app, Run& run);
void add_verify(CLI::App& app, Run& run);
void add_gc(CLI::App& app, Run& run);
void add_doctor(CLI::App& app, Run& run);
void add_relay(CLI::App& app, Run& run);
void add_demo(CLI::App& app, Run& run);
void add_completion(CLI::App& app, Run& run);
void add_man(CLI::App& app, Run& run);
void add_watch(CLI::App& app, Run& run);
void add_metrics(CLI::App& app, Run& run);
void add_trace(CLI::App& app, Run& run);

}  // namespace tenon::cli
