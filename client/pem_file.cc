#include "client/pem_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "streams/tls_context.h"

namespace sockbroker::client {

absl::StatusOr<std::string> ReadPemFile(absl::string_view option, const std::string& name) {
  errno = 0;
  std::ifstream file(name, std::ios::binary);
  if (!file.is_open()) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", name, ": ", std::strerror(errno)));
  }
  // Unlike an iterator, this does not throw when it is a directory.
  std::ostringstream bytes;
  bytes << file.rdbuf();
  std::string content = std::move(bytes).str();
  if (!absl::StrContains(content, "-----BEGIN ")) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", name, " is not a PEM file"));
  }
  return content;
}

absl::Status CheckRoots(absl::string_view option, const std::string& name, const std::string& pem) {
  streams::TlsContextOptions options;
  options.ca_pem = pem;
  const absl::Status status = streams::TlsContext::Create(std::move(options)).status();
  if (status.ok()) return status;
  absl::string_view reason = status.message();
  absl::ConsumePrefix(&reason, "ca: ");
  return absl::InvalidArgumentError(
      absl::StrContains(pem, "CERTIFICATE-----")
          ? absl::StrCat(option, ": ", name, " cannot be read: ", reason)
          : absl::StrCat(option, ": ", name, " holds no certificate"));
}

absl::Status CheckIdentity(const PemFile& certificate, const PemFile& key) {
  streams::TlsContextOptions options;
  options.verify = streams::TlsVerify::kNone;
  options.certificate_pem = certificate.pem;
  options.private_key_pem = key.pem;
  const absl::Status status = streams::TlsContext::Create(std::move(options)).status();
  if (status.ok()) return status;
  absl::string_view reason = status.message();
  const bool of_key = absl::ConsumePrefix(&reason, "private key: ");
  if (of_key && absl::StrContains(reason, "mismatch")) {
    return absl::InvalidArgumentError(absl::StrCat(
        key.option, ": ", key.name, " is not the key of the certificate in ", certificate.name));
  }
  if (!of_key && !absl::StrContains(certificate.pem, "CERTIFICATE-----")) {
    return absl::InvalidArgumentError(
        absl::StrCat(certificate.option, ": ", certificate.name, " holds no certificate"));
  }
  if (!absl::ConsumePrefix(&reason, "certificate: ")) {
    absl::ConsumePrefix(&reason, "certificate chain: ");
  }
  const PemFile& wrong = of_key ? key : certificate;
  return absl::InvalidArgumentError(
      absl::StrCat(wrong.option, ": ", wrong.name, " cannot be read: ", reason));
}

bool HasPrivateKey(absl::string_view pem) { return absl::StrContains(pem, "PRIVATE KEY-----"); }

bool HasEncryptedPrivateKey(absl::string_view pem) {
  return absl::StrContains(pem, "ENCRYPTED PRIVATE KEY-----") ||
         absl::StrContains(pem, "Proc-Type: 4,ENCRYPTED");
}

}  // namespace sockbroker::client
