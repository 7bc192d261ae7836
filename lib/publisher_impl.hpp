// The publisher's state: which version is being written, which slot each bucket lives in.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tenon/detail/per_process.hpp>
#include <tenon/publisher.hpp>
#include <tenon/unpacked.hpp>
#include <vector>

#include "gather.hpp"
#include "log_writer.hpp"
#include "slot_memory.hpp"

namespace tenon {

class Publisher::Impl {
 public:
  /// `own`: per bucket, the trainer's memory; empty when there is none.
  Impl(std::string_view name, const Layout& layout, const PublisherOptions& options,
       std::vector<OwnSlot> own);
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { close(); }

  // What Publisher and Publisher::Update offer; see publisher.hpp.
  std::uint64_t publish(std::span<const Source> sources, std::optional<Stream> stream,
                        const PublishOptions& options);
  void begin(std::optional<Stream> stream, const PublishOptions& options, bool all_unchanged);
  std::byte* open(std::size_t bucket);
  void seal(std::size_t bucket);
  void put(std::size_t bucket, std::span<const Source> sources);
  void keep(std::size_t bucket);
  std::uint64_t commit();
  void abort() noexcept;
  std::byte* storage(std::string_view parameter);
  std::uint64_t wait_current(const detail::Deadline& deadline);
  bool close(format::ClosedReason reason = format::ClosedReason::by_publisher) noexcept;
  /// Runs `action`. When it fails because the CUDA context of this process is broken, the
  /// publication is closed, and readers are told why.
  template <class Action>
  auto watched(Action action) {
    try {
      return action();
    } catch (const Error& e) {
      if (e.code() == Errc::Cuda && !closed_) check_device();
      throw;
    }
  }

  void check_owner() const;
  [[nodiscard]] bool is_owner() const noexcept { return detail::own_pid() == pid_; }
  [[nodiscard]] const ipc::LogWriter& log() const noexcept { return *log_; }
  [[nodiscard]] detail::StageRecorder& stages() noexcept { return log_->stages(); }
  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] Mode mode() const noexcept { return mode_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }
  [[nodiscard]] std::uint64_t slot_bytes() const noexcept { return slot_bytes_; }
  [[nodiscard]] std::uint64_t attempted_version() const noexcept {
    return attempt_ ? attempt_->version : 0;
  }

 private:
  /// What is known of a bucket between versions.
  struct Bucket {
    std::uint32_t slot = 0;  ///< that the newest complete version names
    std::uint64_t written_in =
        0;  ///< the version that wrote that slot's bytes; 0: nothing whole is there
    bool unconfirmed = false;  ///< an aborted version put other bytes: a source's `unchanged` is no
                               ///< longer believed
  };
  /// What a source is usually like, closer together than in the layout: publish() looks at all of
  /// them, also when nothing changed.
  struct Expected {
    std::uint64_t bytes;
    Dtype dtype;
    bool tied;
  };
  enum class Progress : std::uint8_t { missing, open, sealed, kept };
  struct Attempt {
    std::uint64_t version = 0;
    Stream stream;
    detail::Deadline deadline;
    std::function<void()> check;     ///< the caller's, while waiting
    Duration at_commit{};            ///< for readers of the records that the version takes over
    std::uint64_t saved_oldest = 0;  ///< to un-retire, as long as nothing was written
    std::uint64_t saved_current = 0;
    std::uint64_t fill_begin = 0;  ///< monotonic_ns() when its first bucket was opened
    bool written = false;          ///< a byte or a record of this version is out
    bool copies = false;           ///< work of Tenon's own is in the stream, not only the trainer's
    bool enqueued = false;         ///< work behind which nothing tells yet that it has run
    bool reads_host = false;       ///< work that reads sources in host memory
    std::vector<Progress> progress{};
    std::vector<std::uint32_t> slot{};
    std::vector<bool>
        unchanged{};  ///< sealed with bytes equal to those of the newest complete version
  };

  [[nodiscard]] std::uint64_t start() const noexcept {
    return format::start_of(attempt_->version, layout_.bucket_count());
  }
  [[nodiscard]] Attempt& attempt();
  [[nodiscard]] std::uint64_t number_for(const PublishOptions& options) const;
  [[nodiscard]] bool check_sources(std::size_t bucket, std::span<const Source> sources) const;
  void check_source(std::size_t parameter, const Source& source) const;
  void check_pointers(std::size_t bucket, std::span<const Source> sources) const;
  void await_readers(std::uint64_t line);
  void enter_filling() noexcept;
  [[nodiscard]] std::uint64_t filled_bytes() const noexcept;
  void measure_gather();
  void tell_measured();
  void clear_records();
  void open_streaming(std::size_t bucket);
  void seal_as(std::size_t bucket, bool unchanged);
  void check_not_moved(std::size_t bucket, std::span<const Source> sources) const;
  void keep_whole(Attempt& a, std::size_t bucket) noexcept;
  void put_checked(std::size_t bucket, std::span<const Source> sources, bool unchanged);
  void write_records() noexcept;
  void finish_bucket(std::size_t bucket) noexcept;

  // Completion: what is stored when the work enqueued so far has run.
  using Store = std::function<void(ipc::LogWriter&)>;
  void store_behind(Store store, Gather::Place place);
  [[nodiscard]] bool is_there();
  [[nodiscard]] Store checksum_store();
  [[nodiscard]] bool await_enqueued(const ipc::Patience& patience);
  void check_device();
  [[nodiscard]] bool settle() noexcept;
  void free_slots(const detail::Deadline& deadline) noexcept;

  std::string name_;
  Layout layout_;
  std::vector<std::string> notes_;  ///< before mode_, whose choice it explains
  Mode mode_;
  pid_t pid_;
  format::Stage filling_;     ///< what that is called in the statistics
  std::vector<OwnSlot> own_;  ///< unpacked: per bucket
  std::unique_ptr<ipc::SlotMemory> slots_;
  std::unique_ptr<Gather> gather_;
  std::shared_ptr<ipc::LogWriter> log_;  ///< shared with host functions that have not run
  std::vector<Bucket> buckets_;
  std::vector<std::uint64_t> payload_;  ///< bytes of parameters, per bucket
  std::vector<Expected> expected_;      ///< per parameter
  std::uint64_t next_version_ = 1;
  std::uint64_t committed_ = 0;  ///< the last version; aborted ones may have used numbers since
  std::optional<Attempt> attempt_;
  bool checksums_;
  std::uint64_t slot_bytes_ = 0;
  std::uint64_t enqueued_ = 0;  ///< completions enqueued, in all
  std::atomic<bool> closed_{false};
  ipc::Filled measured_{};              ///< traced: on the device, of measured_version_
  std::uint64_t measured_version_ = 0;  ///< 0: none is being measured
  bool in_use_ = false;                 ///< GPU memory, when it was closed
};

}  // namespace tenon
