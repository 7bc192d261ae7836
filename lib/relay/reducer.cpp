#include "reducer.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>
#include <cstring>
#include <deque>
#include <future>
#include <relay/reduce.hpp>
#include <relay/timing.hpp>
#include <string>
#include <tenon/checksum.hpp>
#include <tenon/copy_and_wait.hpp>

namespace tenon::relay {

void check_reducible(const Layout& layout, ReduceOp op) {
  for (std::size_t i = 0; i < layout.size(); ++i) {
    try {
      (void)Reduction(layout[i].dtype, op);
    } catch (const Error& e) {
      throw Error(e.code(), "parameter '" + detail::plain(layout[i].name) + "': " + e.message());
    }
  }
}

Reducer::Reducer(const Layout& layout, const ReducerOptions& options) : options_(options) {
  std::uint64_t largest = 1;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
    std::uint64_t at = 0;
    std::vector<PaddedRun> runs;
    for (const Run& run : runs_of(layout, b)) {
      const std::uint64_t elements = share_elements(run, options.senders);
      runs.push_back({run, shares_of(run, options.senders), elements, at});
      at += elements * static_cast<std::uint64_t>(options.senders) * info(run.dtype).bytes;
    }
    largest = std::max(largest, at);
    buckets_.push_back(std::move(runs));
  }
  for (std::uint32_t i = 0; i <= options.ahead; ++i)
    rooms_.push_back(detail::allocate_block(largest));
}

void Reducer::prepare(const Lease& lease, std::size_t bucket,
                      const detail::Deadline& deadline) const {
  std::byte* to = room(bucket);
  for (const PaddedRun& p : buckets_[bucket]) {
    copy_and_wait(options_.slots, to + p.at, lease.bucket(bucket) + p.run.offset, p.run.bytes,
                  deadline.left());
    const std::uint64_t padded =
        p.elements * static_cast<std::uint64_t>(options_.senders) * info(p.run.dtype).bytes;
    std::memset(to + p.at + p.run.bytes, 0, padded - p.run.bytes);
  }
}

// To some receivers alone, the shares go pair by pair; the first sender gets them all, for the
// checksums. All members pass the shares in the same order, so none waits for one that waits.
void Reducer::hand_over(const Handover& to, std::size_t bucket,
                        const detail::Deadline& deadline) const {
  const int rank = to.senders.rank();
  const bool everybody = static_cast<int>(to.takers.size()) + options_.senders == to.all.size();
  std::byte* const bytes = room(bucket);
  for (const PaddedRun& p : buckets_[bucket]) {
    const std::uint64_t part = p.elements * info(p.run.dtype).bytes;
    std::byte* const start = bytes + p.at;
    to.senders.reduce_scatter(start, start + part * static_cast<std::uint64_t>(rank), p.elements,
                              p.run.dtype, options_.op, deadline);
    for (const Share& share : p.shares) {
      std::byte* const data = bytes + p.place(share);
      if (everybody) {
        to.all.broadcast(data, share.bytes, share.sender, deadline);
      } else if (share.sender == rank) {
        if (rank != 0) to.all.send(data, share.bytes, 0, deadline);
        for (const int taker : to.takers) to.all.send(data, share.bytes, taker, deadline);
      } else if (rank == 0) {
        to.all.receive(data, share.bytes, share.sender, deadline);
      }
    }
  }
}

std::uint64_t Reducer::sum(std::size_t bucket) const {
  std::uint64_t sums = 0;
  for (const PaddedRun& p : buckets_[bucket])
    for (const Share& share : p.shares)
      sums = add_share(sums, checksum(room(bucket) + p.place(share), share.bytes));
  return sums;
}

// The one worker does its jobs in order: the sum of what is in a room before it is filled anew.
std::vector<std::uint64_t> Reducer::run(const Handover& to, const Lease& lease,
                                        const detail::Deadline& deadline, VersionReport& report) {
  const Timed timed(report.transfer);
  const auto sent = [&] { return to.all.bytes_sent() + to.senders.bytes_sent(); };
  const std::uint64_t before = sent();
  std::deque<std::future<void>> ahead;
  std::vector<std::future<std::uint64_t>> sums;
  boost::asio::thread_pool worker(1);  // behind what it uses: its end waits for the job in hand
  std::size_t next = 0;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    while (next < buckets_.size() && ahead.size() <= options_.ahead)
      ahead.push_back(boost::asio::post(worker, boost::asio::use_future([&, n = next++] {
                                          const Timed preparing(report.prepare);
                                          prepare(lease, n, deadline);
                                        })));
    ahead.front().get();
    ahead.pop_front();
    {
      const Timed on_the_wire(report.wire);
      hand_over(to, b, deadline);
    }
    if (to.senders.rank() == 0)
      sums.push_back(boost::asio::post(worker, boost::asio::use_future([&, b] {
                                         const Timed summing(report.prepare);
                                         return sum(b);
                                       })));
  }
  std::vector<std::uint64_t> result;
  for (auto& sum : sums) result.push_back(sum.get());
  report.buckets += buckets_.size();
  report.bytes += sent() - before;
  return result;
}

std::optional<Reducer> make_reducer(const SenderOptions& options, const Layout& layout,
                                    MemoryKind slots) {
  if (options.reduce ? options.replicas < 2 || options.replicas > 64 : options.replicas != 1)
    throw Error(Errc::InvalidArgument,
                "replicas: " + std::to_string(options.replicas) +
                    "; 2 to 64 are reduced, and without an operation there is one sender");
  if (!options.reduce) return std::nullopt;
  if (options.engine == EngineKind::nccl)
    throw Error(Errc::InvalidArgument, "replicas are reduced in host memory, not by NCCL");
  check_reducible(layout, *options.reduce);
  return Reducer(layout,
                 {*options.reduce, static_cast<int>(options.replicas), slots, options.ahead});
}

}  // namespace tenon::relay
