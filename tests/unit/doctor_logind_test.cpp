// What `tenon doctor` reads of logind, on a machine whose files lie below another root.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cli/doctor/collect.hpp>
#include <filesystem>
#include <fstream>
#include <string>

namespace tenon::cli::doctor {
namespace {

// The files of a machine below another root.
class MachineAt {
 public:
  MachineAt() : root_(testing::TempDir() + "machine." + std::to_string(::getpid())) {}
  ~MachineAt() { std::filesystem::remove_all(root_); }
  MachineAt(const MachineAt&) = delete;
  MachineAt& operator=(const MachineAt&) = delete;
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  [[nodiscard]] std::string says_of_remove_ipc() const {
    Evidence evidence;
    evidence.uid = 1000;
    evidence.user = "ada";
    evidence.files = files_of(root_, evidence.user);
    for (const Check& check : host_checks())
      if (std::string(check.name) == "remove-ipc") return check.ask(evidence).detail;
    return "";
  }

 private:
  std::string root_;
};

TEST(Doctor, ReadsLogindsFilesAsSystemdDoes) {
  const std::string kStays = "RemoveIPC=no";
  const std::string kGoes = "systemd removes this user's /dev/shm objects at logout";
  const MachineAt machine;
  const auto expect = [&](const std::string& says) {
    EXPECT_EQ(machine.says_of_remove_ipc(), says);
  };
  expect("no systemd here");
  machine.write("/run/systemd/system/unit", "");
  expect(kGoes);
  machine.write("/usr/lib/systemd/logind.conf", "[Login]\n  RemoveIPC = false \n");
  expect(kStays);
  machine.write("/etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n;RemoveIPC=no\n");
  expect(kGoes);  // one logind.conf alone is read
  machine.write("/usr/lib/systemd/logind.conf.d/50-x.conf", "[Login]\nRemoveIPC=0\n");
  expect(kStays);  // drop-ins of every folder
  machine.write("/etc/systemd/logind.conf.d/50-x.conf/file", "");
  expect(kStays);  // what is no file hides no namesake
  machine.write("/run/systemd/logind.conf.d/60-y.conf", "[Login]\nRemoveIPC=on\n");
  expect(kGoes);  // the last name counts
  machine.write("/etc/systemd/logind.conf.d/40-z.conf", "[Login]\nRemoveIPC=no\n");
  expect(kGoes);  // and not the folder
  machine.write("/etc/systemd/logind.conf.d/60-y.conf", "");
  expect(kStays);  // but a file of /etc hides its namesake
  machine.write("/etc/systemd/logind.conf.d/70.conf", "[Sleep]\nRemoveIPC=yes\n");
  machine.write("/etc/systemd/logind.conf.d/80.txt", "[Login]\nRemoveIPC=yes\n");
  machine.write("/etc/systemd/logind.conf.d/90.conf", "[Login]\nRemoveIPC=perhaps\nRemoveIPC=\n");
  machine.write("/etc/systemd/logind.conf.d/.98.conf", "[Login]\nRemoveIPC=yes\n");
  machine.write("/etc/systemd/logind.conf.d/99.conf/file", "");
  expect(kStays);  // another section, no drop-in, no boolean, a hidden file, a folder
  machine.write("/etc/systemd/logind.conf.d/95.conf", "[Login]\nRemoveIPC=no\nRemoveIPC=YES\n");
  expect(kGoes);
  machine.write("/var/lib/systemd/linger/ada", "");
  expect("ada lingers");
}

}  // namespace
}  // namespace tenon::cli::doctor
