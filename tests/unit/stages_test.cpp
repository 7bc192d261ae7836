// Where the time goes: what is told in a block is what is read, and a block that lies harms nobody.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <support/quiet_fork.hpp>
#include <tenon/detail/stage_recorder.hpp>
#include <tenon/stages.hpp>
#include <thread>

namespace tenon {
namespace {

using detail::StageReader;
using detail::StageRecorder;

class StagesOf : public ::testing::Test {
 protected:
  StagesOf() { recorder_.open(block_.get(), me_, "test"); }
  Stages stages() const { return detail::read_stages(*block_, me_).value(); }
  std::vector<StageEvent> read() {
    std::vector<StageEvent> events;
    reader_.read(*block_, events);
    return events;
  }
  std::unique_ptr<format::StageBlock> block_ = std::make_unique<format::StageBlock>();
  StageRecorder recorder_;
  const format::Process me_ = detail::this_process();
  StageReader reader_{me_};
};

TEST_F(StagesOf, AddUp) {
  recorder_.record(Stage::gather, 1, 100, 350, 7);
  recorder_.record(Stage::gather, 2, 400, 500, 5);
  recorder_.record(Stage::wake, 2, 500, 510);
  const Stages stages = this->stages();
  const StageSum& gather = stages[Stage::gather];
  EXPECT_EQ(gather.count, 2u);
  EXPECT_EQ(gather.total.count(), 350);
  EXPECT_EQ(gather.longest.count(), 250);
  EXPECT_EQ(gather.last.count(), 100);
  EXPECT_EQ(gather.bytes, 12u);
  EXPECT_EQ(stages[Stage::wake].count, 1u);
  EXPECT_EQ(stages[Stage::load].count, 0u);
}

TEST_F(StagesOf, AClockThatWentBackCountsAsNoTime) {
  recorder_.record(Stage::gather, 1, 350, 100);
  EXPECT_EQ(stages()[Stage::gather].total.count(), 0);
}

TEST_F(StagesOf, TheOneUnderWayIsSeenUntilItIsLeft) {
  {
    detail::StageTimer timer(recorder_, Stage::load);
    EXPECT_EQ(stages().now, Stage::load);
  }
  EXPECT_EQ(stages().now, std::nullopt);
  EXPECT_EQ(stages()[Stage::load].count, 0u) << "it was not done()";
  detail::StageTimer timer(recorder_, Stage::load);
  timer.done(3, 9);
  EXPECT_EQ(stages().now, std::nullopt);
  EXPECT_EQ(stages()[Stage::load].count, 1u);
}

TEST_F(StagesOf, EventsComeOnceAndInOrder) {
  recorder_.record(Stage::gather, 1, 100, 350, 7);
  recorder_.record(Stage::wake, 1, 350, 360);
  const std::vector<StageEvent> events = read();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].stage, Stage::gather);
  EXPECT_EQ(events[0].version, 1u);
  EXPECT_EQ(events[0].start, 100u);
  EXPECT_EQ(events[0].duration.count(), 250);
  EXPECT_EQ(events[0].bytes, 7u);
  EXPECT_EQ(events[1].stage, Stage::wake);
  EXPECT_TRUE(read().empty());
}

TEST_F(StagesOf, EventsThatWereOverwrittenAreCounted) {
  recorder_.record(Stage::gather, 1, 0, 1);
  EXPECT_EQ(read().size(), 1u);
  for (std::uint64_t v = 2; v <= 101; ++v) recorder_.record(Stage::gather, v, 0, 1);
  const std::vector<StageEvent> events = read();
  ASSERT_EQ(events.size(), format::kStageRing);
  EXPECT_EQ(events.front().version, 38u);
  EXPECT_EQ(events.back().version, 101u);
  EXPECT_EQ(reader_.lost(), 36u);
}

TEST_F(StagesOf, AnEventWhoseWriterWasKilledIsSkippedAndCounted) {
  for (std::uint64_t v = 1; v <= 3; ++v) recorder_.record(Stage::gather, v, 0, 1);
  block_->ring[1].number = 0;
  const std::vector<StageEvent> events = read();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].version, 3u);
  EXPECT_EQ(reader_.lost(), 1u);
}

TEST_F(StagesOf, TheSameProcessThatAttachesAgainBeginsAtZero) {
  for (std::uint64_t v = 1; v <= 3; ++v) recorder_.record(Stage::gather, v, 0, 1);
  EXPECT_EQ(read().size(), 3u);
  StageRecorder next;
  next.open(block_.get(), me_, "next");
  EXPECT_EQ(stages()[Stage::gather].count, 0u);
  next.record(Stage::load, 9, 0, 1);
  const std::vector<StageEvent> events = read();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].version, 9u);
}

// Whoever still asks for the owner of before, as its row may still say, gets nothing of another's.
TEST_F(StagesOf, AnotherOwnersAreNotTakenForThose) {
  recorder_.record(Stage::gather, 1, 0, 1);
  format::Process other = me_;
  for (std::uint64_t* field : {&other.start_time, &other.pid_namespace}) {
    ++*field;
    EXPECT_FALSE(detail::read_stages(*block_, other));
    StageReader reader(other);
    std::vector<StageEvent> events;
    reader.read(*block_, events);
    EXPECT_TRUE(events.empty());
    --*field;
  }
  ++other.pid;
  StageRecorder next;
  next.open(block_.get(), other, "next");
  next.record(Stage::load, 9, 0, 1);
  EXPECT_FALSE(detail::read_stages(*block_, me_));
  EXPECT_TRUE(read().empty());
  EXPECT_EQ(detail::read_stages(*block_, other).value()[Stage::load].count, 1u);
}

// Whoever reads while a place goes from hand to hand sees no number under the wrong name.
TEST_F(StagesOf, AreNobodyElsesWhileABlockChangesHands) {
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (format::Process owner = me_; !stop; ++owner.start_time) {
      StageRecorder recorder;
      recorder.open(block_.get(), owner, "changing");
      for (int i = 0; i < 50; ++i)
        recorder.record(Stage::load, owner.start_time, 0, 1, owner.start_time);
    }
  });
  int seen = 0;
  int wrong = 0;
  std::uint64_t last_owner = 0;
  std::uint64_t last_count = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (seen < 100'000 && std::chrono::steady_clock::now() < end) {
    const format::Process owner = detail::load_owner(block_->owner);
    if (owner.pid == 0) continue;  // nobody's now
    if (const auto stages = detail::read_stages(*block_, owner)) {
      ++seen;
      const StageSum& load = (*stages)[Stage::load];
      wrong += load.bytes % owner.start_time != 0 ? 1 : 0;
      wrong += owner.start_time == last_owner && load.count < last_count ? 1 : 0;
      last_owner = owner.start_time;
      last_count = load.count;
    }
    std::vector<StageEvent> events;
    StageReader(owner).read(*block_, events);
    for (const StageEvent& e : events) wrong += e.version != owner.start_time ? 1 : 0;
  }
  stop = true;
  writer.join();
  EXPECT_GT(seen, 0);
  EXPECT_EQ(wrong, 0);
}

TEST_F(StagesOf, ABlockThatLiesIsBounded) {
  for (const int byte : {0xFF, 0x7F, 0x01, 0x80}) {
    std::memset(static_cast<void*>(block_.get()), byte, sizeof(*block_));
    EXPECT_FALSE(detail::read_stages(*block_, me_)) << "it is nobody's";
    detail::store_owner(block_->owner, me_);
    const Stages stages = this->stages();
    for (const StageSum& sum : stages.sums) EXPECT_GE(sum.total.count(), 0);
    EXPECT_FALSE(stages.now);
    EXPECT_TRUE(read().empty());
  }
  // Numbers that fit, of stages that do not exist.
  block_->written = 5;
  for (std::uint64_t i = 0; i < 5; ++i) {
    block_->ring[i].number = i + 1;
    block_->ring[i].stage = static_cast<std::uint32_t>(format::kStages + i);
  }
  EXPECT_TRUE(read().empty());
}

// What its writer counts it keeps to itself: nobody makes it write elsewhere, or wrong sums.
TEST_F(StagesOf, AWriterNeverReadsItsBlock) {
  recorder_.record(Stage::gather, 1, 0, 10, 1);
  std::memset(static_cast<void*>(block_.get()), 0xFF, sizeof(*block_));
  detail::store_owner(block_->owner, me_);
  recorder_.record(Stage::gather, 2, 0, 10, 1);
  EXPECT_EQ(stages()[Stage::gather].count, 2u);
  EXPECT_EQ(stages()[Stage::gather].total.count(), 20);
  EXPECT_EQ(block_->written.load(), 2u);
}

TEST_F(StagesOf, NoEventIsTornWhileTheRingTurns) {
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::uint64_t v = 1; !stop; ++v) recorder_.record(Stage::load, v, v, 2 * v, 3 * v);
  });
  std::size_t seen = 0;
  while (seen < 20'000) {
    for (const StageEvent& e : read()) {
      ++seen;
      ASSERT_EQ(e.start, e.version);
      ASSERT_EQ(static_cast<std::uint64_t>(e.duration.count()), e.version);
      ASSERT_EQ(e.bytes, 3 * e.version);
    }
  }
  stop = true;
  writer.join();
}

TEST(Statistics, OfAnOlderPublicationAreNone) {
  StageRecorder recorder;
  recorder.open(nullptr, detail::this_process(), "test");
  recorder.enter(Stage::load, 1);
  recorder.record(Stage::load, 1, 2, 3);
  recorder.leave();
}

// Invariant 11: the block, the file and the mutex are the parent's.
TEST_F(StagesOf, AForkedChildTellsNothing) {
  recorder_.record(Stage::gather, 1, 0, 1);
  // What the child writes is its own copy: it looks at that itself.
  const pid_t child = test::quiet_fork();
  if (child == 0) {
    recorder_.record(Stage::gather, 2, 0, 1);
    recorder_.enter(Stage::load, 1);
    const bool nothing = stages()[Stage::gather].count == 1 && !stages().now;
    ::_exit(nothing && !recorder_.is_traced() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(StageNames, AreAllDifferent) {
  for (std::size_t i = 0; i < format::kStages; ++i) {
    EXPECT_STRNE(name_of(static_cast<Stage>(i)), "unknown");
    for (std::size_t k = 0; k < i; ++k)
      EXPECT_STRNE(name_of(static_cast<Stage>(i)), name_of(static_cast<Stage>(k)));
  }
  EXPECT_STREQ(name_of(static_cast<Stage>(99)), "unknown");
}

}  // namespace
}  // namespace tenon
