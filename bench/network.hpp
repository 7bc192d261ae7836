// Nodes that are network namespaces of this machine, joined by veth: TCP between them goes the way
// it goes between machines, at a rate that can be chosen, and shares nothing with loopback.
#pragma once

#include <deque>
#include <string>
#include <tenon/error.hpp>

namespace tenon::bench {

/// A network namespace. Lifetime: it, and the devices in it, go with the last process that is in
/// it or has this open.
class Namespace {
 public:
  /// The one this process is in.
  Namespace();
  Namespace(const Namespace&) = delete;
  Namespace& operator=(const Namespace&) = delete;
  ~Namespace();
  /// Moves this process there, which has one thread.
  void enter() const;
  /// Where other processes find it.
  [[nodiscard]] std::string path() const;

 private:
  int fd_;
};

/// Two nodes with one cable, or more with a bridge between them. Making namespaces takes root;
/// without it, or without `ip` and `tc`, all nodes are this machine and talk over loopback.
///
/// Threads:  made while this process has one; forked children enter().
/// Lifetime: leaves nothing behind, however the processes end.
class Network {
 public:
  /// `rate` of each node's cable in each direction, as tc has it; "0": as fast as it goes.
  Network(int nodes, const std::string& rate);

  /// "veth 2gbit", "veth" or "loopback": said beside every figure.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Why it is loopback; empty when it is not.
  [[nodiscard]] const std::string& why_loopback() const noexcept { return why_loopback_; }
  [[nodiscard]] std::string address(int node) const;
  /// Makes this process one of node `node`'s.
  void enter(int node) const;

 private:
  void build(int nodes, const std::string& rate);

  std::deque<Namespace> nodes_;  // none: loopback
  std::string name_, why_loopback_;
};

}  // namespace tenon::bench
