// What a subscriber and an operator do with a publication, and what must hold whatever its bytes
// are.
#pragma once

#include <cstddef>
#include <tenon/detail/shared_object.hpp>

#include "image.hpp"

namespace tenon::fuzz {

/// Ends the process when something that must hold does not.
void require(bool holds, const char* what);

/// Called between the steps of a reading. Set by the fuzzer of a changing segment.
inline void (*between_steps)() = [] {};

/// Judges and reads the bytes, with the functions that do so behind attach() and inspect(), without
/// a system call: the header, the layout, slots, log and checksums.
void read_bytes(const Image& image);

/// A publication under a name, of this process, whose bytes are an image's.
class Published {
 public:
  Published();
  ~Published();
  Published(const Published&) = delete;
  Published& operator=(const Published&) = delete;

  /// Puts the image under the name.
  void put(const Image& image);
  [[nodiscard]] std::byte* bytes() const noexcept { return object_.data(); }
  /// inspect(), attach(), leases, views, loads: as a program does it.
  void read() const;

 private:
  detail::SharedObject object_;
};

}  // namespace tenon::fuzz
