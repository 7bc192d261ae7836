#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <tenon/relay.hpp>

namespace tenon::relay {
namespace {

constexpr std::size_t kLeast = 16;
constexpr std::size_t kMost = 4096;

struct Closed {
  int fd;
  ~Closed() { ::close(fd); }
};

}  // namespace

std::string read_secret(const std::string& file) {
  const std::string doing = "reading the secret in '" + file + "'";
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw SystemError(errno, doing);
  const Closed closed{fd};
  struct ::stat status {};
  if (::fstat(fd, &status) != 0) throw SystemError(errno, doing);
  if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    throw Error(Errc::InvalidArgument,
                doing + ": others than its owner may use that file; chmod 600 it");
  }
  std::array<char, kMost + 1> bytes;
  const ::ssize_t got = ::read(fd, bytes.data(), bytes.size());
  if (got < 0) throw SystemError(errno, doing);
  std::string secret(bytes.data(), static_cast<std::size_t>(got));
  while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r')) secret.pop_back();
  if (secret.size() >= kLeast && secret.size() < kMost) return secret;
  throw Error(Errc::InvalidArgument, doing + ": it has " + std::to_string(secret.size()) +
                                         " bytes, and takes " + std::to_string(kLeast) + " to " +
                                         std::to_string(kMost - 1) +
                                         " (try: head -c 32 /dev/urandom | base64)");
}

}  // namespace tenon::relay
