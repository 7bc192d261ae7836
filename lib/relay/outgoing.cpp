#include "outgoing.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>
#include <deque>
#include <future>
#include <relay/staging.hpp>
#include <relay/timing.hpp>
#include <tenon/checksum.hpp>

namespace tenon::relay {
namespace {

struct Prepared {
  const std::byte* data = nullptr;
  std::uint64_t sum = 0;
};

}  // namespace

std::vector<std::uint64_t> send_buckets(const Outgoing& how, const Lease& lease,
                                        const std::vector<Route>& routes,
                                        const detail::Deadline& deadline, VersionReport& report) {
  const Layout& layout = lease.layout();
  const MemoryKind wire = how.engine.memory();
  const Staging staging(layout, how.slots, wire, how.ahead + 1U);
  const auto prepare = [&](std::size_t n) -> Prepared {
    const Timed timed(report.prepare);
    const std::byte* data = lease.bucket(routes[n].bucket);
    const std::uint64_t bytes = layout.bucket_bytes(routes[n].bucket);
    if (staging.used()) {
      copy_and_wait(how.slots, staging.room(n), data, bytes, deadline.left());
      data = staging.room(n);
    }
    return {data, wire == MemoryKind::host ? checksum(data, bytes) : 0};
  };
  const Timed timed(report.transfer);
  std::vector<std::uint64_t> sums;
  std::deque<std::future<Prepared>> ahead;
  boost::asio::thread_pool worker(1);  // behind what it uses: its end waits for the job in hand
  std::size_t next = 0;
  for (const Route& route : routes) {
    while (next < routes.size() && ahead.size() < how.ahead + 1U)
      ahead.push_back(boost::asio::post(
          worker, boost::asio::use_future([&prepare, n = next++] { return prepare(n); })));
    const Prepared prepared = ahead.front().get();
    ahead.pop_front();
    const std::uint64_t bytes = layout.bucket_bytes(route.bucket);
    const Timed on_the_wire(report.wire);
    // A broadcast writes on the receivers' side alone.
    auto* data = const_cast<std::byte*>(prepared.data);
    if (route.broadcast) how.engine.broadcast(data, bytes, 0, deadline);
    for (const int rank : route.ranks) how.engine.send(data, bytes, rank, deadline);
    if (wire == MemoryKind::host) sums.push_back(prepared.sum);
    ++report.buckets;
    report.bytes += bytes * (route.broadcast ? 1 : route.ranks.size());
  }
  return sums;
}

}  // namespace tenon::relay
