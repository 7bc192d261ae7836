// Copying between host memory and the memory of a publication, for programs that handle both.
#pragma once

#include <cstdint>
#include <tenon/detail/wait.hpp>
#include <tenon/types.hpp>

namespace tenon {

/// Copies `bytes` bytes; returns when they are there. Each side is in host memory or in memory of
/// `kind`: the bytes of a view to the host, a file's to an opened bucket, from one place on a GPU
/// to another. GPU memory goes through a stream of Tenon's own on its device, which waits for no
/// other stream: what is read must be complete. Large things are better copied in pieces.
///
/// Errors:   NoMemoryKind (a build without GPU memory), NoDevice, Cuda; DeadlinePassed, behind
///           which the copy may still be under way: keep both sides.
/// Threads:  safe.
void copy_and_wait(MemoryKind kind, void* to, const void* from, std::uint64_t bytes,
                   Duration timeout = std::chrono::seconds(30));

}  // namespace tenon
