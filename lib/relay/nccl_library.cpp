#include <dlfcn.h>

#include <cstdlib>
#include <relay/nccl_library.hpp>
#include <tenon/error.hpp>

namespace tenon::relay {
namespace {

constexpr const char* kVariable = "TENON_NCCL_LIBRARY";
constexpr const char* kSoname = "libnccl.so.2";
/// All that is used came with 2.14 or before; what is older than this was never tried.
constexpr int kOldest = NCCL_VERSION(2, 18, 0);

std::string version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

void* open(std::string& path) {
  const char* named = std::getenv(kVariable);
  const bool is_named = named != nullptr && *named != '\0';
  path = is_named ? named : kSoname;
  // By its plain name the loader gives the copy that is loaded already, from wherever it came: a
  // second one in the process would have buffers and threads of its own.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* why = ::dlerror();
  throw Error(
      Errc::NoEngine,
      "relaying GPU memory needs NCCL, which cannot be loaded: " +
          std::string(why != nullptr ? why : path) +
          (is_named ? std::string(" (") + kVariable + " names this file: correct or unset it)"
                    : std::string(" (tried: a copy in this process, then the loader's search; ") +
                          "install it, or set " + kVariable + " to the path of libnccl.so.2)"));
}

template <class Function>
void look_up(void* library, const std::string& path, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function != nullptr) return;
  throw Error(Errc::NoEngine, "'" + path + "' has no " + name + ": it is not NCCL, or older than " +
                                  version_text(kOldest));
}

}  // namespace

NcclLibrary NcclLibrary::load() {
  NcclLibrary nccl;
  void* const library = open(nccl.path);
  const auto find = [&](const char* name, auto& function) {
    look_up(library, nccl.path, name, function);
  };
  find("ncclGetVersion", nccl.get_version);
  if (nccl.get_version(&nccl.version) != ncclSuccess || nccl.version < kOldest)
    throw Error(Errc::NoEngine, "'" + nccl.path + "' is NCCL " + version_text(nccl.version) +
                                    ": at least " + version_text(kOldest) + " is needed");
  find("ncclGetErrorString", nccl.get_error_string);
  find("ncclGetLastError", nccl.get_last_error);
  find("ncclGetUniqueId", nccl.get_unique_id);
  find("ncclCommInitRankConfig", nccl.init_rank);
  find("ncclCommGetAsyncError", nccl.get_async_error);
  find("ncclCommFinalize", nccl.finalize);
  find("ncclCommDestroy", nccl.destroy);
  find("ncclCommAbort", nccl.abort);
  find("ncclBroadcast", nccl.broadcast);
  find("ncclAllGather", nccl.all_gather);
  find("ncclReduceScatter", nccl.reduce_scatter);
  find("ncclAllReduce", nccl.all_reduce);
  find("ncclSend", nccl.send);
  find("ncclRecv", nccl.receive);
  return nccl;
}

std::string NcclLibrary::text(ncclResult_t result, ncclComm_t comm) const {
  const char* last = get_last_error(comm);
  const std::string warning = last != nullptr ? detail::plain(last) : "";
  return get_error_string(result) + (warning.empty() ? "" : " (" + warning + ")");
}

}  // namespace tenon::relay
