#include "objects.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <tenon/error.hpp>
#include <utility>

namespace tenon::bench {

Mapped::Mapped(int folder, const std::string& name, std::uint64_t bytes, int flags)
    : bytes_(bytes) {
  const int fd = ::openat(folder, name.c_str(), flags | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) throw SystemError(errno, "opening object " + name);
  const bool sized = (flags & O_CREAT) == 0 || ::ftruncate(fd, static_cast<off_t>(bytes)) == 0;
  void* const at =
      sized ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  const int error = errno;
  ::close(fd);
  if (at == MAP_FAILED) throw SystemError(error, "sizing and mapping object " + name);
  data_ = static_cast<std::byte*>(at);
}
Mapped::Mapped(Mapped&& other) noexcept
    : bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
Mapped::~Mapped() {
  if (data_ != nullptr) (void)::munmap(data_, bytes_);
}

Objects::Objects(std::string folder, std::vector<std::uint64_t> bytes)
    : path_("/dev/shm/" + std::move(folder)), bytes_(std::move(bytes)) {
  std::filesystem::create_directory(path_);
  fd_ = ::open(path_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0) throw SystemError(errno, "opening " + path_);
  own_.reserve(bytes_.size());
  for (std::size_t i = 0; i < bytes_.size(); ++i) own_.push_back(map(i, O_CREAT | O_EXCL));
}
Objects::~Objects() {
  ::close(fd_);
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}
Mapped Objects::map(std::size_t i, int flags) const {
  return {fd_, std::to_string(i), bytes_[i], flags};
}

std::vector<std::uint64_t> tensor_bytes(const Layout& layout) {
  std::vector<std::uint64_t> bytes;
  for (std::size_t i = 0; i < layout.size(); ++i)
    bytes.push_back(std::max<std::uint64_t>(layout[i].bytes, sizeof(std::uint64_t)));
  return bytes;
}
std::vector<std::uint64_t> bucket_bytes(const Layout& layout) {
  std::vector<std::uint64_t> bytes;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) bytes.push_back(layout.bucket_bytes(b));
  return bytes;
}

}  // namespace tenon::bench
