// Of a build without NCCL, or without the relay at all.
#include "collect.hpp"

namespace tenon::cli::doctor {

void look_for_engines(Evidence& evidence) { evidence.relay_built_in = TENON_DOCTOR_RELAY != 0; }

}  // namespace tenon::cli::doctor
