// What connects the ranks of a bench: values under names, in memory that they share.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <relay/engine.hpp>
#include <string>
#include <string_view>
#include <tenon/error.hpp>
#include <thread>

#include "child.hpp"

namespace tenon::bench {

/// For one group. Made before its ranks are forked.
class SharedStore final : public relay::Store {
 public:
  void set(std::string_view key, std::string_view value) override {
    Entry& entry = table_->entries.at(table_->used++);
    if (key.size() > entry.key.size() || value.size() > entry.value.size())
      throw Error(Errc::InvalidArgument, "a key or value too long for the ranks' store");
    entry.key_bytes = key.copy(entry.key.data(), key.size());
    entry.value_bytes = value.copy(entry.value.data(), value.size());
    entry.there = true;  // last: readers look at nothing else before
  }
  [[nodiscard]] std::string get(std::string_view key, const detail::Deadline& deadline) override {
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
      for (const Entry& entry : table_->entries) {
        if (entry.there && std::string_view(entry.key.data(), entry.key_bytes) == key)
          return {entry.value.data(), entry.value_bytes};
      }
      if (deadline.passed())
        throw Error(Errc::DeadlinePassed, "no rank has set " + std::string(key));
    }
  }

 private:
  struct Entry {
    std::atomic<bool> there{false};
    std::size_t key_bytes = 0, value_bytes = 0;
    std::array<char, 64> key{};
    std::array<char, 1024> value{};
  };
  struct Table {
    std::atomic<std::size_t> used{0};
    std::array<Entry, 256> entries;
  };
  Shared<Table> table_;
};

}  // namespace tenon::bench
