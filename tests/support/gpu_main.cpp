// main() of GoogleTest programs for a real GPU. Without one everything is skipped, shown as skipped,
// and with TENON_REQUIRE_GPU=1 a failure.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const pid_t asker = ::fork();  // not in this process, which is going to fork
  if (asker == 0) {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess) std::printf("no GPU: %s\n", cudaGetErrorString(error));
    std::fflush(stdout);
    ::_exit(error == cudaSuccess && devices > 0 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(asker, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return RUN_ALL_TESTS();
  const char* required = std::getenv("TENON_REQUIRE_GPU");
  const bool must_have = required != nullptr && std::string(required) == "1";
  std::printf("0 passed, %d failed, %d skipped\n", must_have ? 1 : 0, must_have ? 0 : 1);
  return must_have ? 1 : 77;
}
