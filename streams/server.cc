#include "streams/server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/gather.h"
#include "streams/internal/server_core.h"
#include "streams/internal/tls_setup.h"

namespace sockbroker::streams {

using internal::ServerCore;

std::vector<SocketAddress> Server::sockets() const { return core_->sockets(); }
bool Server::is_serving() const { return core_->serving(); }
bool Server::is_closed() const { return core_->closed(); }
Task<absl::Status> Server::StartServing() { return ServerCore::StartServing(core_); }
Task<absl::Status> Server::ServeForever() { return ServerCore::ServeForever(core_); }
void Server::Close() { core_->Close(); }
Task<absl::Status> Server::WaitClosed() { return ServerCore::WaitClosed(core_); }
std::size_t Server::CloseClients() { return core_->CloseClients(); }
std::size_t Server::AbortClients() { return core_->AbortClients(); }
Task<absl::StatusOr<Connection>> Server::Accept() { return ServerCore::Accept(core_); }
std::size_t Server::active_connections() const { return core_->active(); }
uint64_t Server::accepted_total() const { return core_->accepted_total(); }

namespace {

absl::Status BindError(int os_errno, const SocketAddress& address) {
  return ErrnoToStatus(
      os_errno, absl::StrCat("error while attempting to bind on address ", address.ToString()));
}

absl::Status CheckOptions(const ServerOptions& options) {
  // asyncio accepts these and then drops every connection, or never accepts one.
  if (options.stream.limit == 0) return absl::InvalidArgumentError("Limit cannot be <= 0");
  if (options.backlog < 1) return absl::InvalidArgumentError("backlog must be at least 1");
  return internal::CheckServerTls(options.tls);
}

// What socket() says when the machine lacks a family, rather than descriptors or memory.
bool IsOfTheFamily(int os_errno) {
  return os_errno == EAFNOSUPPORT || os_errno == EPROTONOSUPPORT || os_errno == ESOCKTNOSUPPORT ||
         os_errno == EINVAL;
}

// A bound TCP socket. kUnavailable with the errno; EAFNOSUPPORT when the machine lacks the family.
absl::StatusOr<Descriptor> BindTcp(const SocketAddress& address,
                                   const StartServerOptions& options) {
  Descriptor fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoToStatus(IsOfTheFamily(errno) ? EAFNOSUPPORT : errno, "socket");
  const int one = 1;
  const auto enable = [&](int level, int option) {
    return setsockopt(fd.get(), level, option, &one, sizeof(one)) == 0;
  };
  if (options.reuse_address) (void)enable(SOL_SOCKET, SO_REUSEADDR);
  if (options.reuse_port && !enable(SOL_SOCKET, SO_REUSEPORT)) {
    return ErrnoToStatus(errno, "reuse_port");
  }
  if (options.keep_alive) (void)enable(SOL_SOCKET, SO_KEEPALIVE);
  // So that "::" and "0.0.0.0" can be bound side by side.
  if (address.family() == AF_INET6) (void)enable(IPPROTO_IPV6, IPV6_V6ONLY);
  if (absl::Status status = options.socket.ApplyTo(fd.get()); !status.ok()) return status;
  if (bind(fd.get(), address.data(), address.size()) != 0) return BindError(errno, address);
  return fd;
}

Task<absl::StatusOr<std::vector<SocketAddress>>> ResolveHost(EventLoop* loop,
                                                             AddrInfoRequest request) {
  return loop->resolver().GetAddrInfo(std::move(request));
}

Task<absl::StatusOr<Server>> Finish(std::shared_ptr<ServerCore> core, bool start_serving) {
  Server server = ServerCore::MakeHandle(std::move(core));
  if (start_serving) {
    if (absl::Status status = co_await server.StartServing(); !status.ok()) {
      server.Close();
      co_return status;
    }
  }
  co_return server;
}

absl::Status CheckListenable(const Descriptor& sock, bool unix_only) {
  int type = 0;
  socklen_t size = sizeof(type);
  if (getsockopt(sock.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0) {
    return ErrnoToStatus(errno, "the adopted descriptor is not a socket");
  }
  if (unix_only && (type != SOCK_STREAM || !SocketAddress::OfLocal(sock.get()).is_unix())) {
    return absl::InvalidArgumentError("A UNIX Domain Stream Socket was expected");
  }
  if (type != SOCK_STREAM) return absl::InvalidArgumentError("A Stream Socket was expected");
  return absl::OkStatus();
}

// Removes a socket file at `path` behind which nobody answers. EADDRINUSE for a live one; anything
// else is left for bind() to refuse.
absl::Status RemoveStale(const SocketAddress& address) {
  struct stat file;
  const std::string path = address.unix_path();
  if (stat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode)) return absl::OkStatus();
  Descriptor probe(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe.valid()) return ErrnoToStatus(errno, "socket");
  if (connect(probe.get(), address.data(), address.size()) == 0 || errno != ECONNREFUSED) {
    return ErrnoToStatus(EADDRINUSE, absl::StrCat("Address '", path, "' is already in use"));
  }
  unlink(path.c_str());
  return absl::OkStatus();
}

}  // namespace

Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected,
                                         std::vector<std::string> hosts, Port port,
                                         StartServerOptions options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) co_return status;
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  if (hosts.empty()) hosts.emplace_back();
  std::vector<Task<absl::StatusOr<std::vector<SocketAddress>>>> lookups;
  for (const std::string& host : hosts) {
    AddrInfoRequest request;
    if (!host.empty()) request.host = host;
    request.port = port;
    request.family = options.family;
    request.flags = options.flags;
    lookups.push_back(ResolveHost(loop, std::move(request)));
  }
  std::vector<SocketAddress> addresses;
  for (auto& resolved : co_await GatherSettled(std::move(lookups))) {
    if (!resolved.ok()) co_return resolved.status();
    for (const SocketAddress& address : *resolved) {
      if (std::find(addresses.begin(), addresses.end(), address) == addresses.end()) {
        addresses.push_back(address);
      }
    }
  }

  auto core = std::make_shared<ServerCore>(loop, std::move(client_connected), options);
  std::vector<AttemptFailure> skipped;
  for (const SocketAddress& address : addresses) {
    absl::StatusOr<Descriptor> socket = BindTcp(address, options);
    if (socket.ok()) {
      core->AddListener(*std::move(socket), std::nullopt);
      continue;
    }
    const int os_errno = GetErrno(socket.status());
    if (os_errno == EAFNOSUPPORT) continue;
    AttemptFailure failure{address, os_errno, std::string(socket.status().message())};
    if (os_errno != EADDRNOTAVAIL) {
      core->Close();
      co_return AttemptsError({std::move(failure)});
    }
    skipped.push_back(std::move(failure));
  }
  if (core->sockets().empty()) {
    core->Close();
    if (skipped.empty()) {
      co_return absl::UnavailableError("could not bind on any address");
    }
    co_return AttemptsError(std::move(skipped));
  }
  co_return co_await Finish(std::move(core), options.start_serving);
}

Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected, std::string host,
                                         Port port, StartServerOptions options) {
  std::vector<std::string> hosts(1, std::move(host));
  return StartServer(std::move(client_connected), std::move(hosts), std::move(port),
                     std::move(options));
}

Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected,
                                         std::vector<Descriptor> socks,
                                         StartServerOptions options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) co_return status;
  if (socks.empty()) {
    co_return absl::InvalidArgumentError("Neither host/port nor sock were specified");
  }
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  auto core = std::make_shared<ServerCore>(loop, std::move(client_connected), options);
  for (Descriptor& sock : socks) {
    absl::Status status = CheckListenable(sock, /*unix_only=*/false);
    if (status.ok()) status = MakeNonBlocking(sock.get());
    if (!status.ok()) {
      core->Close();
      co_return status;
    }
    core->AddListener(std::move(sock), std::nullopt);
  }
  co_return co_await Finish(std::move(core), options.start_serving);
}

Task<absl::StatusOr<Server>> StartUnixServer(ClientConnected client_connected, std::string path,
                                             StartUnixServerOptions options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) co_return status;
  absl::StatusOr<SocketAddress> address = SocketAddress::FromUnixPath(path);
  if (!address.ok()) co_return address.status();
  const bool abstract = path[0] == '\0';
  if (!abstract) {
    if (absl::Status status = RemoveStale(*address); !status.ok()) {
      co_return AttemptsError({{*address, GetErrno(status), std::string(status.message())}});
    }
  }
  Descriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) co_return ErrnoToStatus(errno, "socket");
  // The bits that bind() gives the file; no moment in which more may connect than were asked.
  if (!abstract && options.mode.has_value()) {
    fchmod(fd.get(), static_cast<mode_t>(*options.mode));
  }
  if (bind(fd.get(), address->data(), address->size()) != 0) {
    const absl::Status error =
        errno == EADDRINUSE ? ErrnoToStatus(errno, absl::StrCat("Address '", address->ToString(),
                                                                "' is already in use"))
                            : BindError(errno, *address);
    co_return AttemptsError({{*address, GetErrno(error), std::string(error.message())}});
  }
  std::optional<std::string> unlink_path;
  if (!abstract) {
    if (options.mode.has_value()) chmod(path.c_str(), static_cast<mode_t>(*options.mode));
    if (options.cleanup_socket) unlink_path = path;
  }
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  auto core = std::make_shared<ServerCore>(loop, std::move(client_connected), options);
  core->AddListener(std::move(fd), std::move(unlink_path));
  co_return co_await Finish(std::move(core), options.start_serving);
}

Task<absl::StatusOr<Server>> StartUnixServer(ClientConnected client_connected, Descriptor sock,
                                             StartUnixServerOptions options) {
  absl::Status status = CheckOptions(options);
  if (status.ok()) status = CheckListenable(sock, /*unix_only=*/true);
  if (status.ok()) status = MakeNonBlocking(sock.get());
  if (!status.ok()) co_return status;
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  const std::string path = SocketAddress::OfLocal(sock.get()).unix_path();
  std::optional<std::string> unlink_path;
  if (options.cleanup_socket && !path.empty() && path[0] != '\0') unlink_path = path;
  auto core = std::make_shared<ServerCore>(loop, std::move(client_connected), options);
  core->AddListener(std::move(sock), std::move(unlink_path));
  co_return co_await Finish(std::move(core), options.start_serving);
}

}  // namespace sockbroker::streams
