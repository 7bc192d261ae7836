// The NCCL engine of builds that have none.
#include <relay/engine.hpp>
#include <tenon/error.hpp>

namespace tenon::relay {

std::string why_no_nccl() {
  return "this build of Tenon relays host memory only: it was made without the CUDA toolkit or "
         "without nccl.h";
}

std::unique_ptr<Engine> make_nccl_engine(const Membership& /*membership*/, int /*device*/,
                                         const detail::Deadline& /*deadline*/) {
  throw Error(Errc::NoEngine, why_no_nccl());
}

}  // namespace tenon::relay
