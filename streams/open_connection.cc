#include "streams/open_connection.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/internal/happy_eyeballs.h"
#include "streams/internal/tls_setup.h"
#include "streams/sleep.h"
#include "streams/socket_stream.h"
#include "streams/wait_for.h"
#include "streams/wait_queue.h"

namespace sockbroker::streams {
namespace {

using CheckAddress = std::function<absl::Status(const SocketAddress&)>;

// Waits until a socket can be written to: how the end of a connect() is told.
class WritableWait final : private internal::PollHandler {
 public:
  WritableWait(EventLoop* loop, int fd)
      : loop_(loop), fd_(fd), registration_(loop->Register(fd, this)) {}
  ~WritableWait() {
    if (registration_.ok()) loop_->Deregister(fd_, *registration_);
  }
  WritableWait(const WritableWait&) = delete;
  WritableWait& operator=(const WritableWait&) = delete;

  Task<absl::Status> Wait() {
    if (!registration_.ok()) co_return registration_.status();
    while (!writable_) {
      if (absl::Status status = co_await woken_.Wait(); !status.ok()) co_return status;
    }
    co_return absl::OkStatus();
  }

 private:
  void OnPollEvents(uint32_t events) override {
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0) return;
    writable_ = true;
    woken_.WakeAll();
  }

  EventLoop* const loop_;
  const int fd_;
  bool writable_ = false;
  WaitQueue woken_;
  absl::StatusOr<internal::PollRegistration*> registration_;
};

absl::Status ConnectError(int os_errno, const SocketAddress& address) {
  return ErrnoToStatus(os_errno, absl::StrCat("Connect call failed ", address.ToString()));
}

// connect() without blocking the thread.
Task<absl::Status> ConnectSocket(EventLoop* loop, int fd, SocketAddress address) {
  absl::Duration retry = absl::Milliseconds(1);
  while (connect(fd, address.data(), address.size()) != 0) {
    if (errno == EINTR || errno == EINPROGRESS) {
      WritableWait wait(loop, fd);
      if (absl::Status status = co_await wait.Wait(); !status.ok()) co_return status;
      int error = 0;
      socklen_t size = sizeof(error);
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
      if (error != 0) co_return ConnectError(error, address);
      break;
    }
    if (errno != EAGAIN || !address.is_unix()) co_return ConnectError(errno, address);
    // A Unix server's backlog is full. The kernel tells nobody when there is room again.
    if (absl::Status status = co_await Sleep(retry); !status.ok()) co_return status;
    retry = std::min(2 * retry, absl::Milliseconds(50));
  }
  // The kernel can connect a socket to itself when the target is a free ephemeral port of this
  // machine: nobody listens.
  if (address.is_ip() && SocketAddress::OfLocal(fd) == SocketAddress::OfPeer(fd)) {
    co_return ConnectError(ECONNREFUSED, address);
  }
  co_return absl::OkStatus();
}

// Binds to the first local address that fits the family and can be bound.
absl::Status BindLocal(int fd, int family, const std::vector<SocketAddress>& candidates) {
  std::vector<AttemptFailure> failures;
  for (const SocketAddress& local : candidates) {
    if (local.family() != family) continue;
    if (bind(fd, local.data(), local.size()) == 0) return absl::OkStatus();
    const absl::Status error = ErrnoToStatus(
        errno, absl::StrCat("error while attempting to bind on address ", local.ToString()));
    failures.push_back({local, GetErrno(error), std::string(error.message())});
  }
  if (failures.empty()) {
    return absl::UnavailableError(absl::StrCat("no matching local address with family=", family));
  }
  return AttemptsError(std::move(failures));
}

Task<absl::StatusOr<Descriptor>> Dial(EventLoop* loop, const OpenConnectionOptions* options,
                                      SocketAddress address,
                                      const std::vector<SocketAddress>* local) {
  if (options->check_address) {
    if (absl::Status status = options->check_address(address); !status.ok()) co_return status;
  }
  Descriptor fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) co_return ErrnoToStatus(errno, "socket");
  absl::Status status = options->socket.ApplyTo(fd.get());
  if (status.ok() && options->local_addr.has_value()) {
    status = BindLocal(fd.get(), address.family(), *local);
  }
  if (status.ok()) status = co_await ConnectSocket(loop, fd.get(), address);
  if (!status.ok()) co_return status;
  co_return fd;
}

// A socket that is connected, or was adopted, as a stream.
absl::StatusOr<std::shared_ptr<SocketStream>> Adopt(EventLoop* loop, Descriptor fd,
                                                    const SocketOptions& socket) {
  absl::StatusOr<std::shared_ptr<SocketStream>> socket_stream =
      SocketStream::Create(loop, std::move(fd));
  if (!socket_stream.ok()) return socket_stream.status();
  // After Create: what the caller says about nodelay goes before asyncio's default.
  if (absl::Status status = socket.ApplyTo((*socket_stream)->fd()); !status.ok()) return status;
  return socket_stream;
}

absl::Status CheckLimit(const StreamOptions& stream) {
  if (stream.limit == 0) return absl::InvalidArgumentError("Limit cannot be <= 0");
  return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<SocketAddress>>> Resolve(EventLoop* loop, AddrInfoRequest request) {
  return loop->resolver().GetAddrInfo(std::move(request));
}

Task<absl::StatusOr<std::shared_ptr<SocketStream>>> OpenTcp(EventLoop* loop,
                                                            std::optional<std::string> host,
                                                            Port port,
                                                            const OpenConnectionOptions* options) {
  absl::StatusOr<std::vector<SocketAddress>> addresses = co_await Resolve(
      loop, AddrInfoRequest{std::move(host), std::move(port), options->family, options->flags});
  if (!addresses.ok()) co_return addresses.status();
  std::vector<SocketAddress> local;
  if (options->local_addr.has_value()) {
    const auto& [local_host, local_port] = *options->local_addr;
    AddrInfoRequest request{local_host, local_port, options->family, options->flags};
    if (local_host.empty()) {
      request.host.reset();
      request.flags |= AI_PASSIVE;
    }
    absl::StatusOr<std::vector<SocketAddress>> resolved =
        co_await Resolve(loop, std::move(request));
    if (!resolved.ok()) co_return resolved.status();
    local = *std::move(resolved);
  }
  const int interleave =
      options->interleave.value_or(options->happy_eyeballs_delay.has_value() ? 1 : 0);
  const std::vector<SocketAddress> order =
      interleave > 0
          ? internal::InterleaveFamilies(*addresses, static_cast<std::size_t>(interleave))
          : *std::move(addresses);

  internal::RaceResult<Descriptor> race = co_await internal::StaggeredRace<Descriptor>(
      order.size(),
      [loop, options, &order, &local](std::size_t i) {
        return Dial(loop, options, order[i], &local);
      },
      options->happy_eyeballs_delay);
  if (race.winner.has_value()) {
    co_return Adopt(loop, *std::move(race.winner), options->socket);
  }
  if (CancelToken token = co_await GetCancelToken(); token.cancelled()) co_return token.status();
  std::vector<AttemptFailure> failures;
  for (std::size_t i = 0; i < race.errors.size(); ++i) {
    const absl::Status& error = race.errors[i];
    // A refusal by the caller's own check is not the network's: it is said as it is.
    if (!absl::IsUnavailable(error)) co_return error;
    failures.push_back({order[i], GetErrno(error), std::string(error.message())});
  }
  co_return AttemptsError(std::move(failures));
}

Task<absl::StatusOr<std::shared_ptr<SocketStream>>> OpenUnix(
    EventLoop* loop, std::string path, const OpenUnixConnectionOptions* options) {
  absl::StatusOr<SocketAddress> address = SocketAddress::FromUnixPath(path);
  if (!address.ok()) co_return address.status();
  if (options->check_address) {
    if (absl::Status status = options->check_address(*address); !status.ok()) co_return status;
  }
  Descriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) co_return ErrnoToStatus(errno, "socket");
  if (absl::Status status = co_await ConnectSocket(loop, fd.get(), *address); !status.ok()) {
    const int os_errno = GetErrno(status);
    if (os_errno == 0) co_return status;
    co_return AttemptsError({{*address, os_errno, std::string(status.message())}});
  }
  co_return Adopt(loop, std::move(fd), options->socket);
}

// Runs `open` within the connect time-out, and says which time-out it was.
Task<absl::StatusOr<std::shared_ptr<SocketStream>>> WithConnectTimeout(
    Task<absl::StatusOr<std::shared_ptr<SocketStream>>> open, absl::Duration timeout) {
  absl::StatusOr<std::shared_ptr<SocketStream>> result = co_await WaitFor(std::move(open), timeout);
  const CancelToken token = co_await GetCancelToken();
  if (absl::IsDeadlineExceeded(result.status()) && !token.cancelled()) {
    co_return PhaseTimeoutError(
        "connect", absl::StrCat("not connected within ", absl::FormatDuration(timeout)));
  }
  co_return result;
}

absl::Status CheckAdopted(const Descriptor& sock, bool unix_only) {
  int type = 0;
  socklen_t size = sizeof(type);
  if (getsockopt(sock.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0) {
    return ErrnoToStatus(errno, "the adopted descriptor is not a socket");
  }
  const SocketAddress local = SocketAddress::OfLocal(sock.get());
  if (unix_only && (type != SOCK_STREAM || !local.is_unix())) {
    return absl::InvalidArgumentError("A UNIX Domain Stream Socket was expected");
  }
  if (type != SOCK_STREAM) return absl::InvalidArgumentError("A Stream Socket was expected");
  return absl::OkStatus();
}

Task<absl::StatusOr<Connection>> AdoptSocket(Descriptor sock, StreamOptions stream,
                                             SocketOptions socket, TlsOptions tls, bool unix_only) {
  absl::Status status = CheckLimit(stream);
  if (status.ok()) status = internal::CheckClientTls(tls, std::nullopt);
  if (status.ok()) status = CheckAdopted(sock, unix_only);
  if (!status.ok()) co_return status;
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  absl::StatusOr<std::shared_ptr<SocketStream>> adopted = Adopt(loop, std::move(sock), socket);
  if (!adopted.ok()) co_return adopted.status();
  co_return co_await internal::ConnectOver(loop, *std::move(adopted), stream, std::move(tls),
                                           std::nullopt);
}

}  // namespace

Task<absl::StatusOr<Connection>> OpenConnection(std::optional<std::string> host, Port port,
                                                OpenConnectionOptions options) {
  absl::Status status = CheckLimit(options.stream);
  if (status.ok()) status = internal::CheckClientTls(options.tls, host);
  if (!status.ok()) co_return status;
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  absl::StatusOr<std::shared_ptr<SocketStream>> connected = co_await WithConnectTimeout(
      OpenTcp(loop, host, std::move(port), &options), options.connect_timeout);
  if (!connected.ok()) co_return connected.status();
  co_return co_await internal::ConnectOver(loop, *std::move(connected), options.stream,
                                           std::move(options.tls), std::move(host));
}

Task<absl::StatusOr<Connection>> OpenConnection(Descriptor sock, OpenConnectionOptions options) {
  return AdoptSocket(std::move(sock), options.stream, std::move(options.socket),
                     std::move(options.tls), /*unix_only=*/false);
}

Task<absl::StatusOr<Connection>> OpenUnixConnection(std::string path,
                                                    OpenUnixConnectionOptions options) {
  absl::Status status = CheckLimit(options.stream);
  if (status.ok()) status = internal::CheckClientTls(options.tls, std::nullopt);
  if (!status.ok()) co_return status;
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  absl::StatusOr<std::shared_ptr<SocketStream>> connected = co_await WithConnectTimeout(
      OpenUnix(loop, std::move(path), &options), options.connect_timeout);
  if (!connected.ok()) co_return connected.status();
  co_return co_await internal::ConnectOver(loop, *std::move(connected), options.stream,
                                           std::move(options.tls), std::nullopt);
}

Task<absl::StatusOr<Connection>> OpenUnixConnection(Descriptor sock,
                                                    OpenUnixConnectionOptions options) {
  return AdoptSocket(std::move(sock), options.stream, std::move(options.socket),
                     std::move(options.tls), /*unix_only=*/true);
}

}  // namespace sockbroker::streams
