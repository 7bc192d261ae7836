#include <dirent.h>

#include <algorithm>
#include <memory>
#include <tenon/inspect.hpp>

namespace tenon {
namespace detail {

std::vector<SubscriberInfo> read_places(const Segment& segment) {
  std::vector<SubscriberInfo> places;
  for (std::uint32_t i = 0; i < format::kPlaces; ++i) {
    const format::Place& row = segment.place(i);
    // acquire, here and of the cursor: owner and label were stored before the one, since when
    // before the other.
    if (row.state.load(std::memory_order_acquire) ==
        static_cast<std::uint32_t>(format::PlaceState::free))
      continue;
    SubscriberInfo info;
    info.place = i;
    const format::Process owner = owner_of(row);
    info.pid = owner.pid;
    info.started = owner.start_time;
    info.label = clean_text(row.label);
    info.alive = !is_dead(segment.object().fd(), i, owner);
    info.last_version = row.loaded_version.load(std::memory_order_relaxed);
    const std::uint64_t cursor = row.cursor.load(std::memory_order_acquire);
    if (const format::StageBlock* stages = segment.stages(i))
      info.stages = read_stages(*stages, owner);
    if (cursor != format::kIdle) {
      info.holds = format::version_of(cursor, segment.facts().buckets);
      const std::uint64_t since = row.pinned_at.load(std::memory_order_relaxed);
      const std::uint64_t now = monotonic_ns();
      info.wanted = segment.header().oldest.load(std::memory_order_relaxed) > cursor;
      info.held_for = Duration(now > since ? now - since : 0);
    }
    places.push_back(std::move(info));
  }
  return places;
}

}  // namespace detail

PublicationInfo inspect(std::string_view name, std::optional<Uid> owner) {
  PublicationInfo info;
  info.name = name;
  info.owner = owner.value_or(::geteuid());
  const detail::Found found =
      detail::find_publication(name, info.owner, detail::SharedObject::Access::read_only);
  info.state = found.state;
  info.why = found.why;
  if (!found.segment) return info;
  const detail::Facts& facts = found.segment->facts();
  info.pid = facts.publisher.pid;
  info.label = facts.label;
  std::uint8_t instance[16];
  std::copy(facts.instance.begin(), facts.instance.end(), instance);
  info.instance = detail::instance_text(instance);
  info.mode = facts.mode;
  info.memory = facts.memory;
  if (facts.memory == MemoryKind::cuda) info.device = detail::device_text(facts.device_uuid);
  info.checksums = facts.checksum_bytes != 0;
  info.buckets = facts.buckets;
  info.slots = facts.slots;
  for (std::uint64_t s = 0; s < facts.slots; ++s)
    info.slot_bytes += found.segment->slot(s, 0).bytes;
  info.version = format::version_of(found.segment->header().current.load(std::memory_order_acquire),
                                    facts.buckets);
  if (const format::StageBlock* stages = found.segment->stages(format::kPublisherByte))
    info.stages = detail::read_stages(*stages, facts.publisher);
  info.created_at = facts.created_at;
  info.layout = found.segment->layout();
  info.subscribers = detail::read_places(*found.segment);
  return info;
}

std::vector<PublicationInfo> list(std::optional<Uid> owner) {
  const Uid uid = owner.value_or(::geteuid());
  const std::string prefix = detail::publication_prefix(uid);
  std::vector<PublicationInfo> all;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir("/dev/shm"), ::closedir);
  if (!dir) throw SystemError(errno, "listing /dev/shm");
  while (const struct ::dirent* entry = ::readdir(dir.get())) {
    const std::string_view object = entry->d_name;
    if (!object.starts_with(prefix) || !is_valid_name(object.substr(prefix.size()))) continue;
    const std::string name(object.substr(prefix.size()));
    try {
      PublicationInfo info = inspect(name, uid);
      if (info.state != Attach::absent) all.push_back(std::move(info));
    } catch (const std::exception& e) {  // also bad_alloc: a lying size
      PublicationInfo damaged;
      damaged.name = name;
      damaged.owner = uid;
      damaged.state = Attach::stale;
      damaged.why = detail::message_of(e);
      all.push_back(std::move(damaged));
    }
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return all;
}

}  // namespace tenon
