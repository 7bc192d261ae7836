// Of a build with the relay over NCCL.
#include <fmt/format.h>

#include <relay/nccl_library.hpp>
#include <tenon/error.hpp>

#include "collect.hpp"

namespace tenon::cli::doctor {

void look_for_engines(Evidence& evidence) {
  evidence.relay_built_in = true;
  evidence.nccl.built_in = true;
  try {
    const int version = relay::NcclLibrary::load().version;
    evidence.nccl.version =
        fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  } catch (const Error& error) {
    evidence.nccl.trouble = error.message();
  }
}

}  // namespace tenon::cli::doctor
