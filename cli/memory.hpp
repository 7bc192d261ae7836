// Memory of either kind, as the commands use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tenon/inspect.hpp>
#include <tenon/publisher.hpp>
#include <tenon/types.hpp>
#include <vector>

namespace tenon::cli {

/// "host", "cuda" or "cuda:N". Throws Error(InvalidArgument) for anything else.
[[nodiscard]] Memory parse_memory(std::string_view text);
/// "host", "cuda:0"
[[nodiscard]] std::string text_of(const Memory& memory);

/// Makes the GPU, if it is one, this thread's current device. Throws what is missing and names host
/// memory as the alternative: Error(NoDevice), Error(NoMemoryKind).
void use_device(const Memory& memory);
/// The same for who reads a publication.
void use_device_of(const PublicationInfo& publication);

/// An allocation; the last owner frees it.
using Bytes = std::shared_ptr<std::byte>;
/// Host memory, or memory of the current device. Throws Error(OutOfSpace).
[[nodiscard]] Bytes allocate(MemoryKind kind, std::uint64_t bytes);
/// Host memory that slots of that kind can be loaded into.
[[nodiscard]] Bytes allocate_for_loads(MemoryKind slots, std::uint64_t bytes);

/// The bytes where the host can read them: where they are, or copied to `room`.
[[nodiscard]] const std::byte* on_host(MemoryKind kind, const std::byte* at, std::uint64_t bytes,
                                       std::vector<std::byte>& room);

}  // namespace tenon::cli
