#include "board.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

namespace tenon::stress {

const char* name_of(Doing doing) noexcept {
  static constexpr std::array<const char*, 15> kNames{
      "starting",  "creating", "publishing", "aborting", "closing",
      "attaching", "waiting",  "loading",    "reading",  "holding",
      "detaching", "cleaning", "looking",    "pausing",  "auditing"};
  return kNames[static_cast<std::size_t>(doing)];
}

int Board::make() {
  const int fd = ::memfd_create("chaos-board", 0);
  if (fd < 0 || ::ftruncate(fd, sizeof(Board)) != 0)
    throw std::system_error(errno, std::generic_category(), "making the board");
  return fd;
}

Board& Board::map(int descriptor) {
  void* memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED)
    throw std::system_error(errno, std::generic_category(), "mapping the board");
  return *static_cast<Board*>(memory);
}

}  // namespace tenon::stress
