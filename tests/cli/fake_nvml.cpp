// What `tenon doctor` asks of NVML, answered as TENON_TEST_MIG says: 1, 0, unsupported or broken.
#include <cstdlib>
#include <cstring>

namespace {
constexpr int kSuccess = 0;
constexpr int kInvalidArgument = 2;
constexpr int kNotSupported = 3;
constexpr int kUnknown = 999;
int device;

// "00000000:01:00.0"
bool is_bus(const char* bus) { return std::strlen(bus) == 16 && bus[8] == ':' && bus[14] == '.'; }
}  // namespace

extern "C" int nvmlInit_v2() { return kSuccess; }

extern "C" int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** found) {
  *found = &device;
  return is_bus(bus) ? kSuccess : kInvalidArgument;
}

extern "C" int nvmlDeviceGetMigMode(void* asked, unsigned* now, unsigned* pending) {
  const char* mode = std::getenv("TENON_TEST_MIG");
  if (mode == nullptr || asked != &device || std::strcmp(mode, "broken") == 0) return kUnknown;
  if (std::strcmp(mode, "unsupported") == 0) return kNotSupported;
  *now = *pending = mode[0] == '1' ? 1 : 0;
  return kSuccess;
}
