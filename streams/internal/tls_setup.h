// From TlsOptions, as OpenConnection and StartServer take them, to what TlsStream needs.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "streams/connection.h"
#include "streams/tls_stream.h"

namespace sockbroker::streams::internal {

// asyncio's rules for the arguments of a client (`host`: what is connected to, none for a path or
// an adopted socket), and of a server.
absl::Status CheckClientTls(const TlsOptions& tls, const std::optional<std::string>& host);
absl::Status CheckServerTls(const TlsOptions& tls);

// A reader and writer over `stream`: plain without a context; else TLS, with the handshake done. A
// failure has closed the stream. `tls` has been checked.
Task<absl::StatusOr<Connection>> ConnectOver(EventLoop* loop, std::shared_ptr<ByteStream> stream,
                                             StreamOptions options, TlsOptions tls,
                                             std::optional<std::string> host);

// `stream` with a server's TLS over it, not started.
absl::StatusOr<std::shared_ptr<TlsStream>> ServerTlsOver(EventLoop* loop,
                                                         std::shared_ptr<ByteStream> stream,
                                                         const TlsOptions& tls);

}  // namespace sockbroker::streams::internal
