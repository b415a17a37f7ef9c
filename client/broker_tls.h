// BrokerTls: how the program shows the broker who it is, when the way there is mutual TLS.
//
//   BrokerTlsFiles files = {.ca = "ca.crt", .certificate = "me.crt", .key = "me.key"};
//   absl::StatusOr<BrokerTls> tls = BrokerTls::Choose(&files);
//   if (tls->enabled()) ... grpc::SslCredentials({tls->ca(), tls->key(), tls->certificate()})
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace sockbroker::client {

// Names of PEM files.
struct BrokerTlsFiles {
  std::string ca;
  std::string certificate;
  std::string key;
};

class BrokerTls {
 public:
  // No TLS.
  BrokerTls() = default;
  // Reads the files; where a name is empty, $SOCKBROKER_CACERT, $SOCKBROKER_CERT or $SOCKBROKER_KEY
  // stands for it. No CA is no TLS. kInvalidArgument says what is missing or can't be read. `files`
  // is left with the names that were used.
  static absl::StatusOr<BrokerTls> Choose(BrokerTlsFiles* files);

  bool enabled() const { return !ca_.empty(); }
  // What the files hold.
  const std::string& ca() const { return ca_; }
  const std::string& certificate() const { return certificate_; }
  const std::string& key() const { return key_; }

 private:
  std::string ca_;
  std::string certificate_;
  std::string key_;
};

}  // namespace sockbroker::client
