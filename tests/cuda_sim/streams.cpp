#include "streams.hpp"

#include <algorithm>

namespace tenon::sim {

std::shared_ptr<Stream> Streams::start(Stream::Options options) {
  options.number = next_++;
  auto stream = Stream::start(options, pacing_);
  started_.erase(std::remove_if(started_.begin(), started_.end(),
                                [](const std::weak_ptr<Stream>& one) { return one.expired(); }),
                 started_.end());
  started_.push_back(stream);
  return stream;
}

cudaStream_t Streams::create(int device, bool blocking) {
  const std::lock_guard lock(mutex_);
  auto stream = start({.device = device, .blocking = blocking});
  const std::uintptr_t handle = 0x1000 + 16 * stream->options().number;
  created_[handle] = std::move(stream);
  return reinterpret_cast<cudaStream_t>(handle);
}

bool Streams::destroy(cudaStream_t handle) {
  const std::lock_guard lock(mutex_);
  const auto found = created_.find(reinterpret_cast<std::uintptr_t>(handle));
  if (found == created_.end()) return false;
  found->second->close();
  created_.erase(found);
  return true;
}

std::shared_ptr<Stream> Streams::find(cudaStream_t handle, int device) {
  const std::lock_guard lock(mutex_);
  if (handle == nullptr || handle == cudaStreamLegacy) {
    ++legacy_uses_;
    return legacy_locked(device);
  }
  if (handle == cudaStreamPerThread) {
    std::shared_ptr<Stream>& stream = per_thread_[{std::this_thread::get_id(), device}];
    if (stream == nullptr) stream = start({.device = device});
    return stream;
  }
  const auto found = created_.find(reinterpret_cast<std::uintptr_t>(handle));
  return found == created_.end() ? nullptr : found->second;
}

std::shared_ptr<Stream> Streams::legacy(int device) {
  const std::lock_guard lock(mutex_);
  return legacy_locked(device);
}

std::shared_ptr<Stream> Streams::legacy_locked(int device) {
  std::shared_ptr<Stream>& stream = legacy_[device];
  if (stream == nullptr) stream = start({.device = device, .legacy = true});
  return stream;
}

std::uint64_t Streams::submit(const std::shared_ptr<Stream>& stream, Stream::Kind kind,
                              Stream::Work work) {
  const Stream::Options& options = stream->options();
  const std::lock_guard lock(mutex_);
  Pending before;
  if (options.legacy) {
    for (const auto& other : all()) {
      if (other->options().device == options.device && other->options().blocking && other != stream)
        before.emplace_back(other, other->last());
    }
  } else if (options.blocking) {
    const auto found = legacy_.find(options.device);
    if (found != legacy_.end()) before.emplace_back(found->second, found->second->last());
  }
  if (before.empty()) return stream->submit(kind, std::move(work));
  // Its own item, so that a host function is not held up, or delayed, in the middle.
  stream->submit(Stream::Kind::device_work, [before = std::move(before)] {
    for (const auto& [other, ticket] : before) other->wait(ticket);
  });
  return stream->submit(kind, std::move(work));
}

void Streams::drain(int device) {
  Pending pending;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& stream : all()) {
      if (device < 0 || stream->options().device == device)
        pending.emplace_back(stream, stream->last());
    }
  }
  for (const auto& [stream, ticket] : pending) stream->wait(ticket);
}

std::vector<std::shared_ptr<Stream>> Streams::all() const {
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& one : started_) {
    if (auto stream = one.lock()) streams.push_back(std::move(stream));
  }
  return streams;
}

bool Streams::blocking_capture(int device) const {
  const std::lock_guard lock(mutex_);
  for (const auto& stream : all()) {
    if (stream->options().device == device && stream->options().blocking &&
        stream->capture != cudaStreamCaptureStatusNone)
      return true;
  }
  return false;
}

void Streams::wake() {
  const std::lock_guard lock(mutex_);
  for (const auto& stream : all()) stream->wake();
}

void Streams::close_all() {
  const std::lock_guard lock(mutex_);
  for (const auto& stream : all()) stream->close();
  created_.clear();
  legacy_.clear();
  per_thread_.clear();
}

}  // namespace tenon::sim
