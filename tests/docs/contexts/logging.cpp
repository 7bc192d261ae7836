// An engine with a logger of its own.

// std: c++17

#include <string_view>

struct MyLogger {
  void write(const char* level, std::string_view line);
};

[[maybe_unused]] static void block([[maybe_unused]] MyLogger& my_logger) {
  // BLOCK
}
