// main() of GoogleTest programs for a real GPU: each test in a process of its own, which has not
// used CUDA when it begins, as its children need it. Without a GPU everything is skipped, shown as
// skipped, and with TENON_REQUIRE_GPU=1 a failure.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace {

/// What `body` returns in a child; -1 when that is killed.
int in_child(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const int status = body();
    std::fflush(nullptr);
    ::_exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int has_no_gpu() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) std::printf("no GPU: %s\n", cudaGetErrorString(error));
  return error == cudaSuccess && devices > 0 ? 0 : 1;
}

/// Those that --gtest_filter asks for: GoogleTest marks them only when it runs, in a child here.
std::vector<std::string> wanted_tests() {
  std::vector<std::string> names;
  int pipe[2];
  if (::pipe(pipe) != 0) return names;
  (void)in_child([&] {
    class Lister : public ::testing::EmptyTestEventListener {
     public:
      explicit Lister(int to) : to_(to) {}
      void OnTestProgramStart(const ::testing::UnitTest& all) override {
        for (int s = 0; s < all.total_test_suite_count(); ++s) {
          const ::testing::TestSuite& suite = *all.GetTestSuite(s);
          for (int t = 0; t < suite.total_test_count(); ++t) {
            const ::testing::TestInfo& test = *suite.GetTestInfo(t);
            const std::string line = std::string(suite.name()) + "." + test.name() + "\n";
            if (test.should_run()) (void)!::write(to_, line.data(), line.size());
          }
        }
        ::_exit(0);
      }

     private:
      int to_;
    };
    ::testing::UnitTest::GetInstance()->listeners().Append(new Lister(pipe[1]));
    return RUN_ALL_TESTS();
  });
  ::close(pipe[1]);
  std::string name;
  for (char c = 0; ::read(pipe[0], &c, 1) == 1;) {
    if (c != '\n') {
      name += c;
      continue;
    }
    names.push_back(name);
    name.clear();
  }
  ::close(pipe[0]);
  return names;
}

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (in_child(has_no_gpu) != 0) {
    const char* required = std::getenv("TENON_REQUIRE_GPU");
    const bool must_have = required != nullptr && std::string(required) == "1";
    std::printf("0 passed, %d failed, %d skipped\n", must_have ? 1 : 0, must_have ? 0 : 1);
    return must_have ? 1 : 77;
  }
  int passed = 0;
  std::vector<std::string> failed;
  for (const std::string& name : wanted_tests()) {
    const int status = in_child([&] {
      ::testing::GTEST_FLAG(filter) = name;
      return RUN_ALL_TESTS();
    });
    if (status == 0)
      ++passed;
    else
      failed.push_back(name);
  }
  for (const std::string& name : failed) std::printf("FAILED %s\n", name.c_str());
  std::printf("%d passed, %zu failed, 0 skipped\n", passed, failed.size());
  return failed.empty() && passed > 0 ? 0 : 1;
}
