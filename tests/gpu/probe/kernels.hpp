// What the probe has a GPU do.
#pragma once

#include <cuda_runtime_api.h>

namespace tenon::probe {

/// One thread that runs so long and counts up in `counter`, when there is one.
cudaError_t launch_spin(double ms, unsigned long long* counter, cudaStream_t stream);
/// Breaks the context: __trap().
cudaError_t launch_trap(cudaStream_t stream);
/// Breaks the context: a write to an address that is nowhere.
cudaError_t launch_illegal_write(cudaStream_t stream);

}  // namespace tenon::probe
