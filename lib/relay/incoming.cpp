#include "incoming.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>
#include <deque>
#include <future>
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
    room = std::max(room, layout.bucket_bytes(b));
  const Staging staging(room, how.ahead + 1U);
  const auto place = [&](std::byte* slot, const std::byte* came, std::uint64_t bytes) {
    const Timed timed(report.prepare);
    const std::uint64_t sum = wire == MemoryKind::host ? checksum(came, bytes) : 0;
    if (staging.used()) copy_and_wait(how.slots, slot, came, bytes, deadline.left());
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
    const std::uint64_t bytes = layout.bucket_bytes(b);
    {
      const Timed on_the_wire(report.wire);
      if (plan[b] == static_cast<char>(Carriage::broadcast))
        how.engine.broadcast(to, bytes, 0, deadline);
      else
        how.engine.receive(to, bytes, 0, deadline);
    }
    behind.push_back({b, boost::asio::post(worker, boost::asio::use_future([=, &place] {
                                             return place(slot, to, bytes);
                                           }))});
    ++came;
    ++report.buckets;
    report.bytes += bytes;
  }
  while (!behind.empty()) finish_oldest();
  return sums;
}

}  // namespace tenon::relay
