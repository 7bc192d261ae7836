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

// Where there is CUDA and no simulation of it, there is real NCCL.
#if TENON_TEST_CUDA && !TENON_TEST_SIM
#define TENON_TEST_REAL_NCCL 1
#endif

#if defined(TENON_NCCL_SIM) || TENON_TEST_REAL_NCCL
/// As nodes of one GPU each: the way to have two ranks on one. On the simulated CUDA runtime over
/// the simulated NCCL.
inline std::unique_ptr<relay::Engine> make_nccl_engine_of_a_node(
    const relay::Membership& membership, const detail::Deadline& deadline) {
#ifdef TENON_NCCL_SIM
  ::setenv("TENON_NCCL_LIBRARY", TENON_NCCL_SIM, 1);
#endif
  ::setenv("NCCL_HOSTID", ("node" + std::to_string(membership.rank)).c_str(), 1);
  ::setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  ::setenv("NCCL_IB_DISABLE", "1", 0);
  return relay::make_nccl_engine(membership, 0, deadline);
}
#endif

inline std::ostream& operator<<(std::ostream& out, const EngineRow& row) { return out << row.name; }

inline std::vector<EngineRow> engine_rows() {
  return {
#if !TENON_TEST_REAL_NCCL
    {"Gloo", MemoryKind::host, relay::make_gloo_engine, true},
#endif
#if defined(TENON_NCCL_SIM) || TENON_TEST_REAL_NCCL
        {"Nccl", MemoryKind::cuda, make_nccl_engine_of_a_node, false},
#endif
  };
}

}  // namespace tenon::test
