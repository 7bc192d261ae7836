// What publishers, subscribers and helpers have in common: their row of the board, their log, and
// how they say that something failed.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <tenon/error.hpp>

#include "board.hpp"
#include "log.hpp"
#include "options.hpp"
#include "random.hpp"

namespace tenon::stress {

class Role {
 public:
  Role(const Options& options, Board& board);

  [[nodiscard]] bool should_leave() const noexcept;
  [[nodiscard]] std::string name() const { return name_of_index(index); }
  [[nodiscard]] std::string name_of_index(std::uint64_t i) const {
    return options.names + "-" + std::to_string(i);
  }
  void detail(const std::string& event) const {
    if (options.verbose) log(event);
  }
  /// Something that must be 0 is not.
  void problem(Word& count, const std::string& what) const;
  /// An operation was refused: counted by kind, and a problem unless it is one of those expected.
  void refused(const Error& error, std::initializer_list<Errc> expected, const char* doing) const;
  /// For somebody with nothing to do.
  void sleep_us(std::uint64_t us) const;
  void sleep_up_to_us(std::uint64_t us) { sleep_us(random.below(us + 1)); }

  /// Until this dies, the role does `what`, which takes at most `timeout`.
  class During {
   public:
    During(Role& role, Doing what, std::chrono::nanoseconds timeout = {});
    ~During();
    During(const During&) = delete;
    During& operator=(const During&) = delete;
    [[nodiscard]] std::uint64_t since() const noexcept { return since_; }

   private:
    Role& role_;
    std::uint64_t since_ = now_ns();
    std::uint64_t doing_before_;
    std::uint64_t deadline_before_;
  };

  const Options& options;
  Board& board;
  Actor& me;
  std::uint64_t index;  ///< of the publication's name
  Name& publication;
  Log log;
  Random random;
};

/// Lines of /proc/self/maps and open descriptors that lead to an object of a publication.
[[nodiscard]] unsigned mappings_of_publications();

// Exit status: 0 when the role left because it was told to.
int run_publisher(Role& role);
int run_subscriber(Role& role);
int run_cleaner(Role& role);
int run_looker(Role& role);
/// Last of all: what is left of the run's publications after one gc.
int run_auditor(Role& role);

int run_role(const Options& options);

}  // namespace tenon::stress
