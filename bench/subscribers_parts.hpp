// The scenario subscribers, whatever the memory of the publication.
#pragma once

#include <cstdint>
#include <functional>
#include <tenon/layout.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <vector>

#include "options.hpp"
#include "report.hpp"

namespace tenon::bench {

/// What its processes do with a kind of memory. Each function is called in the process that uses
/// what it returns, after the fork.
struct SubscribersMemory {
  using Publish = std::function<void(Publisher&, const PublishOptions&)>;
  using CountWrong = std::function<std::uint64_t(const Lease&)>;

  PublisherOptions publication;
  std::vector<unsigned> subscribers;  ///< at most kMostSubscribers; a row for each
  std::size_t rounds;
  /// The first publish() gathers; to those that follow every source is unchanged.
  std::function<Publish()> publisher;
  /// Tensors that are not what was gathered.
  std::function<CountWrong()> subscriber;
};
inline constexpr unsigned kMostSubscribers = 16;

/// Of few small buckets.
[[nodiscard]] Layout subscribers_layout(Report& report);
/// All rows and figures. Call while this process has one thread and has not used CUDA.
void measure_subscribers(const Options& options, Report& report, const Layout& layout,
                         const SubscribersMemory& memory);

}  // namespace tenon::bench
