// What the processes of `tenon demo` share: the plan they all begin with, and what they report.
//
//   parent ─fork─▶ trainer               publishes, then waits for `go`
//          ─fork─▶ subscriber 0 .. N-1   checks every byte of every version
//
//   1. The trainer writes version v and reports `published`.
//   2. Each subscriber reports `seen` with the version it checked, after it has let go of it.
//   3. When all have seen v, the parent sends `go`, and the trainer begins v + 1.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tenon/layout.hpp>
#include <type_traits>
#include <vector>

#include "common.hpp"
#include "memory.hpp"

namespace tenon::cli {

struct DemoPlan {
  std::string name;   ///< of the publication
  std::string model;  ///< as given on the command line
  Layout layout;
  Mode mode;  ///< as it will be published
  Memory memory;
  std::uint32_t subscribers;
  std::uint64_t versions;
  unsigned threads;  ///< of the trainer: filling, gathering, plain copying
  bool quiet;        ///< no progress
};

enum class ReportKind : std::uint32_t {
  copied,     ///< trainer: `bytes` were copied plainly in `took_ns`
  published,  ///< trainer: gathered in `took_ns`; the bytes were there `at_ns`
  seen,       ///< subscriber `who`: version held `at_ns`, checked in `took_ns`, `wrong` bytes
};

/// One message to the parent. Smaller than PIPE_BUF: written whole or not at all.
struct Report {
  ReportKind kind = ReportKind::copied;
  std::uint32_t who = 0;
  std::uint64_t version = 0;
  std::uint64_t at_ns = 0;  ///< CLOCK_MONOTONIC
  std::uint64_t took_ns = 0;
  std::uint64_t bytes = 0;
  std::uint64_t wrong = 0;
};
static_assert(std::is_trivially_copyable_v<Report> && sizeof(Report) <= 512);

/// Throws SystemError when the parent is gone.
void send_report(int fd, const Report& report);

// The children's lives; what they return is how they exit. Nothing of the library was used before.
[[nodiscard]] Exit run_trainer(const DemoPlan& plan, int reports, int go);
[[nodiscard]] Exit run_subscriber(const DemoPlan& plan, std::uint32_t who, int reports);

/// Bytes, needed or there.
struct DemoRoom {
  std::uint64_t shared = 0;  ///< in /dev/shm
  std::uint64_t memory = 0;  ///< of the host in all, /dev/shm included
  std::uint64_t gpu = 0;
  [[nodiscard]] bool fits(const DemoRoom& have) const noexcept {
    return shared <= have.shared && memory <= have.memory && gpu <= have.gpu;
  }
};
[[nodiscard]] DemoRoom needed_by(const DemoPlan& plan);
/// Throws what keeps the GPU from being used, if it is one. This process itself does not use it.
[[nodiscard]] DemoRoom room_here(const Memory& memory);

/// One line of the table.
struct DemoRow {
  std::uint64_t version = 0;
  std::uint64_t gather_ns = 0;   ///< until the bytes were in the slots
  std::uint64_t visible_ns = 0;  ///< from then to the last subscriber holding it
  std::uint64_t verify_ns = 0;   ///< of the slowest subscriber
  std::uint64_t wrong = 0;       ///< bytes, over all subscribers
};

/// Turns rows into text as they come, or into one JSON object at the end.
class DemoReport {
 public:
  DemoReport(const DemoPlan& plan, bool json) : plan_(plan), json_(json) {}
  void set_copy_speed(double gb_per_s) { copy_gb_per_s_ = gb_per_s; }
  void add(const DemoRow& row);
  void finish() const;
  [[nodiscard]] std::uint64_t wrong() const noexcept;
  [[nodiscard]] std::size_t rows() const noexcept { return rows_.size(); }

 private:
  void print_heading() const;
  [[nodiscard]] double gather_gb_per_s(const DemoRow& row) const;
  [[nodiscard]] double share(const DemoRow& row) const;

  const DemoPlan& plan_;
  bool json_;
  double copy_gb_per_s_ = 0;
  std::vector<DemoRow> rows_;
};

/// Forks the children and collects what they report. Throws Interrupted, or Error(PublisherGone)
/// when a child ended before its time. No child outlives this call.
void run_family(const DemoPlan& plan, DemoReport& report);

}  // namespace tenon::cli
