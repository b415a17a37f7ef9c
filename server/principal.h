// Principal: who a call comes from, and what that alone forbids. Every handle belongs to one.
//
//   std::shared_ptr<const Principal> caller = PrincipalOf(*context, {.allow_all = false});
//   if (!caller->may_use_unix) return Denied(caller->rule, "...");
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace grpc {
class AuthContext;
class ServerContextBase;
}  // namespace grpc

namespace sockbroker::server {

struct Principal {
  // "unix", "insecure-loopback", "cert:" and a certificate's URI, "cert-dns:" and its DNS name. Two
  // callers with one name are one principal.
  std::string name;
  // Anything at all as a target or a server.
  bool may_open = true;
  // Unix sockets as targets or servers, and adopted descriptors: both would lend a caller the
  // broker's own rights.
  bool may_use_unix = false;
  bool may_adopt = false;
  // What to name when one of these is refused.
  std::string rule;
};

struct PrincipalOptions {
  // Callers with a certificate may open whatever the broker's own user could; else nothing.
  bool allow_all = false;
};

// Whoever came through the broker's Unix socket (or from inside its process) is its owner; through
// mutual TLS, who the certificate says; everyone else is "insecure-loopback", since plain TCP is
// only ever served there.
std::shared_ptr<const Principal> PrincipalOf(const grpc::ServerContextBase& context,
                                             const PrincipalOptions& options);

// Its parts: from ServerContext's peer() for callers without TLS, and for those with it.
std::shared_ptr<const Principal> PrincipalOfPeer(absl::string_view peer);
std::shared_ptr<const Principal> PrincipalOfCertificate(const grpc::AuthContext& certificate,
                                                        const PrincipalOptions& options);

// Whether the connection speaks TLS.
bool IsTls(const grpc::AuthContext& connection);

// A principal's name from the certificate: by its first URI among the subject alternative names,
// else by the first DNS name there. "" when it has neither: the subject, which nobody checks for
// uniqueness, names nobody.
std::string CertificateIdentity(const grpc::AuthContext& certificate);

}  // namespace sockbroker::server
