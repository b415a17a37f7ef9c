#include "server/principal.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::server {
namespace {

// The first value that is not empty.
std::string First(const grpc::AuthContext& context, const char* property) {
  for (const grpc::string_ref& value : context.FindPropertyValues(property)) {
    if (!value.empty()) return std::string(value.data(), value.size());
  }
  return "";
}

}  // namespace

std::shared_ptr<const Principal> PrincipalOfPeer(absl::string_view peer) {
  static const auto* const owner = new std::shared_ptr<const Principal>(
      new Principal{.name = "unix", .may_use_unix = true, .may_adopt = true, .rule = ""});
  static const auto* const loopback = new std::shared_ptr<const Principal>(
      new Principal{.name = "insecure-loopback", .rule = "insecure-loopback"});
  if (absl::StartsWith(peer, "unix:") || absl::StartsWith(peer, "unix-abstract:") ||
      absl::StartsWith(peer, "inproc")) {
    return *owner;
  }
  return *loopback;
}

std::shared_ptr<const Principal> PrincipalOfCertificate(const grpc::AuthContext& certificate,
                                                        const PrincipalOptions& options) {
  auto principal = std::make_shared<Principal>();
  principal->name = CertificateIdentity(certificate);
  // Calls without an identity end before they get here (see control_tls.h); should one not, it gets
  // nothing.
  const bool allowed = options.allow_all && !principal->name.empty();
  principal->may_open = principal->may_use_unix = principal->may_adopt = allowed;
  if (!allowed) principal->rule = "no-policy";
  return principal;
}

std::shared_ptr<const Principal> PrincipalOf(const grpc::ServerContextBase& context,
                                             const PrincipalOptions& options) {
  const std::shared_ptr<const grpc::AuthContext> connection = context.auth_context();
  if (connection != nullptr && IsTls(*connection)) {
    return PrincipalOfCertificate(*connection, options);
  }
  return PrincipalOfPeer(context.peer());
}

bool IsTls(const grpc::AuthContext& connection) {
  const std::string type = First(connection, GRPC_TRANSPORT_SECURITY_TYPE_PROPERTY_NAME);
  return type == GRPC_TLS_TRANSPORT_SECURITY_TYPE || type == GRPC_SSL_TRANSPORT_SECURITY_TYPE;
}

std::string CertificateIdentity(const grpc::AuthContext& certificate) {
  if (const std::string uri = First(certificate, GRPC_PEER_URI_PROPERTY_NAME); !uri.empty()) {
    return absl::StrCat("cert:", uri);
  }
  if (const std::string name = First(certificate, GRPC_PEER_DNS_PROPERTY_NAME); !name.empty()) {
    return absl::StrCat("cert-dns:", name);
  }
  return "";
}

}  // namespace sockbroker::server
