#include "streams/stream_writer.h"

#include <cerrno>
#include <tuple>
#include <utility>

#include "streams/error.h"
#include "streams/internal/stream_core.h"

namespace sockbroker::streams {

using internal::StreamCore;

// --- TransportSocket

int TransportSocket::fileno() const {
  const std::shared_ptr<StreamCore> core = core_.lock();
  return core == nullptr ? -1 : core->stream().fd();
}

SocketAddress TransportSocket::getsockname() const { return SocketAddress::OfLocal(fileno()); }
SocketAddress TransportSocket::getpeername() const { return SocketAddress::OfPeer(fileno()); }

absl::StatusOr<int> TransportSocket::getsockopt(int level, int option) const {
  int value = 0;
  socklen_t size = sizeof(value);
  if (::getsockopt(fileno(), level, option, &value, &size) != 0) {
    return ErrnoToStatus(errno, "getsockopt");
  }
  return value;
}

absl::Status TransportSocket::setsockopt(int level, int option, int value) const {
  if (::setsockopt(fileno(), level, option, &value, sizeof(value)) != 0) {
    return ErrnoToStatus(errno, "setsockopt");
  }
  return absl::OkStatus();
}

absl::Status TransportSocket::shutdown(int how) const {
  if (::shutdown(fileno(), how) != 0) return ErrnoToStatus(errno, "shutdown");
  return absl::OkStatus();
}

// --- StreamWriter

StreamWriter::StreamWriter(std::shared_ptr<internal::WriterHandle> handle)
    : handle_(std::move(handle)), core_(handle_->core.get()) {}

absl::Status StreamWriter::Write(absl::Cord data) { return core_->Write(std::move(data), "write"); }

absl::Status StreamWriter::WriteLines(std::vector<absl::Cord> lines) {
  absl::Cord all;
  for (absl::Cord& line : lines) all.Append(std::move(line));
  return core_->Write(std::move(all), "writelines");
}

Task<absl::Status> StreamWriter::Drain() { return StreamCore::Drain(handle_->core); }
bool StreamWriter::CanWriteEof() const { return core_->stream().CanWriteEof(); }
absl::Status StreamWriter::WriteEof() { return core_->WriteEof(); }
void StreamWriter::Close(bool discard_pending) { core_->Close(discard_pending); }
void StreamWriter::Abort() { core_->Abort(absl::OkStatus()); }
void StreamWriter::Abort(absl::Status reason) { core_->Abort(std::move(reason)); }
bool StreamWriter::IsClosing() const { return core_->lost() || core_->stream().is_closing(); }
Task<absl::Status> StreamWriter::WaitClosed() { return StreamCore::WaitClosed(handle_->core); }

Task<absl::Status> StreamWriter::StartTls(std::shared_ptr<const TlsContext> context,
                                          StartTlsOptions options) {
  return StreamCore::StartTls(handle_->core, std::move(context), std::move(options));
}
const TlsInfo* StreamWriter::tls_info() const { return core_->stream().tls_info(); }
bool StreamWriter::tls_truncated() const { return core_->stream().truncated(); }

std::any StreamWriter::GetExtraInfo(absl::string_view name) const {
  // An end that the kernel does not name (a socket that isn't connected) has no value, as asyncio's
  // None.
  if (name == "peername" && peername().family() != AF_UNSPEC) return peername();
  if (name == "sockname" && sockname().family() != AF_UNSPEC) return sockname();
  if (name == "socket") return socket();
  if (const TlsInfo* tls = tls_info(); tls != nullptr) {
    if (name == "ssl_object") return *tls;
    if (name == "cipher") return std::make_tuple(tls->cipher, tls->version, tls->cipher_bits);
    if (name == "peercert" && !tls->peer_certificates.empty()) return tls->peer_certificates[0];
  }
  return {};
}

const SocketAddress& StreamWriter::peername() const { return core_->stream().peername(); }
const SocketAddress& StreamWriter::sockname() const { return core_->stream().sockname(); }
TransportSocket StreamWriter::socket() const { return TransportSocket(core_->weak_from_this()); }

absl::Status StreamWriter::SetWriteBufferLimits(std::optional<int64_t> high,
                                                std::optional<int64_t> low) {
  if (!high.has_value()) {
    high = low.has_value() ? 4 * *low : static_cast<int64_t>(kDefaultHighWater);
  }
  if (!low.has_value()) low = *high / 4;
  if (!(*high >= *low && *low >= 0)) {
    return absl::InvalidArgumentError("high must be >= low must be >= 0");
  }
  core_->stream().SetWriteBufferLimits(static_cast<std::size_t>(*high),
                                       static_cast<std::size_t>(*low));
  return absl::OkStatus();
}

std::size_t StreamWriter::GetWriteBufferSize() const { return core_->stream().write_buffer_size(); }
uint64_t StreamWriter::bytes_flushed() const { return core_->stream().bytes_flushed(); }
bool StreamWriter::IsClosed() const { return core_->lost(); }
void StreamWriter::NotifyClosed(std::function<void()> callback) {
  core_->NotifyClosed(std::move(callback));
}
void StreamWriter::set_close_timeout(absl::Duration timeout) { core_->set_close_timeout(timeout); }
EventLoop* StreamWriter::loop() const { return core_->loop(); }

}  // namespace sockbroker::streams
