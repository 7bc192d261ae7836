// Prometheus' text format, and a server for it.
#pragma once

#include <functional>
#include <string>
#include <tenon/inspect.hpp>
#include <vector>

namespace tenon::cli {

/// Publications as Prometheus reads them: text format 0.0.4.
[[nodiscard]] std::string metrics_text(const std::vector<PublicationInfo>& all);

/// Serves `text()` to whoever asks for /metrics at "HOST:PORT" or, on loopback, "PORT", until a
/// signal ends the process. Says where it listens on standard output. Requests are bounded: 8 KiB,
/// 5 s, 16 at a time. Throws Error(InvalidArgument) for an address that is none, SystemError when
/// it cannot listen.
void serve_metrics(const std::string& address, const std::function<std::string()>& text);

}  // namespace tenon::cli
