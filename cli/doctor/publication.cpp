// doctor NAME: whether one publication can be attached to from here.
#include <fmt/format.h>

#include <algorithm>

#include "check.hpp"

namespace tenon::cli::doctor {
namespace {

std::string advice_for(const std::string& state) {
  if (state == "absent")
    return "start the publisher, or look as its user (--owner UID); in another container share "
           "/dev/shm; 'tenon ls' lists what is here";
  if (state == "starting") return "wait, or see what its publisher says";
  if (state == "stale") return "start the publisher again; 'tenon gc' removes what is left";
  if (state == "wrong-version") return "the same version of Tenon on both sides: rebuild one";
  if (state == "not-yours")
    return "same user, or the publisher's `group` option and --owner UID here";
  return "somebody wrote into it: end its publisher, 'tenon gc', and publish anew";
}

std::optional<Finding> device_trouble(const Publication& publication, const Gpus& gpus) {
  if (publication.device.empty()) return std::nullopt;
  const std::string where = "in GPU memory, on " + publication.device;
  if (gpus.runtime == 0)
    return Finding{Status::fail, where + "; no GPU memory in this build, or CUDA did not answer",
                   "a build with the CUDA toolkit, or publish in host memory; see driver"};
  const bool is_seen = std::any_of(gpus.all.begin(), gpus.all.end(),
                                   [&](const Gpu& gpu) { return gpu.uuid == publication.device; });
  if (!is_seen)
    return Finding{Status::fail, where + ", which is not seen here",
                   "see visible-devices, and gpus; 'nvidia-smi -L' lists all"};
  return std::nullopt;
}

std::optional<Finding> other_format(const Publication& publication) {
  if (publication.minor == format::kMinor) return std::nullopt;
  const std::string what =
      fmt::format("format {}.{}, this tenon has {}.{}: can be attached to", format::kMajor,
                  publication.minor, format::kMajor, format::kMinor);
  if (publication.minor > format::kMinor)
    return Finding{Status::warn, what,
                   "the publisher's Tenon is newer: what it added is not seen here, until this one "
                   "is updated"};
  return Finding{Status::warn, what,
                 "the publisher's Tenon is older: what came later, checksums (1.1) or statistics "
                 "(1.2), is missing until it is updated"};
}

}  // namespace

Finding judge(const Publication& publication, const Evidence& evidence) {
  const std::string what = publication.state + ": " + publication.why;
  if (publication.state != "ready")
    return {publication.state == "starting" ? Status::warn : Status::fail, what,
            advice_for(publication.state)};
  if (const auto trouble = device_trouble(publication, evidence.gpus)) return *trouble;
  if (publication.places >= 64)
    return {Status::fail, "all 64 places are taken",
            "end a subscriber ('tenon inspect " + publication.name + "' lists them)"};
  const bool elsewhere = publication.here != 0 && publication.pid_namespace != 0 &&
                         publication.here != publication.pid_namespace;
  if (elsewhere && !publication.device.empty())
    return {Status::warn,
            fmt::format("its publisher, process {} of another pid namespace", publication.pid),
            fmt::format("its memory does not open in a process that has pid {} here: share the pid "
                        "namespace (docker: --pid=host)",
                        publication.pid)};
  const auto driver = static_cast<std::uint32_t>(std::max(evidence.gpus.driver, 0));
  if (!publication.device.empty() && publication.driver != driver)
    return {Status::warn,
            fmt::format("its publisher saw driver {}, here it is {}", publication.driver, driver),
            "the same driver on both sides: start the older one's process again"};
  if (const auto finding = other_format(publication)) return *finding;
  return {Status::ok, publication.why + ": can be attached to"};
}

}  // namespace tenon::cli::doctor
