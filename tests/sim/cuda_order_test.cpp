// Order in GPU memory: complete means finished, released means passed, whatever the streams do.
#include <algorithm>
#include <cmath>
#include <random>
#include <sim/sim_support.hpp>
#include <tenon/inspect.hpp>

namespace tenon::test {
namespace {

class Order : public Simulated {
 protected:
  /// Streams that dawdle, so that work done too early or too late shows.
  static constexpr const char* kDawdle = "2000";
};

TEST_F(Order, PublishReturnsBeforeItsCopiesAreMade) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  cudaStream_t stream = make_stream();
  const auto sources = model_.sources(1);
  Held held(stream);
  EXPECT_EQ(pub.publish(sources, Stream(stream)), 1U);
  let_things_happen();
  EXPECT_EQ(pub.version(), 0U);
  EXPECT_EQ(sub.current_version(), 0U);
  EXPECT_FALSE(sub.try_acquire());
  EXPECT_THROWS(DeadlinePassed, "version 1", (void)pub.wait_current(20ms));
  held.release();
  EXPECT_EQ(pub.wait_current(kPatience), 1U);
  EXPECT_EQ(pub.version(), 1U);
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 1), 0U);
}

// Copies made, function not yet run: still not current.
TEST_F(Order, CurrentIsStoredByTheHostFunctionAndNothingElse) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  const auto sources = model_.sources(1);
  HeldHostFunctions held;
  (void)pub.publish(sources);
  let_things_happen();
  EXPECT_EQ(pub.version(), 0U);
  EXPECT_FALSE(sub.try_acquire());
  held.release();
  EXPECT_EQ(pub.wait_current(kPatience), 1U);
}

// CUDA takes a while to call a host function: what the trainer enqueues next need not wait for it.
TEST_F(Order, WorkBehindAVersionDoesNotWaitForItsHostFunction) {
  for (const Mode mode : {Mode::in_place, Mode::double_buffered}) {
    Publisher pub =
        Publisher::create(unique_name("aside"), model_.layout, {.memory = cuda(0), .mode = mode});
    const auto sources = model_.sources(1);
    cudaStream_t stream = make_stream();
    HeldHostFunctions held;
    EXPECT_EQ(pub.publish(sources, Stream(stream)), 1U);
    EXPECT_TRUE(eventually([&] { return cudaStreamQuery(stream) == cudaSuccess; }));
    EXPECT_EQ(pub.version(), 0U);
    held.release();
    EXPECT_EQ(pub.wait_current(kPatience), 1U);
  }
}

// Version 3 takes version 1's records, so commit() waits for their readers: behind that wait the
// copies go on.
TEST_F(Order, TheGatherIsUnderWayUntilTheLastCopyIsMade) {
  Publisher pub = create(Mode::double_buffered);
  (void)model_.publish(pub, 1);
  const auto sources = model_.sources(3);
  HeldHostFunctions held;
  (void)pub.publish(sources, {.version = 3});
  EXPECT_EQ(inspect(name_).stages->now, Stage::gather);
  held.release();
  EXPECT_EQ(pub.wait_current(kPatience), 3U);
  EXPECT_EQ(inspect(name_).stages->now, std::nullopt);
}

/// A host function of the program's own, on a stream of its own, that does not return.
class SlowHostFunction {
 public:
  SlowHostFunction() {
    const auto run = [](void* argument) {
      auto* const it = static_cast<SlowHostFunction*>(argument);
      it->begun_ = true;
      while (!it->ends_) std::this_thread::sleep_for(200us);
    };
    EXPECT_EQ(cudaLaunchHostFunc(stream_, run, this), cudaSuccess);
    EXPECT_TRUE(eventually([this] { return begun_.load(); }));
  }
  ~SlowHostFunction() { end(); }
  SlowHostFunction(const SlowHostFunction&) = delete;
  SlowHostFunction& operator=(const SlowHostFunction&) = delete;
  void end() {
    ends_ = true;
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  }

 private:
  cudaStream_t stream_ = make_stream();
  std::atomic<bool> begun_{false};
  std::atomic<bool> ends_{false};
};

// CUDA runs the host functions of all streams one after the other: one of the program's own that
// takes long delays a version and the end of a lease, and that is all it does.
TEST_F(Order, ASlowHostFunctionOfTheProgramDelaysCommitsAndReleases) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  const auto sources = model_.sources(1);
  publish(pub, sources);
  Lease lease = sub.wait(newest(), kPatience);
  {
    SlowHostFunction slow;
    lease.release(Stream(make_stream()));
    let_things_happen();
    EXPECT_EQ(pub.subscribers().at(0).holds, 1U);
    EXPECT_THROWS(DeadlinePassed, "holds", (void)pub.publish(sources, {.deadline = 50ms}));
    slow.end();
    EXPECT_TRUE(eventually([&] { return pub.subscribers().at(0).holds == 0; }));
  }
  SlowHostFunction slow;
  EXPECT_EQ(pub.publish(sources, Stream(make_stream())), 2U);
  EXPECT_THROWS(DeadlinePassed, "version 2", (void)pub.wait_current(50ms));
  EXPECT_EQ(pub.version(), 0U);
  slow.end();
  EXPECT_EQ(pub.wait_current(kPatience), 2U);
}

// Looks at the slots the very moment a version is current, past every stream.
TEST_F(Order, CurrentIsNeverStoredBeforeTheCopiesAreMade) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  for (const Mode mode : {Mode::in_place, Mode::double_buffered}) {
    const std::string name = unique_name("early");
    Publisher pub = Publisher::create(name, model_.layout, {.memory = cuda(0), .mode = mode});
    auto sub = Subscriber::attach(name);
    cudaStream_t stream = make_stream();
    for (std::uint64_t v = 1; v <= 30; ++v) {
      const auto sources = model_.sources(v);
      (void)pub.publish(sources, Stream(stream));
      ASSERT_TRUE(eventually([&] { return sub.current_version() == v; }));
      const Lease lease = sub.try_acquire().value();
      for (const View& view : lease) {
        const auto expected = model_.bytes_of(model_.layout.at(view.name()), v);
        const auto* got = static_cast<const std::byte*>(sim::host_view(view.data()));
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), got))
            << view.name() << " of version " << v << ", " << name_of(mode);
      }
    }
  }
}

TEST_F(Order, ReadersInOtherProcessesSeeOnlyFinishedVersions) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  constexpr std::uint64_t kVersions = 40;
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    for (std::uint64_t seen = 0; seen < kVersions;) {
      const Lease lease = sub.wait(newer_than(seen), kPatience);
      seen = lease.version();
      EXPECT_EQ(model_.wrong(lease), 0U) << "version " << seen;
    }
    return 0;
  });
  Publisher pub = create(Mode::double_buffered);
  cudaStream_t stream = make_stream();
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    (void)pub.publish(model_.sources(v), Stream(stream),
                      {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
    // model_ keeps one copy of the sources: the next version's may only be written behind this.
    EXPECT_EQ(pub.wait_current(kPatience), v);
  }
  EXPECT_EQ(reader.wait(), 0);
}

TEST_F(Order, LaterWorkOnTheStreamMayOverwriteTheSources) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  cudaStream_t stream = make_stream();
  for (std::uint64_t v = 1; v <= 20; ++v) {
    const auto sources = model_.sources(v);
    (void)pub.publish(sources, Stream(stream));
    for (const Source& source : sources) {
      if (*source.bytes > 0) {
        ASSERT_EQ(cudaMemsetAsync(const_cast<void*>(source.data), 0xEE, *source.bytes, stream),
                  cudaSuccess);
      }
    }
    EXPECT_EQ(pub.wait_current(kPatience), v);
    EXPECT_EQ(model_.wrong(sub.try_acquire().value(), v), 0U);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  }
}

TEST_F(Order, WithoutAStreamNothingOfTheCallersIsWaitedFor) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  cudaStream_t stream = make_stream(cudaStreamDefault);  // one that the legacy stream waits for
  const Held held(stream);
  ASSERT_EQ(sim::launch(stream, [] {}), cudaSuccess);
  EXPECT_EQ(model_.publish(pub, 1), 1U);
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 1), 0U);
}

TEST_F(Order, VersionsOnTwoStreamsInTurnDoNotOverlap) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  cudaStream_t streams[] = {make_stream(), make_stream()};
  Model twin{MemoryKind::cuda};
  Model* models[] = {&model_, &twin};
  for (std::uint64_t v = 1; v <= 20; ++v) {
    const auto sources = models[v % 2]->sources(v);
    EXPECT_EQ(pub.publish(sources, Stream(streams[v % 2])), v);
    if (v % 4 != 0) continue;  // most follow each other at once
    EXPECT_EQ(pub.wait_current(kPatience), v);
    EXPECT_EQ(model_.wrong(sub.try_acquire().value(), v), 0U);
  }
}

TEST_F(Order, TheNextVersionWaitsForTheLastOnesHostFunction) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  cudaStream_t first = make_stream();
  cudaStream_t second = make_stream();
  const auto sources = model_.sources(1);
  Model twin{MemoryKind::cuda};
  const auto next = twin.sources(2);
  Held held(first);
  (void)pub.publish(sources, Stream(first));
  EXPECT_THROWS(DeadlinePassed, "has not come to its copies yet",
                (void)pub.publish(next, Stream(second), {.deadline = 30ms}));
  EXPECT_THROWS(DeadlinePassed, "has not come to its copies yet",
                (void)pub.begin(Stream(second), {.deadline = 0s}));
  held.release();
  EXPECT_EQ(pub.publish(next, Stream(second), {.deadline = kPatience}), 2U);
  EXPECT_EQ(pub.wait_current(kPatience), 2U);
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 2), 0U);
  HeldHostFunctions functions;
  (void)pub.publish(model_.sources(3), Stream(first));
  EXPECT_THROWS(DeadlinePassed, "version 4", (void)pub.publish(next, {.deadline = 30ms}));
  functions.release();
  EXPECT_EQ(pub.publish(next, {.deadline = kPatience}), 4U);
}

TEST_F(Order, ReleaseOnAStreamEndsBehindWhatIsEnqueued) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  cudaStream_t stream = make_stream();
  Held held(stream);
  Lease lease = sub.wait(newest(), kPatience);
  ASSERT_EQ(sim::launch(stream, [] {}), cudaSuccess);
  lease.release(Stream(stream));
  EXPECT_FALSE(lease);
  EXPECT_EQ(pub.subscribers().at(0).holds, 1U);
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 30ms}));
  held.release();
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
  EXPECT_EQ(pub.subscribers().at(0).holds, 0U);
}

TEST_F(Order, ReleaseOnSeveralStreamsEndsBehindTheLast) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  for (const bool first_ends_first : {true, false}) {
    const std::uint64_t v = model_.publish(pub, pub.version() + 1);
    cudaStream_t one = make_stream();
    cudaStream_t two = make_stream();
    Held held_one(one);
    Held held_two(two);
    sub.wait(newest(), kPatience).release({Stream(one), Stream(two)});
    (first_ends_first ? held_one : held_two).release();
    let_things_happen();
    EXPECT_EQ(pub.subscribers().at(0).holds, v);
    EXPECT_THROWS(DeadlinePassed, "holds version",
                  (void)model_.publish(pub, v + 1, {.deadline = 20ms}));
    (first_ends_first ? held_two : held_one).release();
    EXPECT_EQ(model_.publish(pub, v + 1, {.deadline = kPatience}), v + 1);
  }
}

// The loop of every engine: what was released is no reason to say ReleaseWanted, although it still
// holds up the publisher.
TEST_F(Order, WaitingForTheNextVersionBehindAReleaseIsNoDeadlock) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  cudaStream_t stream = make_stream();
  Held held(stream);
  sub.wait(newest(), kPatience).release(Stream(stream));
  const auto sources = model_.sources(2);
  std::jthread next([&] { (void)pub.publish(sources, {.deadline = kPatience}); });
  EXPECT_TRUE(eventually([&] { return sub.current_version() == 0; }));  // it is wanted by now
  EXPECT_THROWS(DeadlinePassed, "no version newer than 1", (void)sub.wait(newer_than(1), 30ms));
  held.release();
  EXPECT_EQ(model_.wrong(sub.wait(newer_than(1), kPatience), 2), 0U);
}

TEST_F(Order, ReleaseOnNoStreamEndsAtOnce) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  sub.wait(newest(), kPatience).release(std::vector<Stream>{});
  EXPECT_EQ(pub.subscribers().at(0).holds, 0U);
}

// The race that a release too early loses: an engine copies out of its lease on a stream, releases
// behind it, and the next version is written in place.
TEST_F(Order, CopiesEnqueuedBeforeTheReleaseReadTheOldVersion) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  constexpr std::uint64_t kVersions = 25;
  const std::uint64_t buckets = model_.layout.bucket_count();
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    cudaStream_t stream = make_stream();
    std::vector<Bytes> copies;
    for (std::size_t b = 0; b < buckets; ++b)
      copies.emplace_back(MemoryKind::cuda, model_.layout.bucket_bytes(b));
    for (std::uint64_t seen = 0; seen < kVersions;) {
      Lease lease = sub.wait(newer_than(seen), kPatience);
      seen = lease.version();
      for (std::size_t b = 0; b < buckets; ++b)
        detail::cuda::check(
            cudaMemcpyAsync(copies[b].data(), lease.bucket(b), model_.layout.bucket_bytes(b),
                            cudaMemcpyDefault, stream),
            "copying");
      lease.release(Stream(stream));
      detail::cuda::check(cudaStreamSynchronize(stream), "waiting");
      for (std::size_t i = 0; i < model_.layout.size(); ++i) {
        const Placement place = model_.layout[i];
        EXPECT_EQ(model_.wrong(i, copies[place.bucket].data() + place.offset, seen), 0U)
            << place.name << " of version " << seen;
      }
    }
    return 0;
  });
  Publisher pub = create(Mode::in_place);
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    const auto sources = model_.sources(v);
    publish(pub, sources, {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
  }
  EXPECT_EQ(reader.wait(), 0);
}

TEST_F(Order, ReleaseIsRefusedWhileCapturingAndTheLeaseStaysHeld) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  cudaStream_t stream = make_stream();
  cudaStream_t other = make_stream();
  Lease lease = sub.wait(newest(), kPatience);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_THROWS(Capturing, "being captured", lease.release(Stream(stream)));
  EXPECT_THROWS(Capturing, "being captured", lease.release({Stream(other), Stream(stream)}));
  let_things_happen();
  EXPECT_TRUE(lease);
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 20ms}));
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess) << "the capture must not be spoilt";
  lease.release({Stream(other), Stream(stream)});
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

// The side stream would become part of the caller's graph.
TEST_F(Order, CommitIsRefusedWhileCapturingAndCanBeTriedAgain) {
  Publisher pub = create(Mode::in_place);
  cudaStream_t stream = make_stream();
  const auto sources = model_.sources(1);
  auto update = pub.begin(Stream(stream));
  for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) {
    const auto [first, last] = model_.layout.bucket_parameters(b);
    update.put(b, std::span(sources).subspan(first, last - first));
  }
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_THROWS(Capturing, "being captured", (void)update.commit());
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(update.commit(), 1U);
  EXPECT_EQ(pub.wait_current(kPatience), 1U);
  auto sub = Subscriber::attach(name_);
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 1), 0U);
}

TEST_F(Order, PublishAndLoadAreRefusedWhileCapturingAndNothingIsRetired) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  const Lease lease = sub.wait(newest(), kPatience);
  cudaStream_t stream = make_stream();
  const auto sources = model_.sources(2);
  Destination into(model_);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_THROWS(Capturing, "being captured", (void)pub.publish(sources, Stream(stream)));
  EXPECT_THROWS(Capturing, "being captured", (void)sub.load(into.plan, Stream(stream), kPatience));
  EXPECT_EQ(pub.version(), 1U);
  EXPECT_FALSE(lease.wanted());
  EXPECT_EQ(into.plan.state(), LoadState::empty);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess) << "the capture must not be spoilt";
}

TEST_F(Order, CompletedAdvancesBehindEachGatherAndTheLastWithTheCommit) {
  Publisher pub = create(Mode::streaming, {.slots = 2});
  const auto segment = segment_of(name_);
  cudaStream_t stream = make_stream();
  const auto sources = model_.sources(1);
  auto update = pub.begin(Stream(stream));
  const std::size_t last = model_.layout.bucket_count() - 1;
  for (std::size_t b = 0; b < last; ++b) {
    Held held(stream);
    update.put(b, of_bucket(model_.layout, sources, b));
    let_things_happen();
    EXPECT_EQ(segment.header().completed, b);
    EXPECT_EQ(pub.version(), 0U);
    held.release();
    EXPECT_TRUE(eventually([&] { return segment.header().completed == b + 1; }));
  }
  update.put(last, of_bucket(model_.layout, sources, last));
  let_things_happen();
  EXPECT_EQ(segment.header().completed, last);
  Held held(stream);
  (void)update.commit();
  let_things_happen();
  EXPECT_EQ(segment.header().completed, last);
  EXPECT_EQ(pub.version(), 0U);
  held.release();
  EXPECT_EQ(pub.wait_current(kPatience), 1U);
  EXPECT_EQ(segment.header().completed, last + 1);
}

TEST_F(Order, StreamedVersionsAreLoadedWholeOnStreamsThatDawdle) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  constexpr std::uint64_t kVersions = 15;
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    cudaStream_t stream = make_stream();
    Destination into(model_);
    while (into.plan.version() < kVersions) {
      const std::uint64_t v = sub.load(into.plan, Stream(stream), kPatience);
      EXPECT_EQ(into.wrong(v), 0U) << "version " << v;
    }
    return 0;
  });
  Publisher pub = create(Mode::streaming, {.slots = 2});
  cudaStream_t stream = make_stream();
  for (std::uint64_t v = 1; v <= kVersions; ++v) {
    const auto sources = model_.sources(v);
    (void)pub.publish(sources, Stream(stream),
                      {.deadline = kPatience, .require = v == 1 ? 1U : 0U});
    EXPECT_EQ(pub.wait_current(kPatience), v);
  }
  EXPECT_EQ(reader.wait(), 0);
}

// Streaming: a slot is written again only when the reader's copies out of it have been made.
TEST_F(Order, StreamingCursorFollowsBehindTheCopies) {
  Publisher pub = create(Mode::streaming, {.slots = 2});
  auto sub = Subscriber::attach(name_);
  sub.join();
  cudaStream_t stream = make_stream();
  Destination into(model_);
  Held held(stream);
  // The attempt's number is burnt: what arrives is version 2.
  std::jthread reader([&] { EXPECT_EQ(sub.load(into.plan, Stream(stream), kPatience), 2U); });
  const auto sources = model_.sources(2);
  auto update = pub.begin({.deadline = 500ms});
  update.put(0, of_bucket(model_.layout, sources, 0));
  update.put(1, of_bucket(model_.layout, sources, 1));
  EXPECT_TRUE(eventually([] { return sim::calls("cudaMemcpyBatchAsync") == 2; }));
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                update.put(2, of_bucket(model_.layout, sources, 2)));
  update.abort();
  held.release();
  EXPECT_EQ(publish(pub, sources, {.deadline = kPatience}), 2U);
  reader.join();
  EXPECT_EQ(into.wrong(2), 0U);
}

TEST_F(Order, LoadIsMadeInTheOrderOfItsStream) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  cudaStream_t stream = make_stream();
  Destination into(model_);
  {
    Held held(stream);
    std::jthread later([&] {
      let_things_happen();
      EXPECT_EQ(pub.subscribers().at(0).holds, 1U) << "held until the copies are made";
      held.release();
    });
    EXPECT_EQ(sub.load(into.plan, Stream(stream), kPatience), 1U);
  }
  EXPECT_EQ(into.wrong(1), 0U) << "load() returns when every copy has been made";
  EXPECT_EQ(pub.subscribers().at(0).holds, 0U);
}

TEST_F(Order, LoadGivenUpIsTornAndReleasesBehindItsCopies) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  cudaStream_t stream = make_stream();
  Destination into(model_);
  Held held(stream);
  EXPECT_THROWS(DeadlinePassed, "were not made in time",
                (void)sub.load(into.plan, Stream(stream), 20ms));
  EXPECT_EQ(into.plan.state(), LoadState::torn);
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 20ms}));
  held.release();
  EXPECT_EQ(sub.load(into.plan, Stream(stream), kPatience), 1U);
  EXPECT_EQ(into.wrong(1), 0U);
  EXPECT_EQ(into.plan.state(), LoadState::loaded);
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
}

TEST_F(Order, SourcesInHostMemoryAreReadBeforePublishReturns) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  cudaStream_t stream = make_stream();
  Model host{MemoryKind::host};
  for (std::uint64_t v = 1; v <= 10; ++v) {
    const auto sources = host.sources(v);
    EXPECT_EQ(pub.publish(sources, Stream(stream)), v);
    EXPECT_EQ(pub.version(), v);
    for (const Source& source : sources)
      std::memset(const_cast<void*>(source.data), 0xEE, *source.bytes);
    EXPECT_EQ(model_.wrong(sub.try_acquire().value(), v), 0U);
  }
  const auto sources = host.sources(11);
  Held held(stream);
  EXPECT_THROWS(DeadlinePassed, "sources in host memory have not been read in time",
                (void)pub.publish(sources, Stream(stream), {.deadline = 20ms}));
  held.release();
  EXPECT_EQ(pub.wait_current(kPatience), 11U) << "it was committed all the same";
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 11), 0U);
}

TEST_F(Order, ABucketIsOneLaunchAlsoWhenSomeOfItIsCast) {
  Publisher pub = create(Mode::in_place);
  auto sources = model_.sources(1);
  const std::size_t k = model_.layout.at("layer.0.k");
  const Bytes wide(MemoryKind::cuda, 2 * model_.layout[k].bytes, std::byte{0});
  sources[k] = {wide.data(), Dtype::f32};
  ASSERT_GT(model_.layout.bucket_parameters(model_.layout[k].bucket).second -
                model_.layout.bucket_parameters(model_.layout[k].bucket).first,
            1U)
      << "there is something else in that bucket";
  publish(pub, sources);
  sim::reset_calls();
  publish(pub, sources);
  EXPECT_EQ(sim::calls("cudaLaunchKernel"), model_.layout.bucket_count());
  auto sub = Subscriber::attach(name_);
  const Lease lease = sub.wait(exactly(2), kPatience);
  EXPECT_EQ(Bytes::get(MemoryKind::cuda, lease[k].data(), lease[k].bytes()),
            std::vector<std::byte>(lease[k].bytes()));
  const std::size_t other = model_.layout.at("layer.0.norm");
  EXPECT_EQ(model_.wrong(other, lease[other].data(), 1), 0U);
}

TEST_F(Order, WhatIsKeptInItsSlotIsNotCast) {
  Publisher pub = create(Mode::in_place);
  auto sources = model_.sources(1);
  const std::size_t q = model_.layout.at("layer.0.q");
  sources[q] = {pub.storage("layer.0.q"), Dtype::f32};
  EXPECT_THROWS(InvalidArgument, "is kept in its slot", (void)pub.publish(sources));
}

// The reader's copies are stuck when the version they belong to is aborted. Once they are made it
// joins anew: nothing of the aborted version is taken for a part of the next one.
TEST_F(Order, AnAbortSeenWithStuckCopiesEndsThatVersion) {
  Publisher pub = create(Mode::streaming, {.slots = 2});
  auto sub = Subscriber::attach(name_);
  sub.join();
  cudaStream_t stream = make_stream();
  Destination into(model_);
  Held held(stream);
  std::thread reader([&] {
    EXPECT_THROWS(DeadlinePassed, "were not made in time",
                  (void)sub.load(into.plan, Stream(stream), 500ms));
  });
  {
    const auto sources = model_.sources(1);
    auto update = pub.begin();
    update.put(0, of_bucket(model_.layout, sources, 0));
    update.put(1, of_bucket(model_.layout, sources, 1));
    EXPECT_TRUE(eventually([] { return sim::calls("cudaMemcpyBatchAsync") == 2; }));
  }  // aborted
  reader.join();
  EXPECT_EQ(into.plan.state(), LoadState::torn);
  held.release();
  std::jthread publishing([&] {
    publish(pub, model_.sources(2), {.deadline = kPatience, .require = 1});
    publish(pub, model_.sources(3), {.deadline = kPatience});
  });
  const std::uint64_t version = sub.load(into.plan, Stream(stream), kPatience);
  EXPECT_EQ(into.wrong(version), 0U) << "version " << version;
  sub.pause();
}

// The table of a bucket is on the device only when its upload was accepted.
TEST_F(Order, AnUploadThatFailedIsDoneAgain) {
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  publish(pub, model_.sources(1));
  Model moved{MemoryKind::cuda};
  const auto sources = moved.sources(2);
  sim::fail_call("cudaMemcpyAsync", 1, cudaErrorUnknown);
  EXPECT_THROWS(Cuda, "uploading a table", (void)pub.publish(sources));
  EXPECT_EQ(publish(pub, sources), 2U);
  EXPECT_EQ(model_.wrong(sub.wait(exactly(2), kPatience)), 0U) << "gathered by the old table";
}

TEST_F(Order, ACastNeedsItsElementsAligned) {
  Publisher pub = create(Mode::in_place);
  auto sources = model_.sources(1);
  const std::size_t q = model_.layout.at("layer.0.q");
  const Bytes wide(MemoryKind::cuda, 2 * model_.layout[q].bytes + 4);
  sources[q] = {wide.data() + 2, Dtype::f32};
  EXPECT_THROWS(InvalidArgument, "not aligned to its elements", (void)pub.publish(sources));
}

TEST_F(Order, SourcesInHostMemoryAreNotCast) {
  Publisher pub = create(Mode::in_place);
  auto sources = model_.sources(1);
  const std::vector<float> host(model_.layout[model_.layout.at("layer.0.q")].bytes / 2);
  sources[model_.layout.at("layer.0.q")] = {host.data(), Dtype::f32};
  EXPECT_THROWS(InvalidArgument, "the source of 'layer.0.q' is to be cast and is in host memory",
                (void)pub.publish(sources));
  EXPECT_EQ(publish(pub, model_.sources(1)), 1U);
}

TEST_F(Order, SourcesInHostMemoryAreReadBeforeAnAbortReturns) {
  Publisher pub = create(Mode::streaming, {.slots = 2});
  cudaStream_t stream = make_stream();
  Model host{MemoryKind::host};
  const auto sources = host.sources(1);
  {
    Held held(stream);
    auto update = pub.begin(Stream(stream));
    update.put(0, of_bucket(model_.layout, sources, 0));
    std::jthread later([&] {
      let_things_happen();
      held.release();
    });
    update.abort();
    EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  }
  EXPECT_EQ(pub.wait_current(kPatience), 0U) << "nothing was committed, though a number is used up";
  EXPECT_EQ(publish(pub, model_.sources(2)), 2U);
  Held held(stream);
  auto update = pub.begin(Stream(stream));
  update.put(0, of_bucket(model_.layout, sources, 0));
  ::testing::internal::CaptureStderr();
  update.abort();
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("have not been read after 2 s"),
            std::string::npos);
  held.release();
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess) << "now they have, and may go";
}

TEST_F(Order, ParametersBornInTheSlotAreWrittenInTheVersionsStream) {
  const Variable delay("TENON_SIM_DELAY_US", kDawdle);
  Publisher pub = create(Mode::in_place);
  auto sub = Subscriber::attach(name_);
  cudaStream_t stream = make_stream();
  for (std::uint64_t v = 1; v <= 5; ++v) {
    const auto from = model_.sources(v);
    auto update = pub.begin(Stream(stream));
    EXPECT_FALSE(sub.try_acquire());
    for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) (void)update.open(b);
    for (std::size_t i = 0; i < model_.layout.size(); ++i) {
      const Placement place = model_.layout[i];
      if (model_.layout.tied_to(i) || place.bytes == 0) continue;
      ASSERT_EQ(cudaMemcpyAsync(pub.storage(place.name), from[i].data, place.bytes,
                                cudaMemcpyDefault, stream),
                cudaSuccess);
    }
    for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b) update.seal(b);
    EXPECT_EQ(update.commit(), v);
    ASSERT_TRUE(eventually([&] { return sub.current_version() == v; }));
    EXPECT_EQ(model_.wrong(sub.try_acquire().value(), v), 0U);
  }
  // As sources they are found where they are to go: nothing is moved, the rest is.
  auto sources = model_.sources(6);
  std::vector<Source> born;
  for (std::size_t i = 0; i < model_.layout.size(); ++i)
    born.push_back({pub.storage(model_.layout[i].name)});
  sim::reset_calls();
  EXPECT_EQ(pub.publish(born, Stream(stream)), 6U);
  EXPECT_EQ(pub.wait_current(kPatience), 6U);
  EXPECT_EQ(sim::calls("cudaLaunchKernel"), 0U);
  EXPECT_EQ(sim::bytes_copied(), 0U);
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 5), 0U);
}

TEST_F(Order, AnAbortedVersionIsWaitedForBeforeItsSlotsAreWrittenAgain) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  model_.publish(pub, 1);
  cudaStream_t stream = make_stream();
  Model twin{MemoryKind::cuda};
  const auto never = twin.sources(77);
  const auto sources = model_.sources(2);
  Held held(stream);
  {
    auto update = pub.begin(Stream(stream));
    update.put(0, of_bucket(model_.layout, never, 0));
  }
  EXPECT_EQ(pub.version(), 1U);
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 1), 0U);
  EXPECT_THROWS(DeadlinePassed, "has not come to its copies yet",
                (void)pub.publish(sources, {.deadline = 30ms}));
  held.release();
  EXPECT_EQ(publish(pub, sources, {.deadline = kPatience}), 2U);
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 2), 0U);
}

// Nothing of a version whose completion could not be enqueued may be believed: the slots that the
// current version names stay out of reach.
TEST_F(Order, ACommitThatFailsLeavesThePreviousVersionAlone) {
  for (const char* function : {"cudaEventRecord", "cudaStreamWaitEvent", "cudaLaunchHostFunc"}) {
    const std::string name = unique_name("commit");
    Publisher pub =
        Publisher::create(name, model_.layout, {.memory = cuda(0), .mode = Mode::double_buffered});
    auto sub = Subscriber::attach(name);
    model_.publish(pub, 1);
    const Lease lease = sub.wait(newest(), kPatience);
    const auto sources = model_.sources(2);
    sim::fail_call(function, 1, cudaErrorMemoryAllocation);
    EXPECT_THROWS(Cuda, function, (void)pub.publish(sources));
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_EQ(pub.version(), 1U);
    model_.publish(pub, 2, {.deadline = kPatience});
    EXPECT_EQ(model_.wrong(lease, 1), 0U) << "version 1 is held and must not change";
    EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 2), 0U);
  }
}

// Giving a version up takes nothing but the host function: a healthy GPU is not called broken for
// want of an event.
TEST_F(Order, AVersionIsGivenUpWithoutTheSideStream) {
  Publisher pub = create(Mode::double_buffered);
  sim::fail_call("cudaEventRecord", sim::kEveryCall, cudaErrorMemoryAllocation);
  const auto sources = model_.sources(1);
  for (int i = 0; i < 3; ++i) EXPECT_THROWS(Cuda, "cudaEventRecord", (void)pub.publish(sources));
  sim::clear_failures();
  EXPECT_EQ(publish(pub, sources, {.deadline = kPatience}), 1U);
}

TEST_F(Order, UnchangedBucketsAreNotGathered) {
  Publisher pub = create(Mode::double_buffered);
  auto sub = Subscriber::attach(name_);
  Destination into(model_);
  model_.publish(pub, 1);
  EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
  auto sources = model_.sources(2);
  const std::size_t changed = model_.layout[3].bucket;
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (model_.layout[i].bucket != changed) sources[i] = {.unchanged = true};
  sim::reset_calls();
  EXPECT_EQ(publish(pub, sources), 2U);
  EXPECT_EQ(sim::calls("cudaLaunchKernel"), 1U) << "one bucket changed";
  const Lease lease = sub.wait(newest(), kPatience);
  for (std::size_t b = 0; b < model_.layout.bucket_count(); ++b)
    EXPECT_EQ(lease.written_in(b), b == changed ? 2U : 1U);
  for (std::size_t i = 0; i < model_.layout.size(); ++i)
    EXPECT_EQ(model_.wrong(i, lease[i].data(), model_.layout[i].bucket == changed ? 2 : 1), 0U);
  sim::reset_calls();
  EXPECT_EQ(sub.load(into.plan, kPatience), 2U);
  EXPECT_EQ(sim::calls("cudaMemcpyBatchAsync"), 1U);
}

// --- Ways of gathering ---

TEST_F(Order, EveryWayOfGatheringGivesTheSameBytes) {
  std::vector<Parameter> parameters;
  std::vector<std::uint64_t> at;  // of each source in its allocation: every alignment there is
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < 120; ++i) {
    parameters.push_back({"p" + std::to_string(i), Dtype::u8, {1 + i * i * 7 % 3001}});
    at.push_back(end + i % 17);
    end = at.back() + parameters.back().shape[0];
  }
  const Layout layout = plan(parameters, {.bucket_bytes = 32768});
  ASSERT_GT(layout.bucket_count(), 2U);
  std::mt19937_64 random(7);
  std::vector<std::byte> bytes(end);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  const Bytes memory(MemoryKind::cuda, end);
  memory.upload(bytes);
  const Bytes other_host(MemoryKind::host, end);
  other_host.upload(bytes);
  std::vector<Source> sources;
  for (std::size_t i = 0; i < at.size(); ++i)  // every ninth is somewhere else
    sources.push_back({(i % 9 == 8 ? other_host : memory).data() + at[i]});

  std::vector<std::vector<std::byte>> seen;
  for (const GatherMethod method :
       {GatherMethod::kernel, GatherMethod::cub, GatherMethod::memcpy}) {
    const std::string name = unique_name("way");
    Publisher pub = Publisher::create(
        name, layout, {.memory = cuda(0), .mode = Mode::double_buffered, .gather = method});
    for (int v = 1; v <= 3; ++v) publish(pub, sources);
    auto sub = Subscriber::attach(name);
    const Lease lease = sub.wait(exactly(3), kPatience);
    std::vector<std::byte> all;
    for (std::size_t b = 0; b < layout.bucket_count(); ++b) {
      const auto bucket = Bytes::get(MemoryKind::cuda, lease.bucket(b), layout.bucket_bytes(b));
      all.insert(all.end(), bucket.begin(), bucket.end());
    }
    for (std::size_t i = 0; i < at.size(); ++i) {
      const auto got = Bytes::get(MemoryKind::cuda, lease[i].data(), lease[i].bytes());
      ASSERT_EQ(std::memcmp(got.data(), bytes.data() + at[i], got.size()), 0) << lease[i].name();
    }
    seen.push_back(std::move(all));
  }
  EXPECT_EQ(seen[0], seen[1]) << "kernel and cub, padding included";
  EXPECT_EQ(seen[0], seen[2]) << "kernel and memcpy, padding included";
}

// --- Casts on the way ---

/// The value of a half, by its definition.
double value_of_f16(std::uint16_t bits) {
  const int exponent = (bits >> 10U) & 31U;
  const int mantissa = bits & 1023U;
  return exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
}
double value_of_bf16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16U;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

/// Nearest of all numbers of a format, even one of two: found by search, not by bits.
std::uint16_t nearest(float value, std::uint16_t infinity, double largest_step,
                      double (*value_of)(std::uint16_t)) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000U : 0U);
  const double magnitude = std::fabs(value);
  const double beyond = value_of(static_cast<std::uint16_t>(infinity - 1)) + largest_step;
  std::uint16_t low = 0;  // the largest that is not above
  for (std::uint16_t high = infinity; high - low > 1;) {
    const auto middle = static_cast<std::uint16_t>((low + high) / 2);
    (value_of(middle) <= magnitude ? low : high) = middle;
  }
  const auto above = static_cast<std::uint16_t>(low + 1);
  const double up = above == infinity ? beyond : value_of(above);
  const double to_low = magnitude - value_of(low);
  const double to_up = up - magnitude;
  const bool take_low = to_low < to_up || (to_low == to_up && low % 2 == 0);
  return static_cast<std::uint16_t>(sign | (take_low ? low : above));
}

struct CastCase {
  const char* name;
  Dtype from;
  Dtype to;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> bits;  ///< by hand
};
std::ostream& operator<<(std::ostream& out, const CastCase& c) { return out << c.name; }

const CastCase kCasts[] = {
    {"F32ToBf16",
     Dtype::f32,
     Dtype::bf16,
     {{0x3F800000, 0x3F80},
      {0x3F808000, 0x3F80},
      {0x3F818000, 0x3F82},
      {0x3F808001, 0x3F81},
      {0x3F807FFF, 0x3F80},
      {0x80000000, 0x8000},
      {0xBF818000, 0xBF82},
      {0x7F800000, 0x7F80},
      {0xFF800000, 0xFF80},
      {0x7F7FFFFF, 0x7F80},
      {0x7F7F7FFF, 0x7F7F},
      {0x7FC00000, 0x7FC0},
      {0x7F800001, 0x7FC0},
      {0xFF800001, 0xFFC0},
      {0x7FFFFFFF, 0x7FFF},
      {0x00008000, 0x0000},
      {0x00008001, 0x0001},
      {0x00018000, 0x0002}}},
    {"F32ToF16",
     Dtype::f32,
     Dtype::f16,
     {{0x3F800000, 0x3C00}, {0x3F801000, 0x3C00}, {0x3F803000, 0x3C02}, {0x3F801001, 0x3C01},
      {0xBF800000, 0xBC00}, {0x477FE000, 0x7BFF}, {0x477FEFFF, 0x7BFF}, {0x477FF000, 0x7C00},
      {0x7F7FFFFF, 0x7C00}, {0x7F800000, 0x7C00}, {0xFF800000, 0xFC00}, {0x7F800001, 0x7E00},
      {0x7FC00000, 0x7E00}, {0x7FFFE000, 0x7FFF}, {0x33800000, 0x0001}, {0x33000000, 0x0000},
      {0x33000001, 0x0001}, {0x34200000, 0x0002}, {0x34200001, 0x0003}, {0x33C00000, 0x0002},
      {0x38800000, 0x0400}, {0x387FE000, 0x0400}, {0x387FC000, 0x03FF}, {0x80000001, 0x8000}}},
    {"Bf16ToF32",
     Dtype::bf16,
     Dtype::f32,
     {{0x3F80, 0x3F800000},
      {0x7F80, 0x7F800000},
      {0xFF80, 0xFF800000},
      {0x7FC1, 0x7FC10000},
      {0x7F81, 0x7F810000},
      {0x0001, 0x00010000},
      {0x8000, 0x80000000}}},
};

class Casts : public ::testing::TestWithParam<std::tuple<MemoryKind, CastCase>> {
 protected:
  Node node_;
};
INSTANTIATE_TEST_SUITE_P(
    Kinds, Casts, ::testing::Combine(::testing::ValuesIn(kinds()), ::testing::ValuesIn(kCasts)),
    [](const auto& p) {
      return std::string(name_of(std::get<0>(p.param))) + std::get<1>(p.param).name;
    });

template <class T>
void append(std::vector<std::byte>& to, std::uint32_t value) {
  const auto narrow = static_cast<T>(value);
  const auto* first = reinterpret_cast<const std::byte*>(&narrow);
  to.insert(to.end(), first, first + sizeof narrow);
}
void append(std::vector<std::byte>& to, Dtype dtype, std::uint32_t value) {
  info(dtype).bytes == 2 ? append<std::uint16_t>(to, value) : append<std::uint32_t>(to, value);
}

TEST_P(Casts, OnTheWayToTheSlot) {
  const auto& [kind, cast] = GetParam();
  std::mt19937_64 random(3);
  auto pairs = cast.bits;
  for (int i = 0; i < 4001; ++i) {  // by search, or by definition
    auto bits = static_cast<std::uint32_t>(random());
    if (cast.from == Dtype::bf16) {
      pairs.emplace_back(bits & 0xFFFFU, bits << 16U);
      continue;
    }
    // Every fourth lies in the middle between two numbers, or next to it.
    if (i % 4 == 0 && cast.to == Dtype::bf16) bits = (bits & 0xFFFF0000U) + 0x7FFFU + bits % 3;
    if (cast.to == Dtype::f16) {  // exponents that a half has, and some more
      bits = (bits & 0x807FFFFFU) | (100U + static_cast<std::uint32_t>(random() % 45)) << 23U;
      if (i % 4 == 0) bits = (bits & 0xFFFFE000U) + 0xFFFU + bits % 3;
    }
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    if (!std::isfinite(value)) continue;
    pairs.emplace_back(bits, cast.to == Dtype::bf16
                                 ? nearest(value, 0x7F80, std::ldexp(1, 120), value_of_bf16)
                                 : nearest(value, 0x7C00, 32, value_of_f16));
  }
  std::vector<std::byte> from;
  std::vector<std::byte> expected;
  for (const auto& [bits, result] : pairs) {
    append(from, cast.from, bits);
    append(expected, cast.to, result);
  }
  const Layout layout = plan(std::vector<Parameter>{
      {"plain", Dtype::u8, {333}}, {"cast", cast.to, {pairs.size()}}, {"one", cast.to, {}}});
  const Bytes plain(kind, 333, std::byte{9});
  const Bytes source(kind, from.size());
  source.upload(from);
  const std::string name = unique_name("cast");
  Publisher pub = Publisher::create(name, layout, {.memory = {kind}});
  publish(pub,
          std::vector<Source>{
              {plain.data()}, {source.data(), cast.from, from.size()}, {source.data(), cast.from}});
  auto sub = Subscriber::attach(name);
  const Lease lease = sub.wait(newest(), kPatience);
  const auto got = Bytes::get(kind, lease["cast"].data(), lease["cast"].bytes());
  ASSERT_EQ(got.size(), expected.size());
  const std::size_t size = info(cast.to).bytes;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &got[i * size], size);
    EXPECT_EQ(bits, pairs[i].second) << "of " << std::hex << pairs[i].first;
  }
  EXPECT_EQ(Bytes::get(kind, lease["one"].data(), size),
            std::vector<std::byte>(expected.begin(), expected.begin() + static_cast<long>(size)));
}

TEST_F(Order, CastsOfWhatAKernelCannotReadAreRefused) {
  const Layout layout = plan(std::vector<Parameter>{{"w", Dtype::bf16, {100}}});
  const std::string name = unique_name("cast");
  Publisher pub = Publisher::create(name, layout, {.memory = cuda(0)});
  const Bytes host(MemoryKind::host, 400);
  EXPECT_THROWS(InvalidArgument, "in host memory or on another GPU",
                (void)pub.publish(std::vector<Source>{{host.data(), Dtype::f32}}));
  EXPECT_EQ(pub.version(), 0U);
  const Bytes device(MemoryKind::cuda, 400);
  EXPECT_EQ(publish(pub, std::vector<Source>{{device.data(), Dtype::f32}}), 1U);
}

}  // namespace
}  // namespace tenon::test
