// Anything in the headers that is not inline is a duplicate symbol here.
#include <tenon/cuda.hpp>
#include <tenon/subscriber.hpp>

int release_behind(tenon::Lease& lease, cudaStream_t stream) {
  lease.release(stream);
  lease.release({stream, stream});
  return 0;
}
