#include "outgoing.hpp"

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
namespace {

struct Prepared {
  const std::byte* data = nullptr;
  std::uint64_t sum = 0;
};

std::uint64_t bytes_of(const Route& route, const Layout& layout) {
  return (route.shard != nullptr ? route.shard->layout() : layout).bucket_bytes(route.bucket);
}

}  // namespace

std::vector<std::uint64_t> send_buckets(const Outgoing& how, const Lease& lease,
                                        const std::vector<Route>& routes,
                                        const detail::Deadline& deadline, VersionReport& report) {
  const Layout& layout = lease.layout();
  const MemoryKind wire = how.engine.memory();
  const bool staged = how.slots != wire;
  std::uint64_t room = 0;
  for (const Route& route : routes)
    if (staged || route.shard != nullptr)
      room = std::max({room, bytes_of(route, layout), std::uint64_t{1}});
  const Staging staging(room, how.ahead + 1U);
  const auto prepare = [&](std::size_t n) -> Prepared {
    const Timed timed(report.prepare);
    const Route& route = routes[n];
    const std::byte* data = route.shard != nullptr ? nullptr : lease.bucket(route.bucket);
    const std::uint64_t bytes = bytes_of(route, layout);
    if (route.shard != nullptr) {
      route.shard->fill(route.bucket, lease, how.slots, staging.room(n), deadline);
      data = staging.room(n);
    } else if (staged) {
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
    const std::uint64_t bytes = bytes_of(route, layout);
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
