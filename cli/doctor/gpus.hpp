// Asking CUDA, in processes of its own: a driver that hangs or crashes takes none of doctor with
// it. One exports memory and events of every GPU, another one opens them, memory also with each of
// the other GPUs current.
#pragma once

#include <tenon/detail/wait.hpp>

#include "evidence.hpp"

namespace tenon::cli::doctor {

/// `timeout` is for each answer: what there is, the exporter's memory, the importer's look at it,
/// and its look from the other GPUs.
/// Starts no process in a build without CUDA.
[[nodiscard]] Gpus ask_gpus(Duration timeout);

// What those processes do, by standard input and output; nothing in a build without CUDA.

/// Prints what there is, then handles of memory and events on every GPU; keeps them until its
/// standard input ends.
void tell_of_gpus();
/// Reads such handles, opens them, prints what became of it; then opens memory with each of the
/// other GPUs current, and prints what failed.
void open_handles();

}  // namespace tenon::cli::doctor
