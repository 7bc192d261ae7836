#include "joining.hpp"

#include <relay/doing.hpp>
#include <relay/node.hpp>
#include <relay/timing.hpp>

namespace tenon::relay {

void end_group_on(const Event& event, Group& group) noexcept {
  if (event.kind == Event::Kind::left) {
    group.break_all();
  } else if (event.message.type == FormGroup::kType) {
    try {
      group.break_before(read<FormGroup>(event.message).group);
    } catch (const std::exception&) {
      group.break_all();  // the working thread will say what is wrong with it
    }
  }
}

bool enter_group(Group& group, const FormGroup& announced, const Newcomer& who) {
  Ready ready{.group = announced.group, .version = who.version, .failure = {}};
  const detail::Deadline deadline{std::chrono::milliseconds(announced.deadline_ms)};
  GroupReport report{.group = announced.group,
                     .receivers = announced.size - announced.senders,
                     .engine = announced.engine};
  try {
    const Doing doing(who.watch, "joining group " + std::to_string(announced.group));
    {
      const Timed timed(report.setup);
      group.join(announced.group, {}, who.connection.store(announced.group), [&](Store& store) {
        return make_engines(
            announced.engine,
            {announced.rank, announced.size, who.connection.local_address(), &store},
            announced.senders, who.device, deadline);
      });
    }
    const Timed timed(report.warm_up);
    group.warm_up(deadline);
  } catch (const Error& e) {
    group.leave();
    ready.failure = e.message();
  }
  who.connection.send(to_message(ready));
  detail::log(LogLevel::info, "relay, ", ready.failure.empty() ? "in" : "not in", " group ",
              announced.group, ready.failure.empty() ? "" : ": ", ready.failure);
  if (ready.failure.empty()) {
    if (who.watch.group) who.watch.group(report);
  } else if (who.watch.note) {
    who.watch.note("not in group " + std::to_string(announced.group) + ": " + ready.failure);
  }
  return ready.failure.empty();
}

}  // namespace tenon::relay
