#include "client/cpp/internal/endpoints.h"

#include <sys/socket.h>

#include <cstdint>

namespace sockbroker::client::internal {

streams::SocketAddress ToSocketAddress(const v1::Endpoint& endpoint) {
  if (endpoint.has_tcp()) {
    const auto address = streams::SocketAddress::FromIp(
        endpoint.tcp().host(), static_cast<uint16_t>(endpoint.tcp().port()));
    return address.ok() ? *address : streams::SocketAddress();
  }
  if (endpoint.has_unix()) {
    if (const auto address = streams::SocketAddress::FromUnixPath(endpoint.unix()); address.ok()) {
      return *address;
    }
    // An end without a name.
    const sockaddr unnamed{.sa_family = AF_UNIX, .sa_data = {}};
    return streams::SocketAddress::FromSockaddr(&unnamed, sizeof(sa_family_t));
  }
  return {};
}

streams::TlsInfo ToTlsInfo(const v1::TlsInfo& tls) {
  streams::TlsInfo info;
  info.version = tls.version();
  info.cipher = tls.cipher().name();
  info.cipher_bits = tls.cipher().bits();
  info.alpn = tls.alpn();
  info.server_name = tls.server_name();
  info.resumed = tls.resumed();
  for (const v1::Certificate& certificate : tls.peer_certificates()) {
    info.peer_certificates.push_back(certificate.der());
  }
  info.verify_code = tls.verify_code();
  info.verify_text = tls.verify_text();
  return info;
}

}  // namespace sockbroker::client::internal
