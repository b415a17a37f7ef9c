#include "streams/internal/tls_setup.h"

#include <utility>

#include "streams/error.h"
#include "streams/tls_engine.h"

namespace sockbroker::streams::internal {
namespace {

absl::Status CheckTimeouts(const TlsOptions& tls) {
  for (const auto& timeout : {tls.handshake_timeout, tls.shutdown_timeout}) {
    if (!timeout.has_value()) continue;
    if (tls.context == nullptr) {
      return absl::InvalidArgumentError("a TLS time-out is only meaningful with ssl");
    }
    if (*timeout <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError("a TLS time-out should be a positive number");
    }
  }
  return absl::OkStatus();
}

TlsStreamOptions StreamOptionsOf(const TlsOptions& tls) {
  TlsStreamOptions options;
  options.handshake_timeout = tls.handshake_timeout.value_or(options.handshake_timeout);
  options.shutdown_timeout = tls.shutdown_timeout.value_or(options.shutdown_timeout);
  options.allow_half_close = tls.allow_half_close;
  options.require_close_notify = tls.require_close_notify;
  return options;
}

}  // namespace

absl::Status CheckClientTls(const TlsOptions& tls, const std::optional<std::string>& host) {
  if (tls.context == nullptr && tls.server_hostname.has_value()) {
    return absl::InvalidArgumentError("server_hostname is only meaningful with ssl");
  }
  if (tls.context != nullptr && tls.context->side() != TlsSide::kClient) {
    return absl::InvalidArgumentError("the TLS context is a server's");
  }
  if (tls.context != nullptr && !tls.server_hostname.has_value() &&
      (!host.has_value() || host->empty())) {
    return absl::InvalidArgumentError("You must set server_hostname when using ssl without a host");
  }
  return CheckTimeouts(tls);
}

absl::Status CheckServerTls(const TlsOptions& tls) {
  if (tls.context != nullptr && tls.context->side() != TlsSide::kServer) {
    return absl::InvalidArgumentError("the TLS context is a client's");
  }
  if (tls.server_hostname.has_value()) {
    return absl::InvalidArgumentError("server_hostname is a client's");
  }
  return CheckTimeouts(tls);
}

Task<absl::StatusOr<Connection>> ConnectOver(EventLoop* loop, std::shared_ptr<ByteStream> stream,
                                             StreamOptions options, TlsOptions tls,
                                             std::optional<std::string> host) {
  if (tls.context == nullptr) co_return MakeConnection(loop, std::move(stream), options);
  absl::StatusOr<std::unique_ptr<TlsEngine>> engine = TlsEngine::Create(
      tls.context, tls.server_hostname.has_value() ? tls.server_hostname : std::move(host));
  if (!engine.ok()) co_return engine.status();
  auto protected_stream =
      TlsStream::Create(loop, std::move(stream), *std::move(engine), StreamOptionsOf(tls));
  absl::StatusOr<Connection> connection = MakeConnection(loop, protected_stream, options);
  if (!connection.ok()) co_return connection;
  absl::Status status = co_await TlsStream::WaitHandshake(std::move(protected_stream));
  if (!status.ok()) co_return status;
  co_return connection;
}

absl::StatusOr<std::shared_ptr<TlsStream>> ServerTlsOver(EventLoop* loop,
                                                         std::shared_ptr<ByteStream> stream,
                                                         const TlsOptions& tls) {
  absl::StatusOr<std::unique_ptr<TlsEngine>> engine = TlsEngine::Create(tls.context, std::nullopt);
  if (!engine.ok()) return engine.status();
  return TlsStream::Create(loop, std::move(stream), *std::move(engine), StreamOptionsOf(tls));
}

}  // namespace sockbroker::streams::internal
