// TlsInfo: what can be told of an established TLS connection. get_extra_info("ssl_object"),
// ("peercert"), ("cipher").
//
//   if (const TlsInfo* tls = writer.tls_info()) std::puts(tls->version.c_str());      // "TLSv1.3"
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sockbroker::streams {

// An X.509 certificate, as a person reads it.
struct CertificateText {
  std::string subject;  // RFC 2253: "CN=example.org,O=Example"
  std::string issuer;
  std::vector<std::string>
      subject_alt_names;  // "DNS:example.org", "IP:127.0.0.1", "URI:spiffe://..."
  absl::Time not_before;
  absl::Time not_after;
  std::string serial;              // hexadecimal
  std::string sha256_fingerprint;  // "AB:CD:..."
};
// No value: not a certificate in DER.
std::optional<CertificateText> ReadCertificate(absl::string_view der);

struct TlsInfo {
  std::string version;      // "TLSv1.3"
  std::string cipher;       // "TLS_AES_256_GCM_SHA384"
  int cipher_bits = 0;      // its secret bits
  std::string alpn;         // empty: none was agreed
  std::string server_name;  // SNI: what the client asked for; empty: none
  bool resumed = false;
  // The peer's certificate in DER, then the rest of what it sent; empty if it sent none.
  std::vector<std::string> peer_certificates;
  // X509_V_OK (0), or why an unverified certificate would have failed.
  int verify_code = 0;
  std::string verify_text = "ok";
};

}  // namespace sockbroker::streams
