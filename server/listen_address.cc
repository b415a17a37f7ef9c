#include "server/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sockbroker::server {
namespace {

using streams::SocketAddress;

bool IsLoopback(const SocketAddress& address) {
  if (address.family() == AF_INET) {
    const auto* inet = reinterpret_cast<const sockaddr_in*>(address.data());
    return ntohl(inet->sin_addr.s_addr) >> 24 == 127;
  }
  if (address.family() == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address.data())->sin6_addr);
  }
  return false;
}

absl::StatusOr<ListenAddress> ParseUnix(absl::string_view path) {
  // gRPC's own spelling of an absolute path.
  if (absl::StartsWith(path, "//")) path.remove_prefix(2);
  if (path.empty())
    return absl::InvalidArgumentError("--listen unix: needs a path behind the colon");
  absl::StatusOr<SocketAddress> address = SocketAddress::FromUnixPath(path);
  if (!address.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen unix:", path, ": ", address.status().message()));
  }
  return ListenAddress{.address = *std::move(address)};
}

absl::StatusOr<ListenAddress> ParseTcp(absl::string_view text) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen ", text, ": ", why,
        "; it takes unix:PATH, 127.0.0.1:PORT, [::1]:PORT, localhost:PORT or fd:NAME"));
  };
  const std::size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return bad("no port");
  absl::string_view host = text.substr(0, colon);
  const absl::string_view port_text = text.substr(colon + 1);
  uint32_t port;
  if (port_text.empty() || port_text.find_first_not_of("0123456789") != absl::string_view::npos ||
      !absl::SimpleAtoi(port_text, &port) || port > 65535) {
    return bad("the port is not a number from 0 to 65535");
  }
  if (host == "localhost") host = "127.0.0.1";
  const bool bracketed = absl::ConsumePrefix(&host, "[");
  if (bracketed && !absl::ConsumeSuffix(&host, "]")) return bad("a bracket is missing");
  // No look-up: a name could mean another address tomorrow.
  absl::StatusOr<SocketAddress> address = SocketAddress::FromIp(host, static_cast<uint16_t>(port));
  if (!bracketed && ((address.ok() && address->family() == AF_INET6) ||
                     (absl::StrContains(host, ':') && SocketAddress::FromIp(text, 0).ok()))) {
    return bad("an IPv6 address needs brackets");
  }
  if (!address.ok() || bracketed != (address->family() == AF_INET6)) {
    return bad(absl::StrCat("'", host, "' is not an IP address"));
  }
  return ListenAddress{.address = *std::move(address)};
}

}  // namespace

absl::Status CheckListenAddress(const SocketAddress& address, const ListenPolicy& policy) {
  if (address.is_unix()) return absl::OkStatus();
  if (!address.is_ip()) {
    return absl::InvalidArgumentError(
        absl::StrCat("can't listen on ", address.ToString(), ": neither a Unix nor a TCP socket"));
  }
  if (policy.mutual_tls) return absl::OkStatus();
  if (!IsLoopback(address)) {
    return absl::PermissionDeniedError(absl::StrCat(
        "refusing to listen on ", address.ToString(),
        ": beyond loopback the broker must know its callers by mutual TLS (mTLS); set --tls-cert, "
        "--tls-key and --tls-client-ca, or listen on unix:PATH, or on 127.0.0.1 with "
        "--insecure-loopback"));
  }
  if (!policy.insecure_loopback) {
    return absl::PermissionDeniedError(absl::StrCat(
        "refusing to listen on ", address.ToString(),
        ": every local user could use the broker's rights through plain TCP; listen on unix:PATH, "
        "or set --tls-cert, --tls-key and --tls-client-ca (mTLS), or accept that with "
        "--insecure-loopback"));
  }
  return absl::OkStatus();
}

bool SpeaksTls(const SocketAddress& address, const ListenPolicy& policy) {
  if (!policy.mutual_tls || !address.is_ip()) return false;
  return !policy.insecure_loopback || !IsLoopback(address);
}

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text,
                                                 const ListenPolicy& policy) {
  if (absl::ConsumePrefix(&text, "fd:")) {
    if (text.empty())
      return absl::InvalidArgumentError("--listen fd: needs a name behind the colon");
    return ListenAddress{.inherited = std::string(text)};
  }
  absl::StatusOr<ListenAddress> parsed =
      absl::ConsumePrefix(&text, "unix:") ? ParseUnix(text) : ParseTcp(text);
  if (!parsed.ok()) return parsed;
  if (absl::Status status = CheckListenAddress(parsed->address, policy); !status.ok())
    return status;
  return parsed;
}

std::string ToString(const ListenAddress& address) {
  if (!address.inherited.empty()) return absl::StrCat("fd:", address.inherited);
  return absl::StrCat(address.address.is_unix() ? "unix:" : "", address.address.ToString());
}

absl::StatusOr<std::string> DefaultListenPath() {
  // Root's is one for the machine, whichever way root came in: the variable is set in a login's
  // shell and not in a service, and the two must meet.
  if (geteuid() == 0) return "/run/sockbroker/sockbroker.sock";
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");  // NOLINT(concurrency-mt-unsafe)
  if (runtime != nullptr && runtime[0] == '/') {
    return absl::StrCat(runtime, "/sockbroker/sockbroker.sock");
  }
  // What it is set to, where nobody has: in a job of cron's, say. The CLI looks there too.
  const std::string own = absl::StrCat("/run/user/", geteuid());
  struct stat directory;
  if (stat(own.c_str(), &directory) == 0 && S_ISDIR(directory.st_mode) &&
      directory.st_uid == geteuid()) {
    return absl::StrCat(own, "/sockbroker/sockbroker.sock");
  }
  return absl::NotFoundError(
      absl::StrCat("nowhere to listen: $XDG_RUNTIME_DIR is not set, and ", own,
                   " is no directory of this user; say where with --listen unix:PATH"));
}

}  // namespace sockbroker::server
