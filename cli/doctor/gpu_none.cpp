// Of a build without CUDA.
#include "../common.hpp"
#include "gpus.hpp"

namespace tenon::cli::doctor {

void tell_of_gpus() {
  print(Json{{"driver", 0}, {"runtime", 0}, {"gpus", Json::array()}, {"separate", Json::array()}}
            .dump() +
        "\n");
}
void open_handles() {}

}  // namespace tenon::cli::doctor
