#include <chrono>
#include <cstdio>
#include <tenon/subscriber.hpp>
#include <vector>

int attach_to_nothing(const char* name) {
  tenon::AttachOptions options;
  options.deadline = std::chrono::milliseconds(50);
  try {
    auto subscriber = tenon::Subscriber::attach(name, options);
    tenon::LoadPlan plan(subscriber.layout());
    std::vector<unsigned char> storage(subscriber.layout()[0].bytes);
    plan.into(subscriber.layout()[0].name, storage.data());
    (void)subscriber.load(plan, options.deadline);
    std::fprintf(stderr, "attached to '%s', which nobody publishes\n", name);
    return 1;
  } catch (const tenon::Error& e) {
    if (e.code() == tenon::Errc::NotFound) return 0;
    std::fprintf(stderr, "expected NotFound, got %s: %s\n", tenon::name_of(e.code()), e.what());
    return 1;
  }
}
