// What the linker leads the calls of AddressSanitizer and mmap() through (--wrap). Not
// instrumented.
#include <sys/types.h>

#include <cstddef>

namespace tenon::fuzz {
void note_read(const void* at);
void note_mapping(void* at, int flags);
}  // namespace tenon::fuzz

extern "C" {

#define TENON_HOOK(load)               \
  void __real_##load(const void* at);  \
  void __wrap_##load(const void* at) { \
    tenon::fuzz::note_read(at);        \
    __real_##load(at);                 \
  }
TENON_HOOK(__asan_load1)
TENON_HOOK(__asan_load2)
TENON_HOOK(__asan_load4)
TENON_HOOK(__asan_load8)
TENON_HOOK(__asan_load16)

void __real___asan_loadN(const void* at, std::size_t bytes);
void __wrap___asan_loadN(const void* at, std::size_t bytes) {
  tenon::fuzz::note_read(at);
  __real___asan_loadN(at, bytes);
}

// In two parts: bytes may change in the middle of a copy.
void* __real___asan_memcpy(void* to, const void* from, std::size_t bytes);
void* __wrap___asan_memcpy(void* to, const void* from, std::size_t bytes) {
  const std::size_t half = bytes / 16 * 8;
  tenon::fuzz::note_read(from);
  __real___asan_memcpy(to, from, half);
  tenon::fuzz::note_read(from);
  __real___asan_memcpy(static_cast<char*>(to) + half, static_cast<const char*>(from) + half,
                       bytes - half);
  return to;
}

void* __real_mmap(void* at, std::size_t bytes, int protection, int flags, int fd, off_t offset);
void* __wrap_mmap(void* at, std::size_t bytes, int protection, int flags, int fd, off_t offset) {
  void* mapped = __real_mmap(at, bytes, protection, flags, fd, offset);
  tenon::fuzz::note_mapping(mapped, flags);
  return mapped;
}

}  // extern "C"
