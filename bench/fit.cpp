#include "fit.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <tenon/model.hpp>
#include <tenon/plan.hpp>

#include "machine.hpp"

namespace tenon::bench {

std::vector<Parameter> fitting_model(const Options& options, std::uint64_t most,
                                     const std::string& limit, Report& report) {
  const auto fits = [&](const std::vector<Parameter>& parameters) {
    return plan(parameters).payload_bytes() <= most;
  };
  std::vector<Parameter> parameters = model_parameters(options.model, options.layers);
  if (fits(parameters)) return parameters;
  for (std::uint32_t layers = options.layers.value_or(256); layers > 0; --layers) {
    try {
      parameters = model_parameters(options.model, layers);
    } catch (const Error&) {
      continue;  // the model has fewer
    }
    if (!fits(parameters)) continue;
    report.note(fmt::format("{} is measured with {} layers only: at most {:.1f} GB, {}",
                            options.model, layers, static_cast<double>(most) / 1e9, limit));
    return parameters;
  }
  throw Error(Errc::OutOfSpace, fmt::format("one layer of {} is more than {:.1f} GB, {}",
                                            options.model, static_cast<double>(most) / 1e9, limit));
}

std::uint64_t room_for(double copies) {
  return static_cast<std::uint64_t>(
      std::min(0.85 * static_cast<double>(available_memory()) / copies,
               0.9 * static_cast<double>(available_shm())));
}

}  // namespace tenon::bench
