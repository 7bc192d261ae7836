// What is kept is never destroyed, also where there is no memory left to note it in.
#include <gtest/gtest.h>

#include <cstddef>
#include <new>
#include <tenon/detail/keep.hpp>
#include <utility>

namespace {

thread_local bool out_of_memory = false;

}  // namespace

// Of the whole program: the one that keep_for_ever() calls.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return out_of_memory ? nullptr : ::operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

namespace tenon::detail {
namespace {

/// Counts its end, wherever it was moved.
class Owner {
 public:
  explicit Owner(int& ends) : ends_(&ends) {}
  Owner(Owner&& other) noexcept : ends_(std::exchange(other.ends_, nullptr)) {}
  Owner& operator=(Owner&&) = delete;
  ~Owner() {
    if (ends_ != nullptr) ++*ends_;
  }

 private:
  int* ends_;
};

TEST(KeepForEver, DestroysNothing) {
  static int ends = 0;
  { const Owner unkept(ends); }
  ASSERT_EQ(ends, 1);
  keep_for_ever(Owner(ends));
  keep_for_ever(Owner(ends));
  EXPECT_EQ(ends, 1);
}

TEST(KeepForEver, DestroysNothingForWantOfMemory) {
  static int ends = 0;
  out_of_memory = true;
  keep_for_ever(Owner(ends));
  out_of_memory = false;
  EXPECT_EQ(ends, 0);
}

}  // namespace
}  // namespace tenon::detail
