// Groups of processes on one machine: each rank is a forked child, and what connects them is a
// store in memory that they share.
#pragma once

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <relay/engine.hpp>
#include <string>
#include <support/support.hpp>
#include <thread>

namespace tenon::test {

/// Made before the children are forked; serves any number of groups, one after the other, under
/// prefixes. Nobody serves it: whoever lives can use it, whoever else was killed or stopped.
class SharedStore final : public relay::Store {
 public:
  SharedStore() {
    void* memory =
        ::mmap(nullptr, sizeof(Table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw SystemError(errno, "mapping a store for a test");
    table_ = new (memory) Table;
  }
  SharedStore(const SharedStore&) = delete;
  SharedStore& operator=(const SharedStore&) = delete;
  ~SharedStore() override { ::munmap(table_, sizeof(Table)); }

  void set(std::string_view key, std::string_view value) override {
    Entry& entry = table_->entries.at(table_->used++);
    if (key.size() > entry.key.size() || value.size() > entry.value.size())
      throw Error(Errc::InvalidArgument, "a key or value too long for a test's store");
    entry.key_bytes = key.copy(entry.key.data(), key.size());
    entry.value_bytes = value.copy(entry.value.data(), value.size());
    entry.there = true;  // last: readers look at nothing else before
  }
  [[nodiscard]] std::string get(std::string_view key, const detail::Deadline& deadline) override {
    for (;; std::this_thread::sleep_for(1ms)) {
      for (const Entry& entry : table_->entries) {
        if (entry.there && std::string_view(entry.key.data(), entry.key_bytes) == key)
          return {entry.value.data(), entry.value_bytes};
      }
      if (deadline.passed()) {
        throw Error(Errc::DeadlinePassed, "nobody has set " + std::string(key));
      }
    }
  }

 private:
  struct Entry {
    std::atomic<bool> there;
    std::size_t key_bytes, value_bytes;
    std::array<char, 64> key;
    std::array<char, 512> value;
  };
  struct Table {
    std::atomic<std::size_t> used;
    std::array<Entry, 2048> entries;
  };
  Table* table_;
};

/// The part of a store that belongs to one group.
class GroupStore final : public relay::Store {
 public:
  GroupStore(relay::Store& all, int group) : all_(all), prefix_(std::to_string(group) + ":") {}
  void set(std::string_view key, std::string_view value) override {
    all_.set(prefix_ + std::string(key), value);
  }
  [[nodiscard]] std::string get(std::string_view key, const detail::Deadline& deadline) override {
    return all_.get(prefix_ + std::string(key), deadline);
  }

 private:
  relay::Store& all_;
  std::string prefix_;
};

/// What a rank does; it makes its engine itself. EXPECT and ASSERT work in it, and so does
/// throwing.
using RankBody = std::function<void(const relay::Membership&)>;

/// `size` processes. None outlives the object.
class Group {
 public:
  Group(int size, const RankBody& body) {
    for (int rank = 0; rank < size; ++rank) {
      ranks_.emplace_back([&, rank] {
        body({.rank = rank, .size = size, .store = &store_});
        return 0;
      });
    }
  }
  [[nodiscard]] Child& operator[](int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  /// All ranks end well, in time: each may wait once for as long as it may.
  void expect_success() {
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank)
      EXPECT_EQ(ranks_[rank].wait(2 * kPatience), 0)
          << "of rank " << rank << " of " << ranks_.size();
  }

 private:
  SharedStore store_;  // mapped before the children are forked
  std::deque<Child> ranks_;
};

}  // namespace tenon::test
