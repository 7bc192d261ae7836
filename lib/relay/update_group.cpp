#include <algorithm>
#include <atomic>
#include <bit>
#include <condition_variable>
#include <cstring>
#include <optional>
#include <relay/feeder.hpp>
#include <relay/small_float.hpp>
#include <tenon/copy_and_wait.hpp>
#include <tenon/update_group.hpp>
#include <utility>

namespace tenon::relay {
namespace {

template <class T>
double number(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return static_cast<double>(value);
}

template <class Float>
double small(const std::byte* at) {
  typename Float::Stored bits;
  std::memcpy(&bits, at, sizeof(bits));
  return Float::widen(bits);
}

double value_of(Dtype dtype, const std::byte* at) {
  switch (dtype) {
    case Dtype::boolean:
      return number<std::uint8_t>(at) != 0 ? 1 : 0;
    case Dtype::u8:
      return number<std::uint8_t>(at);
    case Dtype::i8:
      return number<std::int8_t>(at);
    case Dtype::f8_e5m2:
      return small<F8E5M2>(at);
    case Dtype::f8_e4m3:
      return small<F8E4M3>(at);
    case Dtype::i16:
      return number<std::int16_t>(at);
    case Dtype::u16:
      return number<std::uint16_t>(at);
    case Dtype::f16:
      return small<F16>(at);
    case Dtype::bf16:
      return small<Bf16>(at);
    case Dtype::i32:
      return number<std::int32_t>(at);
    case Dtype::u32:
      return number<std::uint32_t>(at);
    case Dtype::f32:
      return number<float>(at);
    case Dtype::f64:
      return number<double>(at);
    case Dtype::i64:
      return number<std::int64_t>(at);
    case Dtype::u64:
      return number<std::uint64_t>(at);
  }
  return 0;  // not reached: layouts are checked for known dtypes
}

std::string text_of(Dtype dtype, Shape shape) {
  std::string text(info(dtype).name);
  text += " [";
  for (std::size_t d = 0; d < shape.rank(); ++d)
    text += (d > 0 ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

void check(const Layout& layout, const Expected& expected) {
  const Placement have = layout[layout.at(expected.name)];
  const Shape shape(expected.shape.data(), expected.shape.size());
  if (have.dtype == expected.dtype &&
      std::equal(have.shape.begin(), have.shape.end(), shape.begin(), shape.end()))
    return;
  throw Error(Errc::Mismatch, "'" + expected.name + "' is " + text_of(have.dtype, have.shape) +
                                  ", and this engine expects " + text_of(expected.dtype, shape));
}

}  // namespace

class UpdateGroup::Impl {
 public:
  explicit Impl(const UpdateGroupOptions& options) : options_(options) {
    if (options.world_size < 2 || options.rank_offset < 1 ||
        options.rank_offset >= options.world_size) {
      throw Error(Errc::InvalidArgument, "rank offset " + std::to_string(options.rank_offset) +
                                             " of " + std::to_string(options.world_size) +
                                             " ranks: it takes 1 to the world's size - 1");
    }
    ReceiverOptions how = options.receiver;
    how.name = options.name;
    how.from = options.address + ":" + std::to_string(options.port);
    how.secret = options.secret;
    how.join = options.timeout;
    if (how.as.empty()) how.as = options.name;
    as_ = how.as;
    const detail::Deadline deadline(options.timeout);
    feeder_ = std::make_unique<Feeder>(how, watch());
    subscriber_.emplace(
        Subscriber::attach(how.as, {.deadline = deadline.left(), .label = "update group"}));
    await_members(deadline);
  }

  std::uint64_t update(const std::vector<Expected>& expected, Duration timeout) {
    for (const Expected& e : expected) check(subscriber_->layout(), e);
    const detail::Deadline deadline(timeout);
    held_.reset();
    for (;;) {
      feeder_->check();
      try {
        held_.emplace(subscriber_->wait(
            newer_than(version_), std::min<Duration>(deadline.left(), std::chrono::seconds(1))));
        return version_ = held_->version();
      } catch (const Error& e) {
        feeder_->check();
        if (deadline.passed()) throw;
        if (e.code() == Errc::Closed || e.code() == Errc::PublisherGone)
          follow(deadline);
        else if (e.code() != Errc::DeadlinePassed)
          throw;
      }
    }
  }
  [[nodiscard]] const Lease& version() const {
    if (held_) return *held_;
    throw Error(Errc::InvalidArgument,
                "no version of '" + options_.name + "' is held before an update() that succeeded");
  }
  [[nodiscard]] std::vector<double> get(std::string_view name, std::size_t count) const {
    const View view = version()[name];
    const std::size_t element = info(view.dtype()).bytes;
    std::vector<double> values(std::min<std::size_t>(count, view.bytes() / element));
    std::vector<std::byte> bytes(values.size() * element);
    if (!bytes.empty())
      copy_and_wait(subscriber_->memory(), bytes.data(), view.data(), bytes.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = value_of(view.dtype(), bytes.data() + i * element);
    return values;
  }
  [[nodiscard]] const UpdateGroupOptions& options() const noexcept { return options_; }

 private:
  [[nodiscard]] Watch watch() {
    Watch watch;
    watch.group = [this](const GroupReport& report) {
      const std::lock_guard lock(mutex_);
      ranks_ = report.receivers + 1;
      changed_.notify_all();
    };
    return watch;
  }
  /// The trainer started again: its successor is another publication, here too, and counts anew.
  void follow(const detail::Deadline& deadline) {
    subscriber_.emplace(
        Subscriber::attach(as_, {.deadline = deadline.left(), .label = "update group"}));
    version_ = 0;
  }
  void await_members(const detail::Deadline& deadline) {
    std::unique_lock lock(mutex_);
    while (ranks_ < options_.world_size && !deadline.passed()) {
      changed_.wait_for(lock, std::min<Duration>(deadline.left(), detail::kSlice));
      feeder_->check();
    }
    const std::string there = std::to_string(ranks_) + " of " +
                              std::to_string(options_.world_size) + " ranks are in group '" +
                              options_.name + "'";
    if (ranks_ < options_.world_size) throw Error(Errc::DeadlinePassed, "only " + there);
    if (ranks_ > options_.world_size) throw Error(Errc::Mismatch, there);
  }

  UpdateGroupOptions options_;
  std::string as_;  ///< name of the publication on this node
  std::mutex mutex_;
  std::condition_variable changed_;
  int ranks_ = 0;                   ///< in the newest group
  std::unique_ptr<Feeder> feeder_;  // behind what its thread uses
  std::optional<Subscriber> subscriber_;
  std::optional<Lease> held_;
  std::uint64_t version_ = 0;
};

UpdateGroup UpdateGroup::init(const UpdateGroupOptions& options) {
  return UpdateGroup(std::make_unique<Impl>(options));
}
UpdateGroup::UpdateGroup(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
UpdateGroup::UpdateGroup(UpdateGroup&&) noexcept = default;
UpdateGroup& UpdateGroup::operator=(UpdateGroup&&) noexcept = default;
UpdateGroup::~UpdateGroup() = default;
std::uint64_t UpdateGroup::update(Duration timeout) { return impl_->update({}, timeout); }
std::uint64_t UpdateGroup::update(const std::vector<Expected>& expected, Duration timeout) {
  return impl_->update(expected, timeout);
}
std::vector<double> UpdateGroup::get(std::string_view name, std::size_t count) {
  return impl_->get(name, count);
}
const Lease& UpdateGroup::version() const { return impl_->version(); }
int UpdateGroup::world_size() const noexcept { return impl_->options().world_size; }
int UpdateGroup::rank_offset() const noexcept { return impl_->options().rank_offset; }

}  // namespace tenon::relay
