// Two processes that a question takes, started before anything uses CUDA, and what they note.
#pragma once

#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

namespace tenon::probe {

using Json = nlohmann::ordered_json;

inline double now_ms() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}
inline void sleep_ms(double ms) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
}
template <class Action>
double took_ms(const Action& action) {
  const double begin = now_ms();
  action();
  return now_ms() - begin;
}

/// "0 cudaSuccess"
inline std::string text(cudaError_t error) {
  return std::to_string(static_cast<int>(error)) + " " + cudaGetErrorName(error);
}
/// What a later call would report of this one; answers are read from what calls return.
inline std::string code(cudaError_t error) {
  (void)cudaGetLastError();
  return text(error);
}
inline void must(cudaError_t error, const char* doing) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(doing) + ": " + text(error));
}

/// What two processes share.
struct Board {
  static constexpr std::size_t kNotes = std::size_t{1} << 16U;
  std::atomic<int> step{0};
  std::atomic<int> exporter_pid{0};
  std::atomic<double> time_ms{0};
  cudaIpcMemHandle_t memory{};
  cudaIpcMemHandle_t second{};
  cudaIpcEventHandle_t event{};
  char notes[2][kNotes]{};
};

/// One of the two.
class Role {
 public:
  Role(Board& board, int number) : board_(board), number_(number) {}

  Board& board() { return board_; }
  /// Noted at once, as the process may be killed; a child of this one may have noted, too.
  template <class T>
  void note(const std::string& key, const T& value) {
    const std::string before = board_.notes[number_];
    Json notes = before.empty() ? Json::object() : Json::parse(before);
    notes[key] = value;
    const std::string dump = notes.dump();
    if (dump.size() + 1 > Board::kNotes) throw std::length_error("the notes are too long");
    std::memcpy(board_.notes[number_], dump.c_str(), dump.size() + 1);
  }
  void reach(int step) { board_.step = step; }
  void await(int step) const {
    for (const double end = now_ms() + 20'000; board_.step < step; sleep_ms(0.05))
      if (now_ms() > end)
        throw std::runtime_error("the other one did not reach step " + std::to_string(step));
  }

 private:
  Board& board_;
  int number_;
};

using Part = std::function<void(Role&)>;

/// Asks one question; a process without a part is not started.
inline Json ask(const Part& exporter, const Part& importer = {}) {
  void* memory =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap");
  Board& board = *new (memory) Board;
  const std::pair<const char*, const Part*> parts[] = {{"exporter", &exporter},
                                                       {"importer", &importer}};
  pid_t pids[2] = {0, 0};
  for (int i = 0; i < 2; ++i) {
    if (!*parts[i].second) continue;
    pids[i] = ::fork();
    if (pids[i] != 0) continue;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Role role(board, i);
    int status = 0;
    try {
      if (i == 0) board.exporter_pid = ::getpid();
      (*parts[i].second)(role);
    } catch (const std::exception& e) {
      role.note("ended by", e.what());
      status = 1;
    }
    std::fflush(nullptr);
    ::_exit(status);
  }
  Json answer = Json::object();
  const double deadline = now_ms() + 60'000;
  for (int i = 0; i < 2; ++i) {
    if (pids[i] == 0) continue;
    int status = 0;
    bool hung = false;
    while (::waitpid(pids[i], &status, WNOHANG) == 0) {
      if (now_ms() > deadline && !std::exchange(hung, true)) ::kill(pids[i], SIGKILL);
      sleep_ms(1);
    }
    const std::string notes = board.notes[i];
    Json& mine = answer[parts[i].first] = notes.empty() ? Json::object() : Json::parse(notes);
    if (hung)
      mine["ended by"] = "the probe, after 60 s";
    else if (WIFSIGNALED(status))
      mine["ended by signal"] = WTERMSIG(status);
  }
  ::munmap(memory, sizeof(Board));
  return answer;
}

}  // namespace tenon::probe
