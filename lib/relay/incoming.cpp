#include "incoming.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>
#include <deque>
#include <future>
#include <relay/shares.hpp>
#include <relay/staging.hpp>
#include <relay/timing.hpp>
#include <tenon/checksum.hpp>
#include <tenon/copy_and_wait.hpp>

namespace tenon::relay {

std::vector<std::uint64_t> receive_buckets(const Incoming& how, Publisher::Update& update,
                                           const Layout& layout, const std::string& plan,
                                           const detail::Deadline& deadline,
                                           VersionReport& report) {
  const MemoryKind wire = how.engine.memory();
  std::uint64_t room = 0;
  for (std::size_t b = 0; how.slots != wire && b < layout.bucket_count(); ++b)
    room = std::max({room, layout.bucket_bytes(b), std::uint64_t{1}});
  const Staging staging(room, how.ahead + 1U);
  const auto place = [&](std::byte* slot, const std::byte* came, std::size_t bucket) {
    const Timed timed(report.prepare);
    std::uint64_t sum = 0;
    for (const Share& s : shares_of(layout, bucket, how.senders)) {
      if (wire == MemoryKind::host) sum = add_share(sum, checksum(came + s.offset, s.bytes));
      if (staging.used())
        copy_and_wait(how.slots, slot + s.offset, came + s.offset, s.bytes, deadline.left());
    }
    return sum;
  };
  struct Placing {
    std::size_t bucket;
    std::future<std::uint64_t> sum;
  };
  const Timed timed(report.transfer);
  std::vector<std::uint64_t> sums;
  std::deque<Placing> behind;
  boost::asio::thread_pool worker(1);  // behind what it uses: its end waits for the job in hand
  const auto finish_oldest = [&] {
    const std::uint64_t sum = behind.front().sum.get();
    if (wire == MemoryKind::host) sums.push_back(sum);
    update.seal(behind.front().bucket);
    behind.pop_front();
  };
  std::size_t came = 0;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
    if (plan[b] == static_cast<char>(Carriage::kept)) {
      update.keep(b);
      ++report.kept;
      continue;
    }
    while (behind.size() > how.ahead) finish_oldest();  // frees the room for this one
    std::byte* slot = update.open(b);
    std::byte* to = staging.used() ? staging.room(came) : slot;
    for (const Share& share : shares_of(layout, b, how.senders)) {
      const Timed on_the_wire(report.wire);
      if (plan[b] == static_cast<char>(Carriage::broadcast))
        how.engine.broadcast(to + share.offset, share.bytes, share.sender, deadline);
      else
        how.engine.receive(to + share.offset, share.bytes, share.sender, deadline);
    }
    behind.push_back({b, boost::asio::post(worker, boost::asio::use_future([=, &place] {
                                             return place(slot, to, b);
                                           }))});
    ++came;
    ++report.buckets;
    report.bytes += layout.bucket_bytes(b);
  }
  while (!behind.empty()) finish_oldest();
  return sums;
}

}  // namespace tenon::relay
