// Starts on a machine without a driver: nothing links the driver's library.
#include <cstdio>
#include <tenon/cuda.hpp>
#include <tenon/subscriber.hpp>

int release_behind(tenon::Lease& lease, cudaStream_t stream);  // second.cpp

int main() {
  try {
    (void)tenon::detail::ops_for(tenon::MemoryKind::cuda);  // registered by the header alone
    auto sub = tenon::Subscriber::attach("tenon-install-test-absent",
                                         {std::chrono::seconds(0), {}, {}, {}});
    tenon::Lease lease = sub.wait(tenon::newest(), std::chrono::seconds(0));
    return release_behind(lease, nullptr);
  } catch (const tenon::Error& e) {
    std::printf("%s\n", tenon::name_of(e.code()));
    return e.code() == tenon::Errc::NotFound ? 0 : 1;
  }
}
