// What an inference engine compiles: one header, C++17, nothing linked but -pthread. The header is
// included by two sources, so anything in it that is not inline is a duplicate symbol here.
#include <cstdio>
#include <tenon/subscriber.hpp>

int attach_to_nothing(const char* name);  // client_only_second.cpp

int main() {
  const char* const name = "tenon-install-test-absent";
  if (tenon::Subscriber::probe(name) != tenon::Attach::absent) {
    std::fprintf(stderr, "probe: somebody publishes '%s'\n", name);
    return 1;
  }
  return attach_to_nothing(name);
}
