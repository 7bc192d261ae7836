#include "values.hpp"

#include <relay/rendezvous/mailbox.hpp>
#include <utility>

namespace tenon::relay {
namespace {

constexpr std::size_t kMostBytes = std::size_t{64} << 20;  // of all groups
constexpr std::size_t kEntryBytes = 128;                   // what an entry costs beside its text

std::size_t cost_of(const std::string& key, const std::string& value) {
  return key.size() + value.size() + kEntryBytes;
}

}  // namespace

class Values::Group final : public GroupStore {
 public:
  Group(std::shared_ptr<Values> values, std::uint64_t number)
      : values_(std::move(values)), number_(number) {}

  void set(std::string_view key, std::string_view value) override {
    values_->set({number_, std::string(key), std::string(value)});
  }
  [[nodiscard]] std::string get(std::string_view key, const detail::Deadline& deadline) override {
    return values_->get(number_, key, deadline);
  }
  void cancel() noexcept override { values_->cancel(number_); }

 private:
  std::shared_ptr<Values> values_;
  std::uint64_t number_;
};

std::shared_ptr<GroupStore> Values::store(std::uint64_t group) {
  const std::lock_guard lock(mutex_);
  if (group > oldest_) {
    oldest_ = group;
    while (!groups_.empty() && groups_.begin()->first < group) {
      for (const auto& [key, value] : groups_.begin()->second.values) bytes_ -= cost_of(key, value);
      groups_.erase(groups_.begin());
    }
    changed_.notify_all();
  }
  if (group == oldest_) groups_.try_emplace(group);  // here, as cancel() must not throw
  return std::make_shared<Group>(shared_from_this(), group);
}

bool Values::put(const Value& value) {
  const std::lock_guard lock(mutex_);
  return keep(value);
}

bool Values::keep(const Value& value) {
  if (value.group < oldest_) return true;  // nobody asks for it any more
  if (bytes_ + cost_of(value.key, value.bytes) > kMostBytes) return false;
  auto& known = groups_[value.group].values;
  const auto before = known.find(value.key);
  if (before != known.end()) bytes_ -= cost_of(before->first, before->second);
  bytes_ += cost_of(value.key, value.bytes);
  known.insert_or_assign(value.key, value.bytes);
  changed_.notify_all();
  return true;
}

void Values::close(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  reason_ = reason;
  tell_ = nullptr;
  changed_.notify_all();
}

void Values::set(const Value& value) {
  const std::lock_guard lock(mutex_);
  if (closed_) fail(Errc::PeerGone, value.key, reason_);
  if (role_ == Role::sender && !keep(value))
    fail(Errc::InvalidArgument, value.key, "the store holds as much as it may");
  tell_(value);
}

std::string Values::get(std::uint64_t group, std::string_view key,
                        const detail::Deadline& deadline) {
  std::unique_lock lock(mutex_);
  std::optional<std::string> found;
  const bool ended = wait_for(changed_, lock, deadline, [&] {
    const auto known = groups_.find(group);
    if (known == groups_.end())
      fail(Errc::Aborted, key, "group " + std::to_string(group) + " is over");
    if (known->second.cancelled)
      fail(Errc::Aborted, key, "group " + std::to_string(group) + " was broken up");
    const auto at = known->second.values.find(key);
    if (at != known->second.values.end()) found = at->second;
    return found || closed_;
  });
  if (found) return *std::move(found);
  if (ended) fail(Errc::PeerGone, key, reason_);
  fail(Errc::DeadlinePassed, key, "no member of group " + std::to_string(group) + " has set it");
}

void Values::cancel(std::uint64_t group) noexcept {
  const std::lock_guard lock(mutex_);
  const auto known = groups_.find(group);
  if (known != groups_.end()) known->second.cancelled = true;
  changed_.notify_all();
}

void Values::fail(Errc code, std::string_view key, const std::string& why) {
  throw Error(code, "the group's value \"" + detail::plain(key) + "\": " + why);
}

}  // namespace tenon::relay
