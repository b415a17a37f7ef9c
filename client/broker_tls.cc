#include "client/broker_tls.h"

#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/pem_file.h"

namespace sockbroker::client {
namespace {

// What a person typed, or exported.
struct Source {
  const char* option;
  const char* variable;
};
constexpr Source kCa = {"--broker-cacert", "SOCKBROKER_CACERT"};
constexpr Source kCertificate = {"--broker-cert", "SOCKBROKER_CERT"};
constexpr Source kKey = {"--broker-key", "SOCKBROKER_KEY"};

// Puts into `name` the variable's value if it is empty; the source's name for messages.
std::string Complete(const Source& source, std::string* name) {
  if (!name->empty()) return source.option;
  const char* value = std::getenv(source.variable);
  if (value != nullptr) *name = value;
  return source.variable;
}

absl::Status Read(const std::string& source, const std::string& name, std::string* content) {
  absl::StatusOr<std::string> pem = ReadPemFile(source, name);
  if (!pem.ok()) return pem.status();
  *content = *std::move(pem);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BrokerTls> BrokerTls::Choose(BrokerTlsFiles* files) {
  const std::string ca = Complete(kCa, &files->ca);
  const std::string certificate = Complete(kCertificate, &files->certificate);
  const std::string key = Complete(kKey, &files->key);
  if (files->ca.empty()) {
    if (certificate == kCertificate.option || key == kKey.option) {
      return absl::InvalidArgumentError(
          "--broker-cert and --broker-key need --broker-cacert too: who vouches for the broker");
    }
    return BrokerTls();
  }
  if (files->certificate.empty() != files->key.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(files->key.empty() ? certificate : key, " needs ",
                     files->key.empty() ? kKey.option : kCertificate.option, " too"));
  }
  BrokerTls tls;
  absl::Status status = Read(ca, files->ca, &tls.ca_);
  if (!files->certificate.empty()) {
    if (status.ok()) status = Read(certificate, files->certificate, &tls.certificate_);
    if (status.ok()) status = Read(key, files->key, &tls.key_);
  }
  if (status.ok()) status = CheckRoots(ca, files->ca, tls.ca_);
  if (status.ok() && !tls.certificate_.empty()) {
    status = CheckIdentity({certificate, files->certificate, tls.certificate_},
                           {key, files->key, tls.key_});
  }
  if (!status.ok()) return status;
  return tls;
}

}  // namespace sockbroker::client
