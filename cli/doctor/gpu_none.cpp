// Of a build without CUDA: there is nobody to ask.
#include "gpus.hpp"

namespace tenon::cli::doctor {

Gpus ask_gpus(Duration) { return {}; }
void tell_of_gpus() {}
void open_handles() {}

}  // namespace tenon::cli::doctor
