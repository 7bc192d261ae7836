// Memory of either kind for programs that have no CUDA in their own sources: what tools need to
// fill a GPU's memory and to look at it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tenon/publisher.hpp>
#include <tenon/types.hpp>

namespace tenon {

/// Bytes of memory, zeroed and not touched before they are used where the kind allows.
/// Errors: Error(OutOfSpace), Error(NoDevice), Error(Cuda), Error(NoMemoryKind) in builds without.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Memory memory, std::uint64_t bytes);
  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  std::shared_ptr<std::byte> data_;
};

/// Copies between memory of `kind` and host memory, or within `kind`, in the order of the stream
/// that publications use which are given none; returns when the bytes are there. Not for the step
/// path: it waits. Threads: any.
void copy_and_wait(MemoryKind kind, void* to, const void* from, std::uint64_t bytes);

}  // namespace tenon
