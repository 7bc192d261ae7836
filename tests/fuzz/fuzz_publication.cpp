// The publication reader: whatever a segment holds, reading it ends with views that lie in its
// slots, or with an Error.
#include "reader.hpp"
#include "target.hpp"

namespace tenon::fuzz {
namespace {

void run(const std::uint8_t* input, std::size_t size) {
  if (!Image::is_long_enough(size)) return;
  const Image image = Image::of(input, size);
  read_bytes(image);
  if (!by_name_too(input, size)) return;
  static Published published;
  published.put(image);
  published.read();
}

}  // namespace
}  // namespace tenon::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  tenon::fuzz::run(input, size);
  return 0;
}
