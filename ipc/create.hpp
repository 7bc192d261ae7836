// Creating a publication's segment: claim the name, fill it, make it visible last.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tenon/detail/segment.hpp>
#include <tenon/detail/wait.hpp>
#include <tenon/layout.hpp>
#include <vector>

#include "log_writer.hpp"
#include "slot_memory.hpp"

namespace tenon::ipc {

struct SegmentRequest {
  std::string_view name;
  const Layout& layout;
  Mode mode;
  std::uint64_t slots;
  std::string_view label;
  bool checksums;   ///< room for them
  int permissions;  ///< once visible
  Duration deadline;
};

/// Creates the segment and, through `memory`, its slots. When this returns subscribers may attach.
/// The writer holds the publisher's lock. `notes` gets what was removed on the way. Errors:
/// InvalidName, NameInUse, NotYours, OutOfSpace, DeadlinePassed, SystemError; nothing is left
/// behind.
[[nodiscard]] std::unique_ptr<LogWriter> create_segment(const SegmentRequest& request,
                                                        SlotMemory& memory,
                                                        const Progress& progress,
                                                        std::vector<std::string>& notes);

}  // namespace tenon::ipc
