#include "gpus.hpp"

#include <fmt/format.h>

#include <tenon/error.hpp>

#include "../common.hpp"
#include "child.hpp"

namespace tenon::cli::doctor {
namespace {

void read_facts(const Json& json, Gpus& gpus) {
  gpus.error = json.value("error", "");
  gpus.driver = json.at("driver").get<int>();
  gpus.runtime = json.at("runtime").get<int>();
  for (const Json& from : json.at("gpus")) {
    Gpu gpu;
    gpu.name = from.at("name").get<std::string>();
    gpu.uuid = from.at("uuid").get<std::string>();
    gpu.compute_mode = from.at("compute_mode").get<int>();
    gpu.mps = from.at("mps").get<bool>();
    gpu.ipc_events = from.at("ipc_events").get<bool>();
    if (from.contains("mig")) gpu.mig = from.at("mig").get<bool>();
    gpu.bytes = from.at("bytes").get<std::uint64_t>();
    gpus.all.push_back(std::move(gpu));
  }
  for (const Json& pair : json.at("separate"))
    gpus.separate.emplace_back(pair.at(0).get<std::size_t>(), pair.at(1).get<std::size_t>());
}

// The next line of `child`, parsed.
std::optional<Json> answer(Child& child, Duration timeout) {
  const auto line = child.line(detail::Deadline(timeout));
  if (!line) return std::nullopt;
  return Json::parse(*line);
}

Trouble no_answer(const char* who, Child& child, Duration timeout) {
  Trouble trouble = child.ending();
  if (trouble.kind == Trouble::Kind::silent) trouble.what += " within " + human_duration(timeout);
  trouble.who = who;
  return trouble;
}

// `ask` starts `who` and reads what it says; `trouble` is why nothing came of it.
template <class Ask>
void guarded(const char* who, Trouble& trouble, Ask ask) {
  try {
    ask();
  } catch (const SystemError& error) {  // pipes, and starting what shall be at their other end
    trouble = {Trouble::Kind::not_started, "was not started: " + error.message(), who};
  } catch (const Json::exception& error) {
    trouble = {Trouble::Kind::odd, std::string("answered what cannot be read: ") + error.what(),
               who};
  }
}

// What the exporter can say of each GPU: its free memory, and handles for the importer.
std::optional<Json> handles_of(Child& exporter, Duration timeout, Gpus& gpus) {
  std::optional<Json> handles = answer(exporter, timeout);
  if (!handles) gpus.probe = no_answer("the exporter", exporter, timeout);
  for (std::size_t i = 0; handles && i < gpus.all.size(); ++i)
    gpus.all[i].free = handles->at(i).value("free", std::uint64_t{0});
  return handles;
}

// What became of opening each GPU's memory with another one current.
void read_peers(Child& importer, Duration timeout, Gpus& gpus) {
  const auto failed = answer(importer, timeout);
  if (!failed) gpus.peer_probe = no_answer("the importer", importer, timeout);
  for (const Json& pair : failed.value_or(Json::array()))
    gpus.unopened.push_back({pair.at("by").get<std::size_t>(), pair.at("of").get<std::size_t>(),
                             pair.at("trouble").get<std::string>()});
}

void open_handles(const Json& handles, Duration timeout, Gpus& gpus) {
  Child importer({"doctor", "--as", "importer"});
  importer.send(handles.dump() + "\n");
  const auto opened = answer(importer, timeout);
  if (!opened) {
    gpus.probe = no_answer("the importer", importer, timeout);
    return;
  }
  for (std::size_t i = 0; i < gpus.all.size(); ++i) {
    gpus.all[i].memory_trouble = opened->at(i).at("memory").get<std::string>();
    gpus.all[i].event_trouble = opened->at(i).at("event").get<std::string>();
  }
  guarded("the importer", gpus.peer_probe, [&] { read_peers(importer, timeout, gpus); });
  if (!gpus.peer_probe) importer.finish(detail::Deadline(timeout));
}

}  // namespace

Gpus ask_gpus(Duration timeout) {
  Gpus gpus;
  constexpr const char* kAsking = "the process that asks CUDA";
  guarded(kAsking, gpus.trouble, [&] {
    Child exporter({"doctor", "--as", "exporter"});
    const auto facts = answer(exporter, timeout);
    if (!facts) {
      gpus.trouble = no_answer(kAsking, exporter, timeout);
      return;
    }
    read_facts(*facts, gpus);
    if (gpus.all.empty()) return;
    std::optional<Json> handles;
    guarded("the exporter", gpus.probe, [&] { handles = handles_of(exporter, timeout, gpus); });
    if (handles)
      guarded("the importer", gpus.probe, [&] { open_handles(*handles, timeout, gpus); });
    if (!gpus.probe && !gpus.peer_probe) exporter.finish(detail::Deadline(timeout));
  });
  return gpus;
}

}  // namespace tenon::cli::doctor
