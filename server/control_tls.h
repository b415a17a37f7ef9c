// ControlTls: mutual TLS on the broker's own listeners: who has no certificate of the right
// authority does not get in, and whose certificate names nobody gets no answer but that.
//
//   const ControlTlsFiles files = {"broker.crt", "broker.key", "clients.ca"};
//   if (absl::Status status = CheckControlTls(files); !status.ok()) return status;
//   builder.experimental().AddExternalConnectionAcceptor(..., MakeTlsCredentials(files));
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/status.h"

namespace sockbroker::server {

// PEM files. They are looked at every second; connections made after they changed get what is new,
// older ones stay as they are. While one is missing the last ones stay in use; while their contents
// are unusable, or the key is not the certificate's, nobody new gets in.
struct ControlTlsFiles {
  // The broker's own certificate, then its intermediates.
  std::string certificate;
  std::string key;
  // Who vouches for clients.
  std::string client_ca;
};

// Whether the broker could work with them as they are now; says which one is wrong and how.
absl::Status CheckControlTls(const ControlTlsFiles& files);

// Asks for a client certificate, demands it, and checks it against client_ca. Calls under one
// without a URI and a DNS name end with UNAUTHENTICATED.
std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const ControlTlsFiles& files);

}  // namespace sockbroker::server
