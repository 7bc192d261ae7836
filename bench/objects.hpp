// Objects of shared memory, as a hand-off with one of them per tensor has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tenon/layout.hpp>
#include <vector>

namespace tenon::bench {

/// A mapping of a whole object.
class Mapped {
 public:
  /// The object `name` in the open directory `folder`. Errors: SystemError.
  Mapped(int folder, const std::string& name, std::uint64_t bytes, int flags);
  Mapped(Mapped&& other) noexcept;
  Mapped& operator=(Mapped&&) = delete;
  ~Mapped();
  [[nodiscard]] std::byte* data() const noexcept { return data_; }

 private:
  std::uint64_t bytes_;
  std::byte* data_ = nullptr;
};

/// Objects in a folder of /dev/shm, which goes with this object.
class Objects {
 public:
  Objects(std::string folder, std::vector<std::uint64_t> bytes);
  Objects(const Objects&) = delete;
  Objects& operator=(const Objects&) = delete;
  ~Objects();
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }
  /// As the trainer has it.
  [[nodiscard]] std::byte* operator[](std::size_t i) const noexcept { return own_[i].data(); }
  [[nodiscard]] Mapped map(std::size_t i, int flags = 0) const;

 private:
  std::string path_;
  std::vector<std::uint64_t> bytes_;
  int fd_ = -1;
  std::vector<Mapped> own_;
};

/// The size of each tensor's object; no object is empty.
[[nodiscard]] std::vector<std::uint64_t> tensor_bytes(const Layout& layout);
/// The same of each bucket.
[[nodiscard]] std::vector<std::uint64_t> bucket_bytes(const Layout& layout);

}  // namespace tenon::bench
