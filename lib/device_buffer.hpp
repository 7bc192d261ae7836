// Memory that Tenon itself needs on a device, and its twin that the host fills.
#pragma once

#include <cstdint>
#include <span>
#include <tenon/cuda.hpp>
#include <utility>

namespace tenon::device {

/// An array of T on a device and in page-locked host memory, allocated once.
/// Threads: one at a time. Destruction waits for the device, as freeing its memory does.
template <class T>
class Mirrored {
 public:
  Mirrored() = default;
  Mirrored(int device, std::size_t count) : device_(device) {
    const detail::cuda::DeviceScope scope(device);
    try {
      detail::cuda::check(cudaMalloc(reinterpret_cast<void**>(&on_device_), count * sizeof(T)),
                          "cudaMalloc of a table");
      detail::cuda::check(cudaHostAlloc(reinterpret_cast<void**>(&on_host_), count * sizeof(T),
                                        cudaHostAllocDefault),
                          "cudaHostAlloc of a table");
    } catch (...) {
      free();
      throw;
    }
  }
  Mirrored(Mirrored&& other) noexcept
      : device_(other.device_),
        on_device_(std::exchange(other.on_device_, nullptr)),
        on_host_(std::exchange(other.on_host_, nullptr)) {}
  Mirrored& operator=(Mirrored&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(on_device_, other.on_device_);
    std::swap(on_host_, other.on_host_);
    return *this;
  }
  ~Mirrored() { free(); }

  [[nodiscard]] T* device() const noexcept { return on_device_; }
  [[nodiscard]] T* host() const noexcept { return on_host_; }
  /// Elements [first, first + count) to the device; the host's must stay until that has run.
  void upload(std::size_t first, std::size_t count, cudaStream_t stream) {
    detail::cuda::check(cudaMemcpyAsync(on_device_ + first, on_host_ + first, count * sizeof(T),
                                        cudaMemcpyHostToDevice, stream),
                        "uploading a table");
  }
  void download(std::size_t first, std::size_t count, cudaStream_t stream) {
    detail::cuda::check(cudaMemcpyAsync(on_host_ + first, on_device_ + first, count * sizeof(T),
                                        cudaMemcpyDeviceToHost, stream),
                        "downloading a table");
  }

 private:
  void free() noexcept {
    if (on_device_ == nullptr) return;
    detail::cuda::give_back(device_, "cudaFree", [this] { return cudaFree(on_device_); });
    if (on_host_ == nullptr) return;
    detail::cuda::give_back(device_, "cudaFreeHost", [this] { return cudaFreeHost(on_host_); });
  }

  int device_ = 0;
  T* on_device_ = nullptr;
  T* on_host_ = nullptr;
};

}  // namespace tenon::device
