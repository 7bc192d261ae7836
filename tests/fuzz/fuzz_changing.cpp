// The publication reader while the segment changes under it: what was checked must be what is used.
//
// A second thread would change bytes at some instant nobody can repeat. Here the reader itself does
// it: every load that AddressSanitizer looks at is a call (the build asks for that), and the linker
// leads these calls through the functions at the end of this file. The input says after how many
// reads of the segment which bits flip. In builds without AddressSanitizer bytes change between the
// steps alone.
#include <sys/mman.h>
#include <sys/types.h>

#include <cstring>
#include <iterator>

#include "reader.hpp"
#include "target.hpp"

namespace tenon::fuzz {
namespace {

/// The segment as it is being read: by whom, and where it is written.
struct Watched {
  const std::byte* read_at = nullptr;  ///< null: nothing is watched
  std::byte* write_at = nullptr;
  std::size_t bytes = 0;
  Script script{};
  std::size_t next = 0;  ///< of the script's changes
  std::size_t left = 0;  ///< reads until then
  bool stepping = false;

  void begin(std::byte* write, std::size_t size, const Script& changes) {
    write_at = write;
    bytes = size;
    script = changes;
    next = 0;
    left = script.changes[0].after;
  }
  void read(const std::byte* at) {
    if (read_at != nullptr && at >= read_at && at < read_at + bytes) step();
  }
  void step() {
    if (stepping) return;  // these lines read too
    stepping = true;
    count();
    stepping = false;
  }

 private:
  void count() {
    while (next < std::size(script.changes)) {
      if (left > 0) {
        --left;
        return;
      }
      apply(script.changes[next]);
      left = ++next < std::size(script.changes) ? script.changes[next].after : 0;
    }
  }
  void apply(const Change& change) const {
    const std::size_t offset = Image::offset_of(change.offset % (bytes - kLeftOut) / 8 * 8);
    if (offset + 8 > bytes) return;
    std::uint64_t word = 0;
    std::memcpy(&word, write_at + offset, 8);
    word ^= change.flips;
    std::memcpy(write_at + offset, &word, 8);
  }
};
Watched watched;
bool watch_mappings = false;

void run(const std::uint8_t* input, std::size_t size) {
  if (!Image::is_long_enough(size)) return;
  between_steps = [] {
    if (watched.write_at != nullptr) watched.step();
  };
  const Script script = Image::script_of(input);
  const Image image = Image::of(input, size);
  const bool by_name = by_name_too(input, size);
  static Published published;
  if (by_name) {
    published.put(image);
    watched.begin(published.bytes(), image.size, script);
    watch_mappings = true;
    published.read();
    watch_mappings = false;
  }
  watched.begin(image.bytes.get(), image.size, script);
  watched.read_at = image.bytes.get();
  read_bytes(image);
  watched = {};
}

}  // namespace

/// Called for every load.
void note_read(const void* at) { watched.read(static_cast<const std::byte*>(at)); }
/// Called for every mapping: those of shared memory are the segment.
void note_mapping(void* at, int flags) {
  if (watch_mappings && (flags & MAP_SHARED) != 0) watched.read_at = static_cast<std::byte*>(at);
}

}  // namespace tenon::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  tenon::fuzz::run(input, size);
  return 0;
}
