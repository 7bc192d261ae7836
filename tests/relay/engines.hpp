// The engines under test. One row each: how a rank makes one, and what memory it takes (Bytes of
// support/memory.hpp allocates, fills and reads both kinds).
#pragma once

#include <memory>
#include <ostream>
#include <relay/engine.hpp>
#include <vector>

namespace tenon::test {

struct EngineRow {
  const char* name;
  MemoryKind memory;
  std::unique_ptr<relay::Engine> (*make)(const relay::Membership&, const detail::Deadline&);
};

inline std::ostream& operator<<(std::ostream& out, const EngineRow& row) { return out << row.name; }

inline std::vector<EngineRow> engine_rows() {
  return {{"Gloo", MemoryKind::host, relay::make_gloo_engine}};
}

}  // namespace tenon::test
