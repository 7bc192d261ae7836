// Reads and writes safetensors files, the format that most published weights come in.
//
// A file is: header length (8 bytes, little-endian), header (JSON), data. The header gives each
// tensor's dtype, shape and byte range in the data. Files come from elsewhere, so everything in the
// header is checked before a caller sees any of it; after that, reading is plain pread().
//
// Reading is strict: the data is covered exactly, with no overlap, no hole and no byte to spare,
// and no name occurs twice. Whoever reads the same file with another library gets the same tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tenon/types.hpp>
#include <utility>
#include <vector>

namespace tenon::safetensors {

/// A longer header is refused, as the reference implementation does. Bytes.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

/// What the header's `__metadata__` holds: free text to free text.
using Metadata = std::map<std::string, std::string>;

/// Which file each tensor is in: an index's `weight_map`.
using WeightMap = std::map<std::string, std::string>;

/// One tensor in a file.
struct Entry {
  Parameter parameter;       ///< name, dtype and shape; never tied, never a box
  std::uint64_t offset = 0;  ///< of its first byte, from the beginning of the file
  std::uint64_t bytes = 0;   ///< equal to byte_size(dtype, shape)
};

/// A header that passed every check.
struct Header {
  std::vector<Entry> entries;  ///< by offset; empty tensors that share one stay in header order
  Metadata metadata;
};

/// Checks a header and returns what it says. Pure: any bytes at all give a Header or an Error.
/// `data_bytes` is what the file holds after the header; `source` opens every message.
///
/// Errors:   Error(BadFile) naming the tensor, the field and the values.
[[nodiscard]] Header parse_header(std::string_view json, std::uint64_t data_bytes,
                                  std::string_view source = "safetensors header");

/// Checks an index (`*.safetensors.index.json`) and returns its weight_map; every file name in it
/// is a plain name, so joining it to a folder stays in that folder. Pure, like parse_header().
///
/// Errors:   Error(BadFile) naming the entry.
[[nodiscard]] WeightMap parse_index(std::string_view json,
                                    std::string_view source = "safetensors index");

/// Owns a file descriptor: closed when this object dies. -1 owns nothing.
class Descriptor {
 public:
  Descriptor() noexcept = default;
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_ = -1;
};

/// One safetensors file, open for reading.
///
/// Units:    offsets and sizes are bytes.
/// Errors:   Error(BadFile) when the file is not what the format asks for, or shrank since it was
///           opened; SystemError when it cannot be opened or read.
/// Threads:  const members may be called from any number of threads at once.
class File {
 public:
  /// Opens the file and checks all of its header.
  [[nodiscard]] static File open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] const std::vector<Entry>& entries() const noexcept { return header_.entries; }
  [[nodiscard]] const Metadata& metadata() const noexcept { return header_.metadata; }

  /// Copies `bytes` bytes of the tensor, from its byte `offset` on, to `to`. `entry` is one of
  /// entries(). Error(InvalidArgument) when the range leaves the tensor.
  void read(const Entry& entry, std::uint64_t offset, std::byte* to, std::uint64_t bytes) const;

 private:
  File(std::filesystem::path path, Descriptor fd, Header header)
      : path_(std::move(path)), fd_(std::move(fd)), header_(std::move(header)) {}

  std::filesystem::path path_;
  Descriptor fd_;
  Header header_;
};

/// One or several files that together hold a model's tensors.
///
/// Units:    offsets and sizes are bytes.
/// Errors:   as File; also Error(BadFile) when a tensor is in two files, when an index and its
///           files disagree, or when there is no tensor at all.
/// Threads:  const members may be called from any number of threads at once.
class Checkpoint {
 public:
  /// Opens safetensors files and `*.safetensors.index.json` files, in the order given. An index
  /// stands for the files that it names, in its own folder, in order of their names.
  [[nodiscard]] static Checkpoint open(const std::vector<std::filesystem::path>& paths);

  /// Every tensor, file by file, in each file's order.
  [[nodiscard]] const std::vector<Parameter>& parameters() const noexcept { return parameters_; }
  /// That of all files. Where two files give one key, the first file's value is kept.
  [[nodiscard]] const Metadata& metadata() const noexcept { return metadata_; }
  /// Of all tensors together, headers not counted.
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

  /// As File::read(), for parameters()[parameter_index].
  void read(std::size_t parameter_index, std::uint64_t offset, std::byte* to,
            std::uint64_t bytes) const;

 private:
  struct Place {
    std::size_t file;
    std::size_t entry;
  };

  Checkpoint() = default;
  void collect();

  std::vector<File> files_;
  std::vector<Parameter> parameters_;
  std::vector<Place> places_;  // of parameters_[i], same index
  Metadata metadata_;
  std::uint64_t bytes_ = 0;
};

/// Writes one safetensors file. Under its name there is either what was there before or the whole
/// new file, also after a crash: the bytes go to a temporary file in the same folder, which
/// commit() renames. Without commit() the temporary file goes away with this object.
///
/// Tensors are laid out by descending element size after a header padded to 8 bytes, so each begins
/// at a multiple of its element size and the file can be mapped and used in place.
///
/// Units:    sizes are bytes.
/// Errors:   Error(InvalidArgument) for a call or a parameter that cannot be right; SystemError
///           with the path when the system refuses. A failed write() may be tried again.
/// Threads:  no locking inside; one thread at a time.
class Writer {
 public:
  /// Creates the temporary file and writes the header. A Parameter's box is not recorded: what is
  /// written is the tensor of `shape`. Tied parameters are refused, since a safetensors file cannot
  /// hold two names for the same bytes; leave them out.
  Writer(std::filesystem::path path, std::vector<Parameter> parameters,
         const Metadata& metadata = {});

  /// The order that write() wants: indices into the constructor's `parameters`.
  [[nodiscard]] const std::vector<std::size_t>& order() const noexcept { return order_; }

  /// Writes all bytes of the next parameter in order(), which must be `parameter_index`. `data` may
  /// be null when the tensor is empty.
  void write(std::size_t parameter_index, const std::byte* data);
  /// The same in parts, one call behind another: the next `bytes` bytes of that parameter.
  void write_part(std::size_t parameter_index, const std::byte* data, std::uint64_t bytes);

  /// Flushes the file to disk and puts it under its name, in place of a file that was there. Call
  /// once, after every parameter was written.
  void commit();

 private:
  struct Unlink {
    void operator()(const std::filesystem::path* path) const noexcept;
  };

  struct Place {
    std::uint64_t begin;  // in the data
    std::uint64_t bytes;
  };

  void lay_out();
  void check_next(std::size_t parameter_index) const;
  [[nodiscard]] std::string header(const Metadata& metadata) const;
  void create_temporary();
  void put(std::uint64_t offset, const char* data, std::uint64_t bytes);

  std::filesystem::path path_;
  std::vector<Parameter> parameters_;
  std::vector<std::size_t> order_;
  std::vector<Place> places_;      // of parameters_[i], same index
  std::uint64_t data_offset_ = 0;  // of the data, in the file
  std::size_t next_ = 0;           // into order_
  std::uint64_t written_ = 0;      // bytes of that one
  // Unlinks the file; empty once committed. Before fd_, so that the file is closed first.
  std::unique_ptr<const std::filesystem::path, Unlink> temporary_;
  Descriptor fd_;
};

}  // namespace tenon::safetensors
