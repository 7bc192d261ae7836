// The engines under test. One row each: how a rank makes one, and what memory it takes (Bytes of
// support/memory.hpp allocates, fills and reads both kinds).
#pragma once

#include <cstdlib>
#include <memory>
#include <ostream>
#include <relay/engine.hpp>
#include <string>
#include <vector>

namespace tenon::test {

struct EngineRow {
  const char* name;
  MemoryKind memory;
  std::unique_ptr<relay::Engine> (*make)(const relay::Membership&, const detail::Deadline&);
  bool exact;  ///< rounds sums of 16-bit floats once, divides behind the sum
};

#ifdef TENON_NCCL_SIM
/// Over the simulated NCCL, as nodes of one GPU each: the way to have two ranks on one.
inline std::unique_ptr<relay::Engine> make_simulated_nccl_engine(
    const relay::Membership& membership, const detail::Deadline& deadline) {
  ::setenv("TENON_NCCL_LIBRARY", TENON_NCCL_SIM, 1);
  ::setenv("NCCL_HOSTID", ("node" + std::to_string(membership.rank)).c_str(), 1);
  return relay::make_nccl_engine(membership, 0, deadline);
}
#endif

inline std::ostream& operator<<(std::ostream& out, const EngineRow& row) { return out << row.name; }

inline std::vector<EngineRow> engine_rows() {
  return {
      {"Gloo", MemoryKind::host, relay::make_gloo_engine, true},
#ifdef TENON_NCCL_SIM
      {"Nccl", MemoryKind::cuda, make_simulated_nccl_engine, false},
#endif
  };
}

}  // namespace tenon::test
