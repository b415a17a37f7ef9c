// The TLS flags of `connect` and `listen`, and what they are in the contract.
//
//   ClientTlsFlags flags{.tls = true, .ca = "ca.crt", .alpn = "h2,http/1.1"};
//   absl::StatusOr<v1::TlsOptions> tls = MakeClientTls(flags, "example.org");
//
// A certificate is a PEM file of this machine, which is sent along, or `store:NAME`: what the
// broker has under that name in its --tls-store.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "sockbroker/v1/tls.pb.h"

namespace sockbroker::client {

struct ClientTlsFlags {
  bool tls = false;
  // A protocol that begins in clear; it means TLS too.
  std::string starttls;
  std::string ca;
  std::string certificate;
  // Empty: the key is in the certificate's file, or there is no certificate.
  std::string key;
  // SNI, and whom the certificate must be for; empty: neither.
  absl::optional<std::string> server_name;
  // Separated by commas.
  std::string alpn;
  bool insecure = false;

  bool enabled() const { return tls || !starttls.empty(); }
};

struct ServerTlsFlags {
  bool tls = false;
  std::string certificate;
  std::string key;
  // Who vouches for the clients, which must show a certificate then.
  std::string client_ca;
  std::string alpn;

  bool enabled() const { return tls; }
};

// `host`: whom the certificate must be for when the flags don't say; empty: there is no host, so
// they must.
//
// kInvalidArgument says what is missing or can't be read.
absl::StatusOr<v1::TlsOptions> MakeClientTls(const ClientTlsFlags& flags, absl::string_view host);
absl::StatusOr<v1::TlsOptions> MakeServerTls(const ServerTlsFlags& flags);

// kInvalidArgument when TLS was not asked for and a flag has no meaning without.
absl::Status CheckWithoutTls(const ClientTlsFlags& flags);
absl::Status CheckWithoutTls(const ServerTlsFlags& flags);

}  // namespace sockbroker::client
